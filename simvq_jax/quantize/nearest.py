"""Quantizers that pick the nearest code of a codebook."""

import math
from dataclasses import replace
from typing import Any

import jax

from simvq_jax.quantize.affine import apply_transform
from simvq_jax.quantize.base import Quantized, Quantizer, counted_tokens
from simvq_jax.quantize.estimators import ESTIMATORS, estimate
from simvq_jax.quantize.measures import count_codes, mean_square
from simvq_jax.search import nearest_code, take_codes


class NearestCode(Quantizer):
    """Base of quantizers with a codebook: search, losses, estimator.

    A subclass gives `codes()`, a pair (rows, transform) with `codebook = rows W + b`, in `setup`.

    Fields:
        codebook_size: K. dim: d of the tokens.
        beta: weight of the commitment loss. legacy: put beta on the codebook term instead, as early VQGAN did.
        estimator: how the gradient passes the choice of a code, of `estimators.py`.
        dtype: type of z_q; None keeps that of z. Distances, losses and statistics are float32 always.
    """

    codebook_size: int
    dim: int
    beta: float = 0.25
    legacy: bool = False
    estimator: str = "straight_through"
    dtype: Any = None

    def check_fields(self):
        super().check_fields()
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta is {self.beta} but must be at least 0 and finite.")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator is {self.estimator!r} but must be one of {', '.join(ESTIMATORS)}.")

    def codes(self):
        raise NotImplementedError("a quantizer defines codes() -> (rows, transform)")

    def __call__(self, z, mask=None, train: bool = False) -> Quantized:
        """Quantizes every token of z: (..., d). mask: bool (...) or None, True = count the token.

        With `train=True` the statistics advance (make `codebook_stats` mutable). Raises ValueError if the last
        axis of z is not `dim` or the mask's shape is not that of the tokens.
        """
        weight = self.weights_of(z, mask)
        out = self.quantize(counted_tokens(z, mask), weight, train)
        return replace(out, z_q=out.z_q.astype(self.dtype or z.dtype))

    def quantize(self, tokens, weight, train: bool) -> Quantized:
        """tokens: float32 (..., d_code) in the space of the codes; weight: (...), 1 = counts."""
        rows, transform = self.codes()
        indices, _ = nearest_code(tokens, rows, transform)
        q = self.take(indices)
        counts = count_codes(indices, weight, self.codebook_size)
        self.advance_stats(counts, train)
        losses = {
            "commitment": mean_square(tokens - jax.lax.stop_gradient(q), weight),
            "codebook": self.codebook_loss_value(jax.lax.stop_gradient(tokens), q, indices, weight, counts, train),
        }
        on_commitment, on_codebook = (1.0, self.beta) if self.legacy else (self.beta, 1.0)
        loss = on_commitment * losses["commitment"] + on_codebook * losses["codebook"]
        z_q = estimate(self.estimator, tokens, q, indices, weight, self.codebook_size)
        return Quantized(z_q, indices, losses, loss)

    def codebook_loss_value(self, tokens, q, indices, weight, counts, train):
        """Mean over tokens of ||sg(z) - q||^2 / d (VQ-VAE, 1711.00937, eq. 3)."""
        return mean_square(tokens - q, weight)

    def codebook(self):
        """The effective codebook: (K, d) float32."""
        rows, transform = self.codes()
        return apply_transform(rows, transform)

    def lookup(self, indices):
        """Codes of indices: int (...) -> (..., d) float32; the values that the forward pass uses."""
        return self.take(self.checked_indices(indices))

    def take(self, indices):
        """Codes of indices in the space that they are compared in: int (...) -> (..., d_code) float32."""
        rows, transform = self.codes()
        return apply_transform(take_codes(rows, indices), transform)
