"""How close a reconstructed sound is to its original.

`mel_distance` is of a batch, on the device; the others are of one recording, numpy in and float out: sound, target:
float32 (samples,), equally long, at `sample_rate` samples a second.
"""

import jax.numpy as jnp
import numpy as np

from simvq_jax.dsp import before, log_mel
from simvq_jax.metrics.packages import package, resampled

MEL_FFT, MEL_HOP = 1024, 256

PESQ_RATE = 16_000  # of the wideband measure
MOST_DB = 120.0  # ratios are kept within so many decibels, so that means stay finite: float32 tells no larger ones


def mel_distance(sound, target, lengths, sample_rate: int):
    """Mean absolute difference of log-mel magnitudes, as the mel loss of Vocos (2306.00814): (b, samples) -> (b,).

    lengths: int32 (b,), samples that count; both are 0 behind. Of under 513 samples, so many are looked at.
    """
    lengths = jnp.maximum(lengths, MEL_FFT // 2 + 1)
    ours, theirs = (log_mel(x, sample_rate, n_fft=MEL_FFT, hop=MEL_HOP, lengths=lengths) for x in (sound, target))
    frames = lengths // MEL_HOP + 1
    distances = jnp.mean(jnp.abs(ours - theirs), axis=-1)
    return jnp.sum(jnp.where(before(frames, distances.shape[1]), distances, 0.0), axis=-1) / frames


def si_sdr(sound: np.ndarray, target: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., 2018, 1811.02508, eq. 3), without means.

    Within MOST_DB of 0, so -MOST_DB where the sound is silent; NaN where the target is.
    """
    sound, target = (x.astype(np.float64) - np.mean(x, dtype=np.float64) for x in (sound, target))
    energy = np.sum(target**2)
    if energy == 0:
        return float("nan")
    projected = np.sum(sound * target) / energy * target
    kept, distortion = np.sum(projected**2), np.sum((sound - projected) ** 2)
    with np.errstate(divide="ignore"):
        ratio = np.log10(kept) - np.log10(distortion) if kept else -np.inf
    return float(np.clip(10 * ratio, -MOST_DB, MOST_DB))


def stoi(sound: np.ndarray, target: np.ndarray, sample_rate: int) -> float:
    """Short-time objective intelligibility (Taal et al., 2011), from 0 to 1, by pystoi.

    NaN where there are under 30 frames of speech, of which pystoi gives no figure. Raises ModuleNotFoundError where
    pystoi is not installed; the message names the extra.
    """
    import warnings

    pystoi = package("pystoi", "audio")
    if not np.any(target):  # pystoi would compare all frames of silence, and give 0
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(pystoi.stoi(target, sound, sample_rate, extended=False))
        except (RuntimeWarning, ValueError):  # too short, or silent
            return float("nan")


def pesq(sound: np.ndarray, target: np.ndarray, sample_rate: int) -> float:
    """Perceptual evaluation of speech quality, wideband (ITU-T P.862.2), from 1 to 4.64, by the package pesq.

    NaN where it finds no utterance. Raises ModuleNotFoundError where pesq or soxr is not installed.
    """
    measure = package("pesq", "pesq")
    at_rate = (resampled(x, sample_rate, PESQ_RATE) for x in (target, sound))
    score = measure.pesq(PESQ_RATE, *at_rate, "wb", on_error=measure.PesqError.RETURN_VALUES)
    return float(score) if score >= 0 else float("nan")


def bits_per_second(codebook_sizes: tuple[int, ...], tokens_per_second: float) -> float:
    """Of indices stored at log2 K bits each, for every codebook."""
    return float(tokens_per_second * sum(np.log2(size) for size in codebook_sizes))
