"""Pitch and periodicity of speech, and how those of a reconstruction differ from the original's.

A tracker maps (sound, sample_rate) to `Pitch`, one value each 10 ms; sound: float32 numpy (samples,). There are two:
CREPE (crepe.py) where its weights are given, as published figures have it, and pYIN (pyin.py), which needs none.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from simvq_jax.dsp import hann
from simvq_jax.metrics.packages import resampled

RATE, FRAME, HOP = 16_000, 1024, 160  # samples a second, of a frame, and between two frames
LOWEST, HIGHEST = 50.0, 550.0  # Hz that are looked for
CENTS = 20  # between two pitches that are told apart
REACH = 12  # of those, from one frame to the next
SILENCE = -60.0  # dB of the mean A-weighted level under which a frame is silent
REFERENCE_DB = 20.0
FLOOR_DB, RANGE_DB = -100.0, 80.0  # of a level; below the loudest
TINY = np.finfo(np.float64).tiny


class Pitch(NamedTuple):
    """Of each frame. hertz: (frames,), NaN where unvoiced; periodicity: (frames,) from 0 to 1."""

    hertz: np.ndarray
    periodicity: np.ndarray


class PitchErrors(NamedTuple):
    """periodicity: root mean square difference; cents: root mean square over frames voiced in both, NaN without any;
    vuv_f1: F1 of voiced against unvoiced frames, NaN where the recordings have no voiced frame at all."""

    periodicity: float
    cents: float
    vuv_f1: float


Tracker = Callable[[np.ndarray, int], Pitch]


def pitch_errors(sound: Pitch, target: Pitch) -> PitchErrors:
    """Differences of pitch, as Vocos and SimVQ report them (after CARGAN, 2110.10139)."""
    periodicity = np.sqrt(np.mean((sound.periodicity - target.periodicity) ** 2))
    voiced, wanted = ~np.isnan(sound.hertz), ~np.isnan(target.hertz)
    both = voiced & wanted
    cents = 1200 * np.log2(target.hertz[both] / sound.hertz[both])
    either = voiced.sum() + wanted.sum()
    return PitchErrors(
        float(periodicity),
        float(np.sqrt(np.mean(cents**2))) if both.any() else float("nan"),
        float(2 * both.sum() / either) if either else float("nan"),
    )


def frames_of(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    """Frames at 16 kHz: (samples,) -> (frames, 1024). Sound shorter than a frame is filled up with silence."""
    sound = resampled(sound, sample_rate, RATE)
    sound = np.pad(sound, (0, max(FRAME - len(sound), 0)))
    return np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::HOP]


def is_silent(frames: np.ndarray) -> np.ndarray:
    """Frames whose mean A-weighted level is under -60 dB, as CARGAN decides it: (frames, 1024) -> bool (frames,)."""
    power = np.abs(np.fft.rfft(frames * hann(FRAME))) ** 2
    level = np.maximum(10 * np.log10(np.maximum(power, TINY)), FLOOR_DB)
    level = np.maximum(level, level.max() - RANGE_DB)
    return (level + a_weighting(np.fft.rfftfreq(FRAME, 1 / RATE))).mean(axis=1) - REFERENCE_DB < SILENCE


def a_weighting(hertz: np.ndarray) -> np.ndarray:
    """IEC 61672 A-weighting in dB, at least -80."""
    square = np.maximum(hertz, 1e-10) ** 2
    poles = np.array([20.598997, 107.65265, 737.86223, 12194.217]) ** 2
    near, low, middle, far = (square + pole for pole in poles)
    gain = 2 + 20 * np.log10(poles[3]) + 40 * np.log10(square)
    return np.maximum(gain - 20 * np.log10(near) - 10 * np.log10(low) - 10 * np.log10(middle) - 20 * np.log10(far), -80)


def viterbi(likelihood: np.ndarray, transition: np.ndarray) -> np.ndarray:
    """The likeliest path of states, all alike at the start: (frames, n), (n, n) from row to column -> (frames,)."""
    with np.errstate(divide="ignore"):
        likelihood, transition = np.log(likelihood + TINY), np.log(transition + TINY)
    back = np.zeros(likelihood.shape, np.int32)
    score = likelihood[0]
    for t in range(1, len(likelihood)):
        through = score[:, None] + transition
        back[t] = through.argmax(axis=0)
        score = through[back[t], np.arange(len(score))] + likelihood[t]
    path = np.empty((len(likelihood),), np.int32)
    path[-1] = score.argmax()
    for t in range(len(path) - 1, 0, -1):
        path[t - 1] = back[t, path[t]]
    return path


def triangle(states: int, reach: int) -> np.ndarray:
    """Transitions that become less likely with the distance, and impossible from `reach` on: (states, states)."""
    places = np.arange(states)
    weights = np.maximum(reach - np.abs(places[:, None] - places[None]), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)
