"""Frechet distance between two sets of pictures (FID, Heusel et al., 2017, 1706.08500) on Inception-v3's features.

Two preprocessings, for the figure depends on it by tenths:
  "rfid": torch-fidelity's. 8-bit levels, resized as TensorFlow 1 did, from 0..255 to (x - 128) / 128.
  "rfid_float": pytorch-fid's on floats, as SimVQ's evaluation has it: resized as torch does, without antialiasing.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.metrics.image import to_8_bit
from simvq_jax.models.pretrained.inception import FEATURES, INCEPTION, SIDE, InceptionV3, inception_params
from simvq_jax.models.pretrained.weights import read_published

VARIANTS = ("rfid", "rfid_float")


def load_inception(path: str | Path) -> dict[str, Any]:
    """Parameters of `features` from a local file of `INCEPTION.url`. Raises as `read_published`."""
    return inception_params(read_published(path, INCEPTION), f"{path}: the Inception weights")


def features(params, x, variant: str) -> jax.Array:
    """Inception's features. x: (b, h, w, 3) float, clipped to [-1, 1] here -> (b, 2048) float32."""
    found = InceptionV3().apply({"params": params}, preprocessed(x, variant))
    assert isinstance(found, jax.Array)
    return found


def preprocessed(x, variant: str) -> jax.Array:
    """What Inception is given: (b, h, w, 3) -> (b, 299, 299, 3). Raises ValueError on an unknown variant."""
    if variant == "rfid":
        return (_resize(to_8_bit(x), centred=False) - 128.0) / 128.0
    if variant == "rfid_float":
        return _resize(jnp.clip(x.astype(jnp.float32), -1.0, 1.0), centred=True)
    raise ValueError(f"variant is {variant!r} but must be one of {', '.join(VARIANTS)}.")


def _resize(x, centred: bool):
    """To 299 x 299, bilinear, each output from the two inputs around it.

    centred: pixels lie at their middles, as in torch; else at their upper left corners, as in TensorFlow 1.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        offset = 0.5 if centred else 0.0
        places = np.maximum((np.arange(SIDE) + offset) * (size / SIDE) - offset, 0.0)
        low = np.minimum(places.astype(int), size - 1)
        high = np.minimum(low + 1, size - 1)
        share = np.expand_dims((places - low).astype(np.float32), [other for other in range(4) if other != axis])
        first, second = jnp.take(x, low, axis=axis), jnp.take(x, high, axis=axis)
        x = first + (second - first) * share
    return x


class Moments:
    """Mean and covariance of features that come in batches, in float64; memory does not grow."""

    def __init__(self, dimensions: int = FEATURES):
        self.count = 0
        self._mean = np.zeros((dimensions,))
        self._scatter = np.zeros((dimensions, dimensions))  # sum of outer products of deviations from the mean

    def add(self, batch: np.ndarray) -> None:
        """batch: (n, d)."""
        if not len(batch):
            return
        batch = batch.astype(np.float64)
        mean = batch.mean(axis=0)
        total, shift = self.count + len(batch), mean - self._mean
        self._scatter += (batch - mean).T @ (batch - mean)
        self._scatter += np.outer(shift, shift) * (self.count * len(batch) / total)
        self._mean += shift * (len(batch) / total)
        self.count = total

    @property
    def mean(self) -> np.ndarray:
        """(d,)."""
        return self._mean

    @property
    def covariance(self) -> np.ndarray:
        """(d, d), unbiased; 0 of a single picture."""
        return self._scatter / max(self.count - 1, 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """||m - m'||^2 + tr(S + S' - 2 (S S')^(1/2)), equation 6 of the paper.

    By symmetric eigenvalues, so that singular covariances, of fewer pictures than features, need no offset.
    """
    root = _root(a.covariance)
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    difference = a.mean - b.mean
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(difference @ difference + traces - 2 * np.sqrt(np.maximum(cross, 0)).sum())


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
