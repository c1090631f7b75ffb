"""Fidelity of pictures, one figure a picture: the mean over a set is the mean of these.

Pictures are compared as 8-bit files would be: clipped to [-1, 1] and rounded (not truncated) to 256 levels.
"""

import jax
import jax.numpy as jnp

PSNR_CAP = 100.0  # dB, for identical pictures


def to_8_bit(x):
    """Float [-1, 1] -> the 256 levels 0..255, float32."""
    return jnp.round((jnp.clip(x.astype(jnp.float32), -1.0, 1.0) + 1.0) * 127.5)


def psnr(x, y):
    """Peak signal-to-noise ratio in dB. x, y: (b, h, w, c) float in [-1, 1] -> (b,)."""
    error = (to_8_bit(x) - to_8_bit(y)) / 255.0
    mse = jnp.mean(error**2, axis=(1, 2, 3))
    return -10.0 * jnp.log10(jnp.maximum(mse, 10 ** (-PSNR_CAP / 10)))


def ssim(x, y, *, window: int = 11, sigma: float = 1.5):
    """Structural similarity, Gaussian window, mean over positions and channels (Wang et al., 2004).

    x, y: (b, h, w, c) float in [-1, 1] -> (b,). Raises ValueError on pictures smaller than the window.
    """
    if min(x.shape[1:3]) < window:
        raise ValueError(f"SSIM got a {x.shape[1]}x{x.shape[2]} picture but its window needs {window} pixels a side.")
    x, y = to_8_bit(x), to_8_bit(y)
    smooth = _gaussian_filter(window, sigma)
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _gaussian_filter(window: int, sigma: float):
    offsets = jnp.arange(window) - (window - 1) / 2
    kernel = jnp.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / jnp.sum(kernel)

    def along(x, axis):
        # Weighted sums of shifted views: exact in float32 on any device, and fast for 11 taps.
        size = x.shape[axis] - window + 1
        views = [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(window)]
        return sum(kernel[i] * view for i, view in enumerate(views))

    return lambda x: along(along(x, 1), 2)
