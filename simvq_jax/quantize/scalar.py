"""Quantizers without a stored codebook: each dimension is rounded by itself, and a code is their combination."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.quantize.affine import HIGHEST, Affine
from simvq_jax.quantize.base import Quantized, Quantizer, counted_tokens
from simvq_jax.quantize.estimators import straight_through
from simvq_jax.quantize.measures import count_codes, mean_square


class _Scalar(Quantizer):
    """Projects tokens to as many dimensions as a code has (`code_dim`), where `dim` is another number, and back."""

    @property
    def projects(self) -> bool:
        return self.code_dim != self.dim

    def make_projections(self):
        self.project_in = self.project_out = lambda x: x
        if self.projects:
            self.project_in, self.project_out = Affine(self.dim, self.code_dim), Affine(self.code_dim, self.dim)

    def result(self, z, values, indices, losses, loss, weight, train) -> Quantized:
        self.advance_stats(count_codes(indices, weight, self.codebook_size), train)
        return Quantized(self.project_out(values).astype(self.dtype or z.dtype), indices, losses, loss)

    def lookup(self, indices):
        """Codes of indices: int (...) -> (..., d) float32; the values that the forward pass uses."""
        return self.project_out(self.values_of(self.checked_indices(indices)))

    def codebook(self):
        """The codebook: (K, d) float32."""
        return self.lookup(jnp.arange(self.codebook_size))


class FSQ(_Scalar):
    """Finite scalar quantization (Mentzer et al., 2023, 2309.15505).

    Dimension i is squashed by tanh and rounded to `levels[i]` values in [-1, 1]; K is their product, and no loss is
    needed. The gradient passes the rounding unchanged. Where `dim` is not the number of levels, a linear layer goes
    before and one after. `dtype`: of z_q; None keeps that of z. Contract and collections as in `Quantizer`.
    """

    levels: tuple[int, ...]
    dim: int
    dtype: Any = None

    def __post_init__(self):
        if isinstance(self.levels, int):
            raise ValueError(
                f"levels is {self.levels} but must be a list of numbers, one for each dimension of a code."
            )
        object.__setattr__(self, "levels", tuple(self.levels))  # hashable, as jit asks of what is static
        super().__post_init__()

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)

    @property
    def code_dim(self) -> int:
        return len(self.levels)

    def setup(self):
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels is {self.levels} but must name at least one number, each of at least 2.")
        if self.codebook_size >= 2**31:
            raise ValueError(f"levels is {self.levels} but their product must be under 2^31, as indices are int32.")
        self.check_fields()
        self.make_projections()
        self.make_stats()

    def __call__(self, z, mask=None, train: bool = False) -> Quantized:
        """As `Quantizer`; both losses are 0."""
        weight = self.weights_of(z, mask)
        bounded = self._bound(self.project_in(counted_tokens(z, mask)))
        half, place_values = _like(self._half, bounded), _like(self._place_values, bounded)
        highest = _like(np.asarray(self.levels, np.float32) - 1, bounded) - half
        whole = jnp.clip(jnp.round(bounded), -half, highest)  # the margin of many levels reaches beyond the outermost
        indices = jnp.sum((whole + half).astype(jnp.int32) * place_values, axis=-1, dtype=jnp.int32)
        zero = jnp.float32(0)
        losses = {"commitment": zero, "codebook": zero}
        return self.result(z, straight_through(bounded, whole) / half, indices, losses, zero, weight, train)

    def values_of(self, indices):
        shape = (*indices.shape, len(self.levels))
        digits = jnp.broadcast_to(indices[..., None], shape) // jnp.broadcast_to(self._place_values, shape)
        half = jnp.broadcast_to(self._half, shape)
        digits = digits % jnp.broadcast_to(np.asarray(self.levels, np.int32), shape)
        return (digits.astype(jnp.float32) - half) / half

    def _bound(self, z):
        """Squashes dimension i to just over its levels, so that rounding gives as many (after the paper's appendix A.1;
        arctanh, where that shifts by a tangent, leaves 0 at 0). Two levels, -1 and 0, part at 0: a shift of
        0 to the upper one would put it where tanh is all but flat."""
        levels = np.asarray(self.levels, np.float32)
        reach = (levels - 1) * (1 + 1e-3) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0).astype(np.float32)  # an even number lies around -1/2
        shift = np.where(levels > 2, np.arctanh(offset / reach), 0.0).astype(np.float32)
        return jnp.tanh(z + _like(shift, z)) * _like(reach, z) - _like(offset, z)

    @property
    def _half(self):
        return np.asarray(self.levels, np.float32) // 2

    @property
    def _place_values(self):
        """What a step of each dimension adds to the index; the first dimension is the lowest digit."""
        return np.cumprod([1, *self.levels[:-1]]).astype(np.int32)


class LFQ(_Scalar):
    """Look-up free quantization (MAGVIT-v2, Yu et al., 2023, 2310.05737, section 3.1).

    A code is the signs of log2(K) dimensions. An entropy term makes single tokens decided and their mean undecided,
    with probabilities softmax(-||z - c||^2 / temperature). They factorise over dimensions, so a token's entropy is
    exact for any K; the entropy of the mean is exact within groups of `group_bits` dimensions and summed over them, an
    upper bound (as in 2409.04410 and 2406.07548). Contract and collections as in `Quantizer`.

    Fields:
        codebook_size: K, a power of two. dim: d of the tokens; where it is not log2(K), a linear layer goes before and
            one after. beta: weight of the commitment loss. entropy_weight: of the entropy term.
        diversity: weight of the mean's entropy in that term. temperature, group_bits: see above.
        dtype: of z_q; None keeps that of z.
    """

    codebook_size: int
    dim: int
    beta: float = 0.25
    entropy_weight: float = 0.1
    diversity: float = 1.0
    temperature: float = 0.01
    group_bits: int = 8
    dtype: Any = None

    @property
    def code_dim(self) -> int:
        """log2(K)."""
        return int(self.codebook_size).bit_length() - 1

    def setup(self):
        self.check_fields()
        if not 2 <= self.codebook_size < 2**31 or self.codebook_size != 2**self.code_dim:
            raise ValueError(f"codebook_size is {self.codebook_size} but must be a power of two from 2 to 2^30.")
        if not 1 <= self.group_bits <= 16:
            raise ValueError(f"group_bits is {self.group_bits} but must lie in [1, 16].")
        for name in ("beta", "entropy_weight", "diversity"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)} but must be at least 0 and finite.")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature} but must be above 0 and finite.")
        self.make_projections()
        self.make_stats()

    def __call__(self, z, mask=None, train: bool = False) -> Quantized:
        """As `Quantizer`; losses also has "entropy", the mean of the tokens' less `diversity` times the mean's."""
        weight = self.weights_of(z, mask)
        tokens = self.project_in(counted_tokens(z, mask))
        positive = tokens > 0
        values = _like(2 ** np.arange(self.code_dim, dtype=np.int32), tokens)
        signs, indices = _signs(positive), jnp.sum(jnp.where(positive, values, 0), axis=-1, dtype=jnp.int32)
        losses = {
            "commitment": mean_square(tokens - signs, weight),
            "codebook": jnp.float32(0),
            "entropy": self._entropy(tokens.reshape(-1, self.code_dim), weight.reshape(-1)),
        }
        loss = self.beta * losses["commitment"] + self.entropy_weight * losses["entropy"]
        return self.result(z, straight_through(tokens, signs), indices, losses, loss, weight, train)

    def values_of(self, indices):
        shape = (*indices.shape, self.code_dim)
        places = np.arange(self.code_dim, dtype=np.int32)
        bits = jnp.broadcast_to(indices[..., None], shape) >> jnp.broadcast_to(places, shape)
        return _signs(bits & 1 > 0)

    def _entropy(self, tokens, weight):
        """In nats. tokens: (N, bits), weight: (N,)."""
        share = weight / jnp.maximum(jnp.sum(weight), 1.0)
        logits = 4 * tokens / self.temperature  # ||z + c||^2 - ||z - c||^2 of one dimension
        of_tokens = jnp.sum(share[:, None] * binary_entropy(logits))
        of_mean = jnp.float32(0)
        for start in range(0, self.code_dim, self.group_bits):
            group = logits[:, start : start + self.group_bits]
            size = group.shape[1]
            signs = np.where(np.arange(2**size)[:, None] >> np.arange(size) & 1, 1.0, -1.0).astype(np.float32)
            # log of the product of the bits' probabilities: log sigmoid(s l) = (s l - softplus(l) - softplus(-l)) / 2
            constant = jnp.sum(jax.nn.softplus(group) + jax.nn.softplus(-group), axis=-1, keepdims=True)
            doubled = jnp.dot(group, signs.T, precision=HIGHEST) - constant
            mean = jnp.dot(share, jnp.exp(doubled / 2), precision=HIGHEST)
            of_mean -= jnp.sum(mean * jnp.log(jnp.maximum(mean, 1e-12)))
        return of_tokens - self.diversity * of_mean


def binary_entropy(logits):
    """Entropy of a coin whose odds are exp(logits), in nats."""
    return jax.nn.softplus(logits) - logits * jax.nn.sigmoid(logits)


def _signs(positive):
    """1 or -1, float32."""
    return jnp.where(positive, jnp.float32(1), jnp.float32(-1))


def _like(values, tokens):
    """A number for each dimension, for every token: (d,) -> (..., d)."""
    return jnp.broadcast_to(values, tokens.shape)
