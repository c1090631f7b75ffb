"""Fidelity of pictures, one figure a picture: the mean over a set is the mean of these.

Pictures are compared as 8-bit files would be: clipped to [-1, 1] and rounded (not truncated) to 256 levels.
"""

import jax
import jax.numpy as jnp
import numpy as np

PSNR_CAP = 100.0  # dB, for identical pictures
OFFICIAL_WINDOW = 7


def to_8_bit(x):
    """Float [-1, 1], or uint8, which are levels already -> the 256 levels 0..255, float32."""
    if x.dtype == jnp.uint8:
        return jnp.asarray(x, jnp.float32)
    return jnp.round((jnp.clip(x.astype(jnp.float32), -1.0, 1.0) + 1.0) * 127.5)


def psnr(x, y):
    """Peak signal-to-noise ratio in dB. x, y: (b, h, w, c), floats in [-1, 1] or uint8 -> (b,)."""
    return decibels(jnp.mean(((to_8_bit(x) - to_8_bit(y)) / 255.0) ** 2, axis=(1, 2, 3)))


def decibels(square_error):
    """PSNR of a mean square error of values in [0, 1], at most PSNR_CAP."""
    return -10.0 * jnp.log10(jnp.maximum(square_error, 10 ** (-PSNR_CAP / 10)))


def ssim(x, y, *, window: int = 11, sigma: float = 1.5):
    """Structural similarity, Gaussian window, mean over positions and channels (Wang et al., 2004).

    x, y: (b, h, w, c), floats in [-1, 1] or uint8 -> (b,). Raises ValueError on pictures smaller than the window.
    """
    offsets = jnp.arange(window) - (window - 1) / 2
    weights = jnp.exp(-(offsets**2) / (2 * sigma**2))
    return _similarity(to_8_bit(x) / 255.0, to_8_bit(y) / 255.0, weights / jnp.sum(weights))


# As the official SimVQ evaluates: 8-bit levels cut off instead of rounded, scikit-image's defaults


def official_square_error(x, y):
    """Mean square error of levels in [0, 1]: (b,). The official PSNR is `decibels` of its mean over a whole batch.

    x, y: (b, h, w, c), floats in [-1, 1], or uint8 as the official code would turn them to floats.
    """
    return jnp.mean((_cut_off(x) - _cut_off(y)) ** 2, axis=(1, 2, 3))


def official_ssim(x, y):
    """SSIM by a flat window of 7 x 7 and sample covariances: (b,); x, y as above."""
    window = OFFICIAL_WINDOW
    samples = window**2
    flat = jnp.full((window,), 1 / window)
    return _similarity(_cut_off(x), _cut_off(y), flat, unbias=samples / (samples - 1))


def _cut_off(x):
    if x.dtype == jnp.uint8:
        return jnp.asarray(_KEPT_LEVELS)[x] / 255.0
    return jnp.floor((jnp.clip(x.astype(jnp.float32), -1.0, 1.0) + 1.0) / 2.0 * 255.0) / 255.0


# What is left of each level on its way to floats and back; 95 fall to the one below. Not in jax, whose compiler rounds
# such a chain once instead of at every step.
_LEVELS = (np.arange(256) / 127.5 - 1).astype(np.float32)
_KEPT_LEVELS = np.floor((_LEVELS + np.float32(1)) / np.float32(2) * np.float32(255))


def _similarity(x, y, weights, unbias: float = 1.0):
    """x, y: (b, h, w, c) in [0, 1]; weights: (n,) of the window, along either axis. unbias: factor of variances."""
    window = len(weights)
    if min(x.shape[1:3]) < window:
        raise ValueError(f"SSIM got a {x.shape[1]}x{x.shape[2]} picture but its window needs {window} pixels a side.")
    smooth = _filter(weights)
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = (unbias * (smooth(z * z) - mean**2) for z, mean in ((x, mean_x), (y, mean_y)))
    covariance = unbias * (smooth(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _filter(weights):
    def along(x, axis):
        # Weighted sums of shifted views: exact in float32 on any device, and fast for so few taps.
        size = x.shape[axis] - len(weights) + 1
        views = [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(len(weights))]
        return sum(weights[i] * view for i, view in enumerate(views))

    return lambda x: along(along(x, 1), 2)
