"""PSNR and SSIM against numpy and scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from simvq_jax.metrics import image
from simvq_jax.metrics.image import PSNR_CAP, to_8_bit

psnr, ssim = jax.jit(image.psnr), jax.jit(image.ssim)

BORDER = 5  # half of the window of 11


def levels(x):
    """The 256 levels as a PNG file would hold them."""
    return np.round((np.clip(np.asarray(x), -1, 1) + 1) * np.float32(127.5)).astype(np.float64)


def pair(kind, shape=(3, 24, 31, 3)):
    """Two sets of pictures in [-1, 1] and slightly beyond."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.1, 1.1, shape)
    if kind == "smooth":
        x = np.sin(np.linspace(0, 9, shape[2]))[None, None, :, None] * np.linspace(0.3, 1, shape[1])[:, None, None]
        x = np.broadcast_to(x, shape)
    if kind == "white":
        x = np.full(shape, 0.99)
    y = rng.normal(size=shape) if kind == "unrelated" else x + 0.05 * rng.normal(size=shape)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


@pytest.mark.parametrize("kind", ["noise", "smooth", "white", "unrelated"])
def test_ssim_is_that_of_scikit_image_within_the_border(kind):
    x, y = pair(kind)
    expected = []
    for a, b in zip(levels(x), levels(y), strict=True):
        _, full = structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=-1,
            full=True,
        )
        expected.append(full[BORDER:-BORDER, BORDER:-BORDER].mean())
    np.testing.assert_allclose(ssim(x, y), expected, atol=2e-4)


@pytest.mark.parametrize("kind", ["noise", "smooth", "white", "unrelated"])
def test_psnr_is_one_figure_a_picture_on_rounded_levels(kind):
    x, y = pair(kind)
    mse = np.mean((levels(x) - levels(y)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(psnr(x, y), 10 * np.log10(255**2 / mse), rtol=1e-5)


def test_bytes_are_levels():
    levels = np.random.default_rng(0).integers(0, 256, (2, 2, 16, 16, 3)).astype(np.uint8)
    floats = levels.astype(np.float32) / 127.5 - 1
    for figure in (image.psnr, image.ssim):
        np.testing.assert_array_equal(figure(*levels), figure(*floats))


def test_identical_pictures_get_the_cap_and_one():
    x, _ = pair("noise")
    np.testing.assert_allclose(psnr(x, x), [PSNR_CAP] * 3, rtol=1e-6)
    np.testing.assert_allclose(ssim(x, x), 1.0, atol=1e-6)


def test_a_difference_below_half_a_level_is_none():
    """As in a file: what rounds to the same 8 bits is the same picture."""
    x = (jnp.arange(256.0) / 127.5 - 1).reshape(1, 16, 16, 1)
    np.testing.assert_allclose(psnr(x, x + 0.49 / 127.5), PSNR_CAP, rtol=1e-6)
    assert float(psnr(x, x + 0.51 / 127.5)[0]) < 50


def test_levels_are_clipped_and_rounded():
    x = jnp.array([-7.0, -1.0, 0.0, 0.9, 1.0, 2.0])
    np.testing.assert_array_equal(to_8_bit(x), [0, 0, 128, 242, 255, 255])


def test_uint8_levels_survive_the_way_to_floats_and_back():
    """All 256, none dropped by truncation."""
    x = np.arange(256).astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(to_8_bit(jnp.asarray(x)), np.arange(256))


@pytest.mark.parametrize("shape", [(1, 10, 40, 3), (1, 40, 10, 3)])
def test_ssim_refuses_pictures_smaller_than_its_window(shape):
    with pytest.raises(ValueError, match=f"SSIM got a {shape[1]}x{shape[2]} picture but its window needs 11 pixels"):
        ssim(jnp.zeros(shape), jnp.zeros(shape))


def test_ssim_takes_a_picture_of_just_the_window():
    x, y = pair("noise", (2, 11, 11, 3))
    assert ssim(x, y).shape == (2,)
    assert np.all(np.asarray(ssim(x, y)) < 1)


# The official figures


@pytest.fixture(scope="module")
def official(fixtures):
    with np.load(fixtures / "E_metrics.npz") as stored:
        return {name: stored[name] for name in stored if name.startswith(("pm_", "psnr", "ssim"))}


def test_official_figures_are_reproduced_under_their_own_names(official):
    """Cut off to 8 bits, PSNR of the whole batch, a flat window; beside ours, which is higher by decibels."""
    x, y = official["pm_img"], official["pm_rec"]
    errors = jax.jit(image.official_square_error)(x, y)
    np.testing.assert_allclose(image.decibels(errors.mean()), official["psnr_official_wholebatch_f64"], rtol=1e-5)
    np.testing.assert_allclose(image.decibels(errors), official["psnr_per_image_f64"], rtol=1e-5)
    np.testing.assert_allclose(jax.jit(image.official_ssim)(x, y), official["ssim_per_image_f64"], atol=2e-5)
    assert float(psnr(x, y).mean()) > 26 > 22 > float(image.decibels(errors.mean()))


def test_levels_of_bytes_are_lost_as_in_the_official_code(fixtures):
    with np.load(fixtures / "E_metrics.npz") as stored:
        kept = np.round(np.asarray(image._cut_off(np.arange(256, dtype=np.uint8))) * 255)
        np.testing.assert_array_equal(kept, stored["u8_roundtrip"])
    assert np.sum(kept != np.arange(256)) == 95
