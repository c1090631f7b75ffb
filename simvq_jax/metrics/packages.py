"""Optional packages that measure sound, named with their extra where they are missing."""

import importlib

import numpy as np


def package(name: str, extra: str):
    """The package. Raises ModuleNotFoundError where it is not installed; the message names the extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{name} is not installed, which measures speech: pip install 'simvq_jax[{extra}]'."
        ) from error


def resampled(sound: np.ndarray, sample_rate: int, wanted: int) -> np.ndarray:
    """(samples,) -> the same sound at `wanted` samples a second, by soxr."""
    return sound if sample_rate == wanted else package("soxr", "audio").resample(sound, sample_rate, wanted)
