"""Spectra of sound: the short-time Fourier transform, its inverse, and mel, as torch and torchaudio define them.

Arrays: x: (..., samples); spectra: (..., frames, bins), bins = n_fft / 2 + 1. Everything is float32 or complex64,
whatever the models compute in: a logarithm of bfloat16 magnitudes would be noise.
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FLOOR = 1e-7  # of magnitudes, before their logarithm
SMALLEST_WEIGHT = 1e-11  # sum of squares of the windows over a sample


def hann(length: int) -> np.ndarray:
    """The periodic Hann window: float32 (length,)."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def stft(x, n_fft: int, hop: int, window=None, lengths=None):
    """Centred short-time Fourier transform, the ends reflected: complex64 (..., samples // hop + 1, bins).

    window: (n_fft,), None = rectangular. lengths: int32 (...), samples that count, each more than n_fft / 2: the end is
    then each item's own, and its first lengths // hop + 1 frames count. Raises ValueError if there are too few samples
    to reflect n_fft / 2 of them.
    """
    check_hop(n_fft, hop)
    half = n_fft // 2
    if x.shape[-1] <= half:
        raise ValueError(f"x has {x.shape[-1]} samples but must have more than n_fft / 2 = {half}: pad it.")
    x = x.astype(jnp.float32)
    if lengths is None:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(half, half)], mode="reflect")
    else:
        flat = reflect(x.reshape(-1, x.shape[-1], 1), half, half, lengths.reshape(-1))
        x = flat.reshape(*x.shape[:-1], -1)
    windows = frames(x, n_fft, hop)
    if window is not None:
        windows = windows * jnp.asarray(window).reshape((1,) * x.ndim + (n_fft,))
    return jnp.fft.rfft(windows)


