"""UTMOS (2204.02152) of one recording: the mean opinion that listeners would have of it, from 1 to 5."""

from collections.abc import Callable

import jax
import numpy as np

from simvq_jax.metrics.packages import resampled
from simvq_jax.models.pretrained.utmos import Utmos, utmos_params
from simvq_jax.models.pretrained.wav2vec2 import frames_of
from simvq_jax.models.pretrained.weights import WeightFileError, read_weights

RATE = 16_000


def utmos_scorer(path: str) -> Callable[[np.ndarray, int], float]:
    """(sound: float32 (samples,), sample_rate) -> its score, NaN where the sound is shorter than 25 ms.

    path: the authors' checkpoint as .npz or .safetensors, or a PyTorch file of its state_dict alone.
    Raises FileNotFoundError and WeightFileError as `read_weights`, and where tensors are missing or misshapen.
    """
    try:
        weights = read_weights(path)
    except WeightFileError as error:
        raise WeightFileError(f"{error} Of UTMOS's own checkpoint save the state_dict alone, and give that.") from error
    params = utmos_params(weights, f"The UTMOS weights in {path}")

    @jax.jit
    def network(sound, lengths):
        with jax.default_matmul_precision("highest"):
            return Utmos().apply({"params": params}, sound, lengths)

    def score(sound: np.ndarray, sample_rate: int) -> float:
        sound = resampled(sound, sample_rate, RATE).astype(np.float32)
        length = len(sound)
        if frames_of(length) == 0:
            return float("nan")
        seconds = 2 ** max(int(np.ceil(np.log2(length / RATE))), 0)  # few lengths, so few programs
        padded = np.pad(sound, (0, seconds * RATE - length))
        return float(network(padded[None], np.array([length], np.int32))[0])

    return score
