"""The image tokenizer against the official PyTorch code: forward pass, gradients, shapes; and its own variants."""

import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_pictures import (
    by_official_name,
    checks,
    nhwc,
    official_autoencoder,
    official_variables,
    quick_jit,
)

from simvq_jax.models.cnn import Decoder, Encoder
from simvq_jax.models.layers import conv, depth_to_space
from simvq_jax.models.tokenizer import Autoencoder, Tokenized
from simvq_jax.official import Trees
from simvq_jax.quantize import SimVQ


@pytest.fixture(scope="module")
def described(fixtures: Path) -> dict:
    return json.loads((fixtures / "A_image_small_keys.json").read_text())


@pytest.fixture(scope="module")
def reference(fixtures: Path) -> dict[str, np.ndarray]:
    with np.load(fixtures / "A_image_small_eval.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def forward(described: dict):
    """(tag) -> the official weights of that tag run on the reference pictures; compiled once."""
    run = quick_jit(official_autoencoder(described).apply)

    def tokenized(tag: str, pictures: np.ndarray) -> Tokenized:
        weights = official_variables(described, tag)
        return run({"params": weights.params, "codebook": weights.codebook}, pictures)

    return tokenized


@pytest.fixture(scope="module")
def gradients(described: dict, reference: dict) -> tuple[float, dict[str, np.ndarray]]:
    """Loss, and every gradient under its official name, of mean |x - reconstruction| + quantizer loss."""
    weights, pictures = official_variables(described, "A.main"), nhwc(reference["x"])
    autoencoder = official_autoencoder(described)

    def loss(params):
        out = autoencoder.apply({"params": params, "codebook": weights.codebook}, pictures)
        return jnp.mean(jnp.abs(pictures - out.reconstruction)) + out.quantized.loss

    value, grads = quick_jit(jax.value_and_grad(loss))(weights.params)
    return float(value), by_official_name(described, Trees(grads, {}, {}))


@pytest.mark.parametrize(("tag", "suffix"), [("A.main", ""), ("A.ema", "_ema")])
def test_forward_is_the_official_one(forward, reference: dict, tag: str, suffix: str) -> None:
    """With the trained and with the averaged weights.

    Tolerances are three times the official code's own float32 error. No token is so near to a tie that rounding
    could decide it: the smallest margin of the squared distances (5 at most) is 2e-4.
    """
    out = forward(tag, nhwc(reference["x"]))
    np.testing.assert_allclose(out.latents, nhwc(reference[f"h{suffix}"]), rtol=0, atol=6e-6)
    np.testing.assert_allclose(out.reconstruction, nhwc(reference[f"rec{suffix}"]), rtol=0, atol=4e-6)
    np.testing.assert_array_equal(out.quantized.indices.ravel(), reference[f"indices{suffix}"])
    np.testing.assert_allclose(out.quantized.loss, reference[f"commit_loss{suffix}"], rtol=5e-6)
    if not suffix:
        np.testing.assert_allclose(out.quantized.z_q, nhwc(reference["z_q"]), rtol=0, atol=1e-6)


def test_decoding_the_indices_gives_the_same_reconstruction(described: dict, forward, reference: dict) -> None:
    """The official lookup leaves W out; ours must give what the forward pass gave, up to the order of rounding."""
    weights = official_variables(described, "A.main")
    variables = {"params": weights.params, "codebook": weights.codebook}
    indices = reference["indices"].reshape(4, 8, 8)
    decoded = quick_jit(lambda v, i: official_autoencoder(described).apply(v, i, method="decode"))(variables, indices)
    np.testing.assert_allclose(decoded, nhwc(reference["rec"]), rtol=0, atol=4e-6)


def test_gradients_are_the_official_ones(gradients: tuple, reference: dict) -> None:
    """The four that are stored whole, to 1e-5 of their largest value (observed: 6e-6)."""
    value, grads = gradients
    np.testing.assert_allclose(value, reference["loss_l1_plus_commit"], rtol=5e-6)
    for name in (key.removeprefix("grad.") for key in reference if key.startswith("grad.")):
        expected = reference[f"grad.{name}"]
        np.testing.assert_allclose(grads[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def test_every_gradient_has_the_official_checks(gradients: tuple, reference: dict) -> None:
    """All 149 tensors: mean, deviation, norm and first values, to 1e-4 of the root mean square (observed: 2e-5)."""
    _, grads = gradients
    assert set(grads) == set(reference["all_grad_keys"].tolist())
    for name, expected in zip(reference["all_grad_keys"].tolist(), reference["all_grad_checks"], strict=True):
        got, rms = checks(grads[name]), expected[2] / grads[name].size ** 0.5
        np.testing.assert_allclose(got[2], expected[2], rtol=5e-5, err_msg=name)
        np.testing.assert_allclose(np.delete(got, 2), np.delete(expected, 2), rtol=0, atol=1e-4 * rms, err_msg=name)


def test_depth_to_space_puts_the_block_first() -> None:
    """Pixel (2 i + row, 2 j + column) of channel c comes from channel (2 row + column) C + c at (i, j)."""
    x = jnp.arange(2 * 3 * 2 * 20).reshape(2, 3, 2, 20)
    y = depth_to_space(x)
    assert y.shape == (2, 6, 4, 5)
    for row in range(2):
        for column in range(2):
            first = (2 * row + column) * 5
            np.testing.assert_array_equal(y[:, row::2, column::2], x[..., first : first + 5])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (1, 2)])
def test_downsampling_pads_every_side(height: int, width: int) -> None:
    """A 3x3 stride-2 convolution starts one pixel outside at even sizes too, where "SAME" padding would not."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, 3)).astype(np.float32)
    layer = conv(4, 3, stride=2, use_bias=True, dtype=None)
    variables = layer.init(jax.random.key(0), x)
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = range(0, height, 2), range(0, width, 2)
    windows = np.array([[padded[:, i : i + 3, j : j + 3] for j in columns] for i in rows])
    expected = np.einsum("ijbklc,klcf->bijf", windows, kernel) + bias
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-5, atol=1e-5)


def test_sides_that_are_odd_come_back_rounded_up() -> None:
    """The encoder rounds each halving up; the decoder doubles what it gets."""
    fields = {"width": 8, "multipliers": (1, 2), "residual_blocks": 1, "norm_groups": 4}
    autoencoder = Autoencoder(Encoder(latent_channels=6, **fields), SimVQ(16, 6), Decoder(**fields))
    out, _ = jax.eval_shape(autoencoder.init_with_output, {"params": jax.random.key(0)}, jnp.zeros((1, 7, 9, 3)))
    assert out.latents.shape == (1, 4, 5, 6)
    assert out.quantized.indices.shape == (1, 4, 5)
    assert out.reconstruction.shape == (1, 8, 10, 3)


@pytest.mark.parametrize("network", [Encoder, Decoder])
def test_remat_gives_the_same_gradients(network: type[nn.Module]) -> None:
    """On against off, to rounding: the compiler may fuse the two programs differently."""
    fields = {"width": 4, "multipliers": (1,), "residual_blocks": 1, "norm_groups": 2}
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3), minval=-1.0)
    variables = quick_jit(network(**fields).init)(jax.random.key(0), x)

    def gradient(remat: bool):
        return jax.grad(lambda v: jnp.mean(network(**fields, remat=remat).apply(v, x) ** 2))

    recomputed_blocks = [str(jax.make_jaxpr(gradient(remat))(variables)).count("remat") for remat in (False, True)]
    assert recomputed_blocks[0] == 0 < recomputed_blocks[1]
    expected, got = (quick_jit(gradient(remat))(variables) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-7), expected, got)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(got))


def test_bfloat16_stays_near(described: dict, reference: dict) -> None:
    """bfloat16 keeps 8 bits: latents of size 1 err by some 1e-2 (observed: 0.017 at worst, 0.003 on average)."""
    weights = official_variables(described, "A.main")
    autoencoder = official_autoencoder(described, dtype=jnp.bfloat16)
    variables = {"params": weights.params, "codebook": weights.codebook}
    out = quick_jit(autoencoder.apply)(variables, nhwc(reference["x"]))
    assert out.latents.dtype == out.features.dtype == jnp.bfloat16
    assert out.reconstruction.dtype == out.quantized.loss.dtype == jnp.float32
    np.testing.assert_allclose(out.latents.astype(jnp.float32), nhwc(reference["h"]), rtol=0, atol=0.05)
    agreeing = np.mean(out.quantized.indices.ravel() == reference["indices"])
    assert agreeing > 0.9, agreeing
    # A token that took another code changes its patch altogether, so only the mean can be held to.
    assert np.mean(np.abs(out.reconstruction - nhwc(reference["rec"]))) < 0.1


@pytest.mark.parametrize("module", [Encoder, Decoder])
@pytest.mark.parametrize(("width", "multipliers"), [(48, (1, 2)), (32, (1, 0)), (0, (1,))])
def test_widths_must_fit_the_norm_groups(module: type[nn.Module], width: int, multipliers: tuple) -> None:
    network = module(width=width, multipliers=multipliers)
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"norm_groups = 32: change model\.width") as error:
        jax.eval_shape(network.init, jax.random.key(0), x)
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and ". " not in text