def frames(x, length: int, hop: int):
    """Windows of x, one each `hop` samples: (..., samples) -> (..., (samples - length) // hop + 1, length).

    Put together from shifted views, whose gradient is a few sums; that of a gather would be a scatter.
    """
    count = (x.shape[-1] - length) // hop + 1
    block = math.gcd(length, hop)
    step = hop // block
    blocks = x[..., : x.shape[-1] // block * block].reshape(*x.shape[:-1], -1, block)
    views = [blocks[..., i : i + (count - 1) * step + 1 : step, :] for i in range(length // block)]
    return jnp.concatenate(views, axis=-1)


def istft(spectrum, n_fft: int, hop: int, window, *, centred: bool, lengths=None):
    """Inverse of `stft`: float32 (..., samples), by overlapping windows divided by the sum of their squares.

    centred: undo `stft`, frames * hop - hop samples; else frames * hop of them, each frame in the middle of its window
    ("same" padding of Vocos, 2306.00814). lengths: int32 (...), frames that count; what is behind them is 0.
    Raises ValueError if hop does not divide n_fft, or the windows leave a gap.
    """
    check_hop(n_fft, hop)
    if n_fft % hop:
        raise ValueError(f"hop is {hop} but must divide n_fft = {n_fft} for the inverse: change one.")
    window = np.asarray(window, np.float32)
    trim = n_fft // 2 if centred else (n_fft - hop) // 2
    count = spectrum.shape[-2]
    kept = slice(trim, trim + count * hop - (hop if centred else 0))
    xp: Any = np if isinstance(count, int) else jnp  # a symbolic number of frames has no values to look at
    whole = _overlap_add(xp.broadcast_to(window**2, (count, n_fft)), hop, xp)[kept]
    if xp is np and whole.size and whole.min() < SMALLEST_WEIGHT:
        raise ValueError(f"windows of {n_fft} each {hop} samples leave a gap: choose a smaller hop.")
    flat = (1,) * (spectrum.ndim - 2)
    windows = jnp.fft.irfft(spectrum, n_fft) * jnp.asarray(window).reshape(*flat, 1, n_fft)
    if lengths is None:
        return _overlap_add(windows, hop, jnp)[..., kept] / jnp.asarray(whole).reshape(*flat, -1)
    counts = before(lengths, count)[..., None]
    weight = _overlap_add(jnp.where(counts, (window**2).reshape(*flat, 1, n_fft), 0.0), hop, jnp)[..., kept]
    y = _overlap_add(jnp.where(counts, windows, 0.0), hop, jnp)[..., kept]
    ends = before(jnp.asarray(lengths) * hop - (hop if centred else 0), y.shape[-1])
    return jnp.where(ends, y / jnp.maximum(weight, SMALLEST_WEIGHT), 0.0)


def reflect(x, left: int, right: int, lengths=None, stride: int = 1):
    """Pads by reflection at both ends: (b, samples, c) -> (b, left + samples + right, c).

    Where there are not enough samples to reflect, they are first continued by zeros, as in EnCodec. With `lengths` the
    end is that of each item, and its fill-up to a multiple of `stride` its own; behind all that is 0.
    """
    samples = x.shape[1]
    if lengths is None:
        short = max(0, max(left, right) - samples + 1)  # in this order it is known of symbolic samples too
        x = jnp.pad(x, ((0, 0), (0, short), (0, 0)))
        return jnp.pad(x, ((0, 0), (left, right), (0, 0)), mode="reflect")[:, : left + samples + right]
    place = jnp.arange(left + samples + right)[None] - left
    fill = (-lengths % stride)[:, None]
    of_right = right - (-samples % stride) + fill  # what this item has behind its end
    last = jnp.maximum(lengths[:, None] - 1, jnp.maximum(left, of_right))
    source = jnp.abs(place)
    source = jnp.where(source > last, 2 * last - source, source)
    counts = (place < lengths[:, None] + of_right) & (source >= 0) & (source < samples)
    taken = jnp.take_along_axis(x, jnp.clip(source, 0, samples - 1)[..., None], axis=1)
    return jnp.where(counts[..., None], taken, 0.0)


def before(lengths, size: int):
    """Which of `size` places lie before each length: (...) -> bool (..., size)."""
    lengths = jnp.asarray(lengths)
    return jnp.arange(size).reshape((1,) * lengths.ndim + (size,)) < lengths[..., None]


def _overlap_add(windows, hop: int, xp):
    """Sum of windows that start each `hop` samples: (..., frames, n) -> (..., n + (frames - 1) hop). hop divides n."""
    pieces = windows.shape[-1] // hop
    leading = [(0, 0)] * (windows.ndim - 2)
    shifted = [
        xp.pad(windows[..., i * hop : (i + 1) * hop], [*leading, (i, pieces - 1 - i), (0, 0)]) for i in range(pieces)
    ]
    total = functools.reduce(operator.add, shifted)
    return total.reshape(*total.shape[:-2], -1)


@functools.cache
def mel_filters(sample_rate: int, n_fft: int, mels: int) -> np.ndarray:
    """Triangles equally wide on the HTK mel scale, from 0 Hz to half the rate, of height 1: float32 (bins, mels)."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    bins = np.linspace(0, sample_rate // 2, n_fft // 2 + 1)
    widths = np.diff(corners)
    distance = corners[None] - bins[:, None]
    rising, falling = -distance[:, :-2] / widths[:-1], distance[:, 2:] / widths[1:]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(
    x, sample_rate: int, *, n_fft: int = 1024, hop: int = 256, mels: int = 100, floor: float = FLOOR, lengths=None
):
    """Natural logarithm of mel magnitudes, none below `floor`: float32 (..., frames, mels). lengths: as of `stft`."""
    magnitudes = jnp.abs(stft(x, n_fft, hop, hann(n_fft), lengths))
    energies = jnp.dot(magnitudes, mel_filters(sample_rate, n_fft, mels), precision=jax.lax.Precision.HIGHEST)
    return jnp.log(jnp.maximum(energies, floor))


def check_hop(n_fft: int, hop: int) -> None:
    """Raises ValueError on a hop that leaves samples out."""
    if not 1 <= hop <= n_fft:
        raise ValueError(f"hop is {hop} but must lie in 1 .. n_fft = {n_fft}.")
