"""PatchGAN against the official PyTorch code in training mode, and its limits."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_pictures import nhwc, official_discriminator, official_variables, quick_jit

from simvq_jax.discriminators.patch import PatchGAN


@pytest.fixture(scope="module")
def described(fixtures: Path) -> dict:
    return json.loads((fixtures / "A_image_small_keys.json").read_text())


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_logits_are_the_official_ones(fixtures: Path, described: dict, kind: str) -> None:
    """Batch norm on the batch's own statistics. Logits are of size 2; observed: 6e-6, float32 rounding."""
    with np.load(fixtures / "A_image_small_losses.npz") as stored:
        pictures, expected = nhwc(stored[f"{kind}0"]), nhwc(stored[f"logits_{kind}_train"])
    params = official_variables(described, "A.main").discriminator
    logits = quick_jit(official_discriminator(described).apply)({"params": params}, pictures)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize(("layers", "smallest"), [(1, 6), (2, 12), (3, 24), (4, 48)])
def test_the_smallest_picture_gives_one_logit_and_a_smaller_one_an_error(layers: int, smallest: int) -> None:
    network = PatchGAN(width=2, layers=layers)

    def logits(height: int, width: int):
        x = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        return jax.eval_shape(network.init_with_output, jax.random.key(0), x)[0]

    assert logits(smallest, smallest).shape == (1, 1, 1, 1)
    for sides in ((smallest - 1, 64), (64, smallest - 1)):
        with pytest.raises(ValueError, match=f"{sides[0]}x{sides[1]} picture but {layers} layers need {smallest} "):
            logits(*sides)


def test_logits_are_float32_under_bfloat16() -> None:
    x = jax.ShapeDtypeStruct((2, 24, 24, 3), jnp.float32)
    logits, variables = jax.eval_shape(PatchGAN(2, dtype=jnp.bfloat16).init_with_output, jax.random.key(0), x)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_initial_values_are_the_official_ones() -> None:
    """N(0, .02) for convolutions and N(1, .02) for batch norm scales; four standard errors of the deviation."""
    params = quick_jit(PatchGAN(16).init)(jax.random.key(0), jnp.zeros((1, 24, 24, 3)))["params"]
    for i in range(4):
        kernel = np.asarray(params[f"conv{i}"]["kernel"])
        np.testing.assert_allclose(kernel.std(), 0.02, rtol=4 / (2 * kernel.size) ** 0.5)
    scales = np.concatenate([np.asarray(params[f"norm{i}"]["scale"]) for i in range(1, 4)])
    np.testing.assert_allclose(scales.mean(), 1, atol=4 * 0.02 / scales.size**0.5)
    np.testing.assert_allclose(scales.std(), 0.02, rtol=4 / (2 * scales.size) ** 0.5)
    assert not any(np.any(params[f"norm{i}"]["bias"]) for i in range(1, 4))
