"""Every quantizer that a config can name: its fields, a training step, and the loop where that differs."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tiny import tiny_config

from simvq_jax import build, convert, load, train
from simvq_jax.api import ImageTokenizer
from simvq_jax.build.quantizers import QUANTIZERS
from simvq_jax.drawing.curves import read_metrics
from simvq_jax.mesh import make_mesh, state_sharding
from simvq_jax.state import inference_variables

KINDS = {
    "simvq": {"estimator": "rotation"},
    "vq": {"estimator": "dynamic"},
    "ema_vq": {"restart_after": 10.0},
    "factorized_vq": {"code_dim": 2},
    "moment_vq": {"beta": 0.5},
    "fsq": {"levels": (4, 4, 3, 2)},
    "lfq": {"codebook_size": 64},
}


def config_of(kind, **overrides):
    fields = {f"quantizer__{key}": value for key, value in {**KINDS[kind], **overrides}.items()}
    small = {"model__multipliers": (1, 1), "data__size": 8, "discriminator__enabled": False}
    return tiny_config(quantizer__kind=kind, steps=2, eval_every=2, checkpoint_every=1, **small, **fields)


def test_all_kinds_are_tested():
    assert KINDS.keys() == QUANTIZERS.keys()


@pytest.mark.slow
def test_codes_kept_among_the_statistics_train_resume_and_load(tmp_path):
    config = config_of("ema_vq")
    train.train(config, tmp_path / "run", stop_at=1)
    state = train.train(config, tmp_path / "run")
    assert int(state.step) == 2 and int(state.skipped) == 0
    assert 0 < read_metrics(tmp_path / "run").numbers["eval/codebook_utilization"][2] <= 1
    tokenizer = load(tmp_path / "run")
    np.testing.assert_array_equal(tokenizer.codebook(), state.codebook_stats["quantizer"]["codebook"])
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    indices = tokenizer.encode(x)
    out = tokenizer.autoencoder.apply(tokenizer.variables, x / np.float32(127.5) - 1)
    np.testing.assert_array_equal(indices, out.quantized.indices)
    np.testing.assert_allclose(tokenizer.decode(indices), out.reconstruction, atol=1e-5)


@pytest.mark.slow
def test_a_basis_whose_rows_are_replaced_trains_resumes_and_loads(tmp_path):
    """And is converted like a frozen one."""
    config = config_of("simvq", restart_after=0.2)
    begun = train.train(config, tmp_path / "run", stop_at=1).codebook_stats["quantizer"]
    state = train.train(config, tmp_path / "run")
    basis = state.codebook_stats["quantizer"]["basis"]
    assert np.any(basis != begun["basis"]) and np.all(np.isfinite(basis)) and not state.codebook
    np.testing.assert_array_equal(load(tmp_path / "run").variables["codebook_stats"]["quantizer"]["basis"], basis)
    convert.export(tmp_path / "run", tmp_path / "out.safetensors", "raw")
    untold = {"model.norm_groups": config.model.norm_groups}  # by the file
    restarting = {**untold, "quantizer.restart_after": 0.2}
    convert.convert(tmp_path / "out.safetensors", tmp_path / "back", overrides=restarting)
    np.testing.assert_array_equal(load(tmp_path / "back").variables["codebook_stats"]["quantizer"]["basis"], basis)
    convert.convert(tmp_path / "out.safetensors", tmp_path / "frozen", overrides=untold)
    np.testing.assert_array_equal(load(tmp_path / "frozen").variables["codebook"]["quantizer"]["basis"], basis)


@pytest.mark.slow
def test_a_basis_of_tokens_is_of_the_first_batches_and_resumes_and_loads(tmp_path):
    config = config_of("simvq", basis_init="tokens", codebook_size=300, restart_after=0.0)
    train.train(config, tmp_path / "run", stop_at=1)
    state = train.train(config, tmp_path / "run")
    basis = np.asarray(state.codebook["quantizer"]["basis"])
    assert int(state.step) == 2 and len(np.unique(basis, axis=0)) == 300
    other = np.asarray(build_basis(config_of("simvq", codebook_size=300, restart_after=0.0)))
    assert np.linalg.cond(basis) > 2 * np.linalg.cond(other)  # tokens' cloud is flat, a Gaussian's round
    np.testing.assert_array_equal(load(tmp_path / "run").variables["codebook"]["quantizer"]["basis"], basis)


def build_basis(config):
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    return build.build_state(config, networks, optimizers, jax.random.key(0)).codebook["quantizer"]["basis"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_kind_takes_a_training_step(kind):
    """Every parameter of the quantizer moves, its statistics count every token, and its indices decode to what the
    forward pass gives."""
    config = config_of(kind, codebook_loss="token") if kind == "simvq" else config_of(kind)
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    state = jax.jit(lambda key: build.build_state(config, networks, optimizers, key))(jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    after, figures = jax.jit(build.build_train_step(config, networks, optimizers))(state, images, {})
    assert int(after.skipped) == 0 and np.isfinite(figures["train/loss"])
    before = state.generator.params.get("quantizer", {})
    moved = jax.tree.map(lambda a, b: np.any(a != b), before, after.generator.params.get("quantizer", {}))
    assert all(jax.tree.leaves(moved))
    assert after.codebook_stats["quantizer"]["usage"].sum() == 4 * 16
    tokenizer = ImageTokenizer(networks.autoencoder, inference_variables(after), config, 1)
    reconstruction = tokenizer.reconstruct(images)
    np.testing.assert_array_equal(reconstruction, tokenizer.decode(tokenizer.encode(images)))
    out = jax.jit(networks.autoencoder.apply)(tokenizer.variables, images / np.float32(127.5) - 1)
    np.testing.assert_allclose(reconstruction, out.reconstruction, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_takes_its_fields_from_the_config(kind):
    config = config_of(kind)
    quantizer = build.build_quantizer(config, None)
    for field, value in KINDS[kind].items():
        assert getattr(quantizer, field) == value
    assert quantizer.codebook_size == config.quantizer.codebook_size


def test_levels_must_multiply_to_the_codebook_size():
    with pytest.raises(ValueError, match=r"quantizer.levels is \(4, 4\), 16 codes, but quantizer.codebook_size is 96"):
        build.build_quantizer(config_of("fsq", levels=(4, 4)), None)


def test_codes_of_running_means_are_split_over_the_codebook_axis():
    config = config_of("ema_vq")
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    shapes = build.state_shapes(config, networks, optimizers)
    stats = state_sharding(shapes, make_mesh(data=4, codebook=2)).codebook_stats["quantizer"]
    assert stats["codebook"].spec == stats["sums"].spec == PartitionSpec("codebook")
