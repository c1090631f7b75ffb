"""Pitch by pYIN (Mauch and Dixon, 2014), which needs no weights; figures differ from those of CREPE.

Where this departs from the paper: 20 cents a state instead of 10, frames and silence as for CREPE, and periodicity is
the probability that a frame is voiced (the weights of the thresholds that a period meets).
"""

from typing import NamedTuple

import numpy as np

from simvq_jax.metrics.pitch import (
    CENTS,
    FRAME,
    HIGHEST,
    LOWEST,
    RATE,
    REACH,
    Pitch,
    frames_of,
    is_silent,
    triangle,
    viterbi,
)

LONGEST = int(RATE / LOWEST)  # samples of a period
SHORTEST = int(RATE / HIGHEST)
STATES = int(1200 * np.log2(HIGHEST / LOWEST) / CENTS) + 1
STAYS = 0.99  # probability that the next frame is voiced, or unvoiced, as this one
FALLBACK = 0.01  # share of a threshold that goes to the deepest dip where none is under it
THRESHOLDS = np.arange(1, 101) / 100
PRIOR = THRESHOLDS * (1 - THRESHOLDS) ** 17  # of the thresholds: beta(2, 18), whose mean is 0.1
PRIOR = PRIOR / PRIOR.sum()


class Candidates(NamedTuple):
    """Of a frame: periods as frequencies (n,), and their probabilities (n,)."""

    hertz: np.ndarray
    probability: np.ndarray


def pyin_pitch(sound: np.ndarray, sample_rate: int) -> Pitch:
    """A tracker, see pitch.py."""
    frames = frames_of(sound, sample_rate)
    candidates = [_candidates(dips) for dips in _normalised_difference(frames.astype(np.float64))]
    likelihood = np.zeros((len(frames), 2, STATES))
    for likely, of_frame in zip(likelihood, candidates, strict=True):
        np.add.at(likely[0], _state(of_frame.hertz), of_frame.probability)
        likely[1] = max(1 - likely[0].sum(), 0.0) / STATES
    voicing = np.array([[STAYS, 1 - STAYS], [1 - STAYS, STAYS]])
    path = viterbi(likelihood.reshape(len(frames), -1), np.kron(voicing, triangle(STATES, REACH)))
    silent = is_silent(frames)
    periodicity = np.where(silent, 0.0, likelihood[:, 0].sum(axis=1))
    voiced = (path < STATES) & ~silent
    hertz = [_nearest(of_frame, state) for of_frame, state in zip(candidates, path % STATES, strict=True)]
    return Pitch(np.where(voiced, hertz, np.nan), periodicity)


def _normalised_difference(frames: np.ndarray) -> np.ndarray:
    """YIN's (de Cheveigne and Kawahara, 2002, eq. 8) for shifts 0 to LONGEST + 1: (n, 1024) -> (n, LONGEST + 2)."""
    shifts = LONGEST + 2
    window = FRAME - shifts
    size = 2 * FRAME
    spectrum = np.fft.rfft(frames, size)
    product = np.fft.irfft(spectrum * np.fft.rfft(frames[:, :window], size).conj(), size)[:, :shifts]
    total = np.pad(np.cumsum(frames**2, axis=1), ((0, 0), (1, 0)))
    energy = total[:, window : window + shifts] - total[:, :shifts]
    difference = np.maximum(energy[:, :1] + energy - 2 * product, 0.0)
    mean = np.cumsum(difference[:, 1:], axis=1) / np.arange(1, shifts)
    shifted = np.divide(difference[:, 1:], mean, out=np.ones_like(mean), where=mean > 1e-12 * (energy[:, :1] + 1e-12))
    return np.pad(shifted, ((0, 0), (1, 0)), constant_values=1.0)


def _candidates(dips: np.ndarray) -> Candidates:
    """The dips of a frame, each with the weight of the thresholds for which it is the first one under it."""
    places = np.arange(SHORTEST, LONGEST + 1)
    places = places[(dips[places] < dips[places - 1]) & (dips[places] <= dips[places + 1])]
    if not len(places):
        return Candidates(np.zeros((0,)), np.zeros((0,)))
    depth = dips[places]
    under = depth[None] < THRESHOLDS[:, None]
    chosen = np.where(under.any(axis=1), under.argmax(axis=1), depth.argmin())
    weight = PRIOR * np.where(under.any(axis=1), 1.0, FALLBACK)
    probability = np.bincount(chosen, weight, len(places))
    left, middle, right = (dips[places + i] for i in (-1, 0, 1))
    bend = left - 2 * middle + right  # of the parabola through the three
    shift = np.divide((left - right) / 2, bend, out=np.zeros_like(bend), where=bend > 0)
    kept = probability > 0
    return Candidates(RATE / (places + shift)[kept], probability[kept])


def _state(hertz: np.ndarray) -> np.ndarray:
    state = np.round(1200 * np.log2(hertz / LOWEST) / CENTS).astype(int)
    return np.clip(state, 0, STATES - 1)


def _nearest(candidates: Candidates, state: int) -> float:
    """The frequency of the state: that of the likeliest candidate within it, or its own."""
    mine = _state(candidates.hertz) == state
    if not mine.any():
        return float(LOWEST * 2 ** (state * CENTS / 1200))
    return float(candidates.hertz[np.where(mine, candidates.probability, -1).argmax()])
