"""What a run starts from: codes that see as many tokens as they need, a device's share of a batch at a time."""

import jax
import numpy as np
import pytest
from tiny import tiny_config
from tiny_sound import tiny_sound_config

from simvq_jax import build, start
from simvq_jax.checkpoint import Checkpointer
from simvq_jax.data.sources import SkipLog
from simvq_jax.inputs import build_train_batches, first_examples, open_data
from simvq_jax.mesh import make_mesh
from simvq_jax.models.tokenizer import as_float
from simvq_jax.start import initial_state
from simvq_jax.state import inference_variables

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
@pytest.mark.slow
def test_codes_of_tokens_are_those_of_all_examples_however_many_are_encoded_at_once(kind):
    config = tiny_config(**SMALL, quantizer__codebook_size=20, **OF_TOKENS[kind])
    examples = as_float(np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8))
    whole, parts = (state_of(config, examples, at_once) for at_once in (None, 5))  # the last group is not full
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


@pytest.mark.slow
def test_more_codes_than_a_batch_has_tokens_start_from_several_batches(tmp_path, monkeypatch, capsys):
    """A batch has 512 tokens here, in two parts on eight devices, and 300 codes look at 1,200, of 75 examples."""
    monkeypatch.setattr(start, "MANY_CODES", 300)
    config = tiny_config(**SMALL, batch_size=32, accumulate=2, quantizer__codebook_size=300, **OF_TOKENS["vq"])
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    mesh = make_mesh(**config.mesh)
    with Checkpointer(tmp_path, 1) as checkpoints, jax.set_mesh(mesh):
        state = initial_state(config, networks, optimizers, checkpoints, mesh)
    assert "300 codes start from 1,200 tokens" in capsys.readouterr().err
    (codes,) = codes_of(config, state)
    np.testing.assert_allclose(
        codes, codes_of(config, state_of(config, as_float(first_examples(config, 75))))[0], atol=1e-4
    )
    assert np.abs(codes - codes_of(config, state_of(config, as_float(first_examples(config, 32))))[0]).max() > 0.01


@pytest.mark.slow
def test_codes_that_match_moments_alone_look_at_one_batch(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        start, "first_examples", lambda config, count: asked.append(count) or first_examples(config, count)
    )
    config = tiny_config(**SMALL)
    networks, optimizers, mesh = build.build_networks(config), build.build_optimizers(config), make_mesh(**config.mesh)
    with Checkpointer(tmp_path, 1) as checkpoints, jax.set_mesh(mesh):
        initial_state(config, networks, optimizers, checkpoints, mesh)
    assert asked == [config.batch_size]


def test_first_examples_are_those_of_training():
    config = tiny_config(**SMALL, batch_size=8)
    (batch,) = next(build_train_batches(config, open_data(config, "train", SkipLog(None)), 1)).values()
    np.testing.assert_array_equal(first_examples(config, 13)[8:], batch[:5])
