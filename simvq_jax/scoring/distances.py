"""Frechet distances between all originals and all reconstructions, from features that come in batches."""

import numpy as np
from absl import logging

from simvq_jax.metrics.frechet import Moments, frechet_distance

FEW = 10_000  # pictures below which the distance is far above that of more (Chong and Forsyth, 2020, 1911.07023)

Features = dict[str, tuple[np.ndarray, np.ndarray]]


class FrechetDistances:
    """Totals of each distance by its name."""

    def __init__(self):
        self._totals: dict[str, tuple[Moments, Moments]] = {}

    def add(self, features: Features, mask: np.ndarray) -> None:
        """features: (b, n) of originals and of reconstructions, by name. mask: (b,) of those that count."""
        for name, pair in features.items():
            if name not in self._totals:
                self._totals[name] = Moments(pair[0].shape[1]), Moments(pair[1].shape[1])
            for total, part in zip(self._totals[name], pair, strict=True):
                total.add(part[mask])

    def values(self) -> dict[str, float]:
        """The distances. {} where no features came."""
        for originals, _ in list(self._totals.values())[:1]:
            if originals.count < FEW:
                logging.warning(
                    "rFID is of %d pictures: below some %d it is much higher than of more, so compare it with that of"
                    " as many only.",
                    originals.count,
                    FEW,
                )
        return {name: frechet_distance(*totals) for name, totals in self._totals.items()}
