"""Codebooks of free vectors: vanilla VQ, the baseline that collapses, and two early cures."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp

from simvq_jax.quantize.affine import Affine
from simvq_jax.quantize.base import Quantized, counted_tokens
from simvq_jax.quantize.idle import RestartedCodes
from simvq_jax.quantize.kmeans import kmeans
from simvq_jax.quantize.measures import count_codes, mean_and_variance, told_apart
from simvq_jax.quantize.nearest import NearestCode
from simvq_jax.search import take_codes

KMEANS = "kmeans"


class _FreeCodes(RestartedCodes):
    """What VQ and EMAVQ share: how codes start, and when they follow tokens without a gradient.

    Fields as in `RestartedCodes`, and:
        codebook_init: as in `draw_rows`, or "kmeans" of the tokens that `init` is given: give it real ones, four a code
            or more if possible. Of none that differ codes stay as they were drawn.
    """

    codebook_init: str = "uniform"

    @property
    def start_tokens(self) -> int:
        return 4 * self.codebook_size if self.starts_at_tokens else 0

    @property
    def starts_at_tokens(self) -> bool:
        return self.codebook_init == KMEANS

    def start_at(self, rows) -> None:
        raise NotImplementedError("a quantizer of free codes defines start_at(rows)")

    def quantize(self, tokens, weight, train: bool) -> Quantized:
        flat, flat_weight = jax.lax.stop_gradient(tokens).reshape(-1, self.dim), weight.reshape(-1)
        if self.is_initializing() and self.starts_at_tokens:
            self.start_at(self._first_rows(flat, flat_weight))
        out = super().quantize(tokens, weight, train)
        if train and not self.is_initializing():
            self.follow(flat, out.indices.reshape(-1), flat_weight)
        return out

    def _first_rows(self, tokens, weight):
        """tokens: (N, d), weight: (N,) -> (K, d)."""
        drawn = self.codes()[0]
        if not len(tokens):
            return drawn
        centres = kmeans(self.make_rng("params"), tokens, weight, self.codebook_size)
        _, variance = mean_and_variance(tokens, weight)
        return jnp.where(told_apart(variance, tokens, weight), centres, drawn)

    def follow(self, tokens, indices, weight) -> None:
        """What changes without a gradient. tokens: (N, d), indices: (N,), weight: (N,)."""


class VQ(_FreeCodes):
    """VQ-VAE's quantizer (van den Oord et al., 2017, 1711.00937): every code is a free parameter.

    Only selected codes receive a gradient, so most codes of a large codebook die. Contract as in `NearestCode`, fields
    as there and in `_FreeCodes`. The codebook is `params/codebook`: (K, d); with restarts, what they add to it is
    `codebook_stats/moved`: (K, d), so quantizing needs it too.
    """

    def setup(self):
        self.check_fields()
        shape = (self.codebook_size, self.dim)
        self.param("codebook", draw_rows, self.codebook_init, shape)
        if self.restart_after:
            self.moved = self.variable("codebook_stats", "moved", lambda: jnp.zeros(shape, jnp.float32))
        self.make_stats()

    def codes(self):
        rows: jax.Array = self.get_variable("params", "codebook")
        return (rows + self.moved.value if self.restart_after else rows), None

    def start_at(self, rows) -> None:
        self.put_variable("params", "codebook", rows)

    def follow(self, tokens, indices, weight) -> None:
        if self.restart_after:
            codes, to = self.restarts(tokens, indices, weight)
            rows: jax.Array = jax.lax.stop_gradient(self.get_variable("params", "codebook"))
            self.moved.value = self.moved.value.at[codes].set(to - take_codes(rows, codes), mode="drop")


class EMAVQ(_FreeCodes):
    """VQ whose codes are running means of their tokens, without gradient (VQ-VAE, 1711.00937, appendix A.1).

    Contract as in `NearestCode`, fields as there and in `_FreeCodes`, and `decay`, of the means; the codebook loss is
    told but has no weight, and `legacy` no meaning. Sums and counts are over the whole batch on all devices.

    `codebook_stats` also holds `codebook` (K, d), and its numerators and denominators, `sums` (K, d) and `sizes` (K,):
    so quantizing needs it too.
    """

    codebook_init: str = "normal"
    decay: float = 0.99
    smoothing: float = 1e-5  # of the sizes, so that no code divides by zero

    def setup(self):
        self.check_fields()
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay is {self.decay} but must lie in [0, 1).")
        if not 0 < self.smoothing < math.inf:
            raise ValueError(f"smoothing is {self.smoothing} but must be above 0 and finite.")
        shape = (self.codebook_size, self.dim)
        draw = lambda: draw_rows(self.make_rng("params"), self.codebook_init, shape)  # noqa: E731
        self.rows = self.variable("codebook_stats", "codebook", draw)
        self.make_stats()
        if self.is_mutable_collection("codebook_stats"):
            self.sums = self.variable("codebook_stats", "sums", lambda: jnp.copy(self.rows.value))
            self.sizes = self.variable("codebook_stats", "sizes", lambda: jnp.ones(shape[:1], jnp.float32))

    def codes(self):
        return self.rows.value, None

    def start_at(self, rows: jax.Array) -> None:
        self.rows.value, self.sums.value = rows, jnp.copy(rows)  # one buffer could not be donated twice

    def quantize(self, tokens, weight, train: bool) -> Quantized:
        out = super().quantize(tokens, weight, train)
        return replace(out, loss=self.beta * out.losses["commitment"])

    def follow(self, tokens, indices, weight) -> None:
        counts = count_codes(indices, weight, self.codebook_size)
        sums = jnp.zeros_like(self.sums.value).at[indices].add(tokens * weight[:, None])
        sizes = self.decay * self.sizes.value + (1 - self.decay) * counts
        sums = self.decay * self.sums.value + (1 - self.decay) * sums
        total = jnp.sum(sizes)
        smoothed = (sizes + self.smoothing) / (total + self.codebook_size * self.smoothing) * total
        rows = sums / smoothed[:, None]
        if self.restart_after:
            codes, to = self.restarts(tokens, indices, weight)
            rows, sums = (a.at[codes].set(to, mode="drop") for a in (rows, sums))
            sizes = sizes.at[codes].set(1.0, mode="drop")
        self.rows.value, self.sums.value, self.sizes.value = rows, sums, sizes


class FactorizedVQ(NearestCode):
    """VQ on the unit sphere of a small space (ViT-VQGAN, 2110.04627, section 3.2; VQGAN-FC in SimVQ's tables).

    Tokens are projected to `code_dim` dimensions, and they and the codes scaled to length 1 before they are compared;
    the code found is projected back. Both losses are of the small space. Contract and fields as in `NearestCode`.
    The codebook is `params/codebook`: (K, code_dim).
    """

    code_dim: int = 8

    @property
    def projects(self) -> bool:
        return True

    def setup(self):
        self.check_fields()
        if self.code_dim < 1:
            raise ValueError(f"code_dim is {self.code_dim} but must be at least 1.")
        self.project_in, self.project_out = Affine(self.dim, self.code_dim), Affine(self.code_dim, self.dim)
        self.rows = self.param("codebook", draw_rows, "normal", (self.codebook_size, self.code_dim))
        self.make_stats()

    def codes(self):
        return unit(self.rows), None

    def __call__(self, z, mask=None, train: bool = False) -> Quantized:
        """As `NearestCode.__call__`."""
        weight = self.weights_of(z, mask)
        out = self.quantize(unit(self.project_in(counted_tokens(z, mask))), weight, train)
        return replace(out, z_q=self.project_out(out.z_q).astype(self.dtype or z.dtype))

    def codebook(self):
        return self.project_out(super().codebook())

    def lookup(self, indices):
        return self.project_out(super().lookup(indices))


def draw_rows(key, init: str, shape):
    """Codes (K, d). init: "uniform", U(-1/K, 1/K) as in VQGAN, or "normal", N(0, 1/d); "kmeans" begins as that until it
    has seen tokens. Raises ValueError on others."""
    k, d = shape
    if init in ("normal", KMEANS):
        return jax.random.normal(key, shape, jnp.float32) * d**-0.5
    if init == "uniform":
        return jax.random.uniform(key, shape, jnp.float32, -1.0 / k, 1.0 / k)
    raise ValueError(f"codebook_init is {init!r} but must be 'uniform', 'normal' or '{KMEANS}'.")


def unit(vectors):
    """Scaled to length 1: (..., d) -> (..., d); 0 stays 0, and its gradient is finite."""
    square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
