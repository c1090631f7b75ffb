"""What a run starts from: codes that see as many tokens as they need, a device's share of a batch at a time."""

import jax
import numpy as np
import pytest
from tiny import tiny_config
from tiny_sound import tiny_sound_config

from simvq_jax import build
from simvq_jax.checkpoint import Checkpointer
from simvq_jax.inputs import first_examples
from simvq_jax.mesh import make_mesh
from simvq_jax.start import initial_state
from simvq_jax.state import inference_variables
from simvq_jax.step import as_float

SMALL = {"model__multipliers": (1, 1), "data__size": 8, "discriminator__enabled": False}
OF_TOKENS = {
    "vq": {"quantizer__kind": "vq", "quantizer__codebook_init": "kmeans"},
    "simvq": {"quantizer__basis_init": "tokens", "quantizer__restart_after": 0.0},
    "residual": {"quantizer__kind": "vq", "quantizer__codebook_init": "kmeans", "quantizer__stages": 2},
}


def state_of(config, examples, at_once=None):
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    init = jax.jit(lambda key, x: build.build_state(config, networks, optimizers, key, x, at_once))
    return init(jax.random.key(0), examples)


def codes_of(config, state):
    """(stages, K, d)"""
    autoencoder = build.build_networks(config).autoencoder
    codes = autoencoder.apply(inference_variables(state), method="codebook")
    return np.stack(codes if isinstance(codes, tuple) else [codes])


@pytest.mark.parametrize("kind", OF_TOKENS)
def test_codes_of_tokens_are_those_of_all_examples_however_many_are_encoded_at_once(kind):
    config = tiny_config(**SMALL, quantizer__codebook_size=20, **OF_TOKENS[kind])
    examples = as_float(np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8))
    whole, parts = (state_of(config, examples, at_once) for at_once in (None, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), whole.generator, parts.generator)
    np.testing.assert_allclose(codes_of(config, whole), codes_of(config, parts), atol=1e-4)
    first = codes_of(config, state_of(config, examples[:4]))
    assert np.abs(first - codes_of(config, parts)).max() > 0.01


@pytest.mark.slow
def test_recordings_are_encoded_in_groups_too():
    config = tiny_sound_config(quantizer__kind="vq", quantizer__codebook_init="kmeans", quantizer__codebook_size=20)
    clips = np.random.default_rng(0).normal(size=(6, *build.example_shape(config))).astype(np.float32) / 10
    whole, parts = (codes_of(config, state_of(config, clips, at_once)) for at_once in (None, 2))
    np.testing.assert_allclose(whole, parts, atol=1e-4)


def test_examples_that_do_not_fill_the_groups_are_an_error():
    config = tiny_config(**SMALL)
    with pytest.raises(ValueError, match="6 examples cannot go 4 at a time"):
        state_of(config, np.zeros((6, 8, 8, 3), np.float32), at_once=4)


def test_more_codes_than_a_batch_has_tokens_start_from_several_batches(tmp_path):
    """A batch has 64 tokens here. Codes of that batch alone leave twice as much of later ones."""
    config = tiny_config(**SMALL, batch_size=4, quantizer__codebook_size=300, **OF_TOKENS["vq"])
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    mesh = make_mesh(**config.mesh)
    with Checkpointer(tmp_path, 1) as checkpoints, jax.set_mesh(mesh):
        state = initial_state(config, networks, optimizers, checkpoints, mesh)
    seen = as_float(first_examples(config, 20))
    variables = inference_variables(state)
    latents, _ = networks.autoencoder.apply(variables, seen, method="encode")
    tokens = np.reshape(latents, (-1, config.quantizer.dim))

    def left(codes):
        return np.mean(np.min(np.sum((tokens[:, None] - codes[None]) ** 2, axis=-1), axis=1))

    assert left(codes_of(config, state)[0]) < 0.6 * left(codes_of(config, state_of(config, seen[:4]))[0])
