"""What every quantizer shares: the result, the losses, the statistics of use, and the base class.

Arrays: z: (..., d) tokens, indices: int32 (...), codebook: (K, d), mask: bool (...), True = count.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from simvq_jax.search import nearest_code, take_codes

HIGHEST = jax.lax.Precision.HIGHEST
USAGE_WINDOW = 262_144  # tokens over which training utilization and perplexity are stated
NEVER = 2**30  # age of a code that was never selected; ages stop here


@flax.struct.dataclass
class Quantized:
    """Result of a quantizer.

    z_q: (..., d) the code itself, with a gradient that passes to z; indices: int32 (...);
    losses: {"commitment": (), "codebook": ()} unweighted, float32; loss: () their sum with the module's weights.
    """

    z_q: jax.Array
    indices: jax.Array
    losses: dict[str, jax.Array]
    loss: jax.Array


class Affine(nn.Module):
    """x -> x W + b, with parameters that exist before the first call, so that a search can read them.

    Initialised as torch.nn.Linear: U(-1/sqrt(in), 1/sqrt(in)) for both.
    """

    in_features: int
    out_features: int
    use_bias: bool = True

    def setup(self):
        bound = self.in_features**-0.5

        def uniform(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        self.kernel = self.param("kernel", uniform, (self.in_features, self.out_features))
        self.bias = self.param("bias", uniform, (self.out_features,)) if self.use_bias else None

    def __call__(self, x):
        """x: (..., in_features) -> (..., out_features), float32."""
        y = jnp.dot(x, self.kernel, precision=HIGHEST)
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


def straight_through(z, q):
    """Forward value exactly q (not z + (q - z), which rounds), gradient passed to z unchanged."""
    return jax.lax.stop_gradient(q) + (z - jax.lax.stop_gradient(z))


def mean_square(difference, weight):
    """Mean over the elements of the tokens that count. difference: (..., d), weight: (...) -> ()."""
    d = difference.shape[-1]
    per_token = jnp.sum(difference * difference, axis=-1)
    return jnp.sum(per_token * weight) / (jnp.maximum(jnp.sum(weight), 1.0) * d)


def count_codes(indices, weight, codebook_size: int):
    """Tokens assigned to each code: (K,) float32; one array summed over every device."""
    return jnp.zeros((codebook_size,), jnp.float32).at[indices.reshape(-1)].add(weight.reshape(-1))


class Quantizer(nn.Module):
    """Base of quantizers that pick the nearest code.

    A subclass gives `codes()`, a pair (rows, transform) with `codebook = rows W + b`, in `setup`.

    Fields:
        codebook_size: K. dim: d of the tokens.
        beta: weight of the commitment loss. legacy: put beta on the codebook term instead, as early VQGAN did.
        dtype: type of z_q; None keeps that of z. Distances, losses and statistics are float32 always.

    Collections: `codebook_stats` holds what a training step changes: `age` int32 (K,), tokens seen since the code
    was last selected, and `usage` float32 (K,), selections with exponential forgetting over USAGE_WINDOW tokens.
    """

    codebook_size: int
    dim: int
    beta: float = 0.25
    legacy: bool = False
    dtype: Any = None

    def check_fields(self):
        for name in ("codebook_size", "dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)} but must be at least 1.")

    def make_stats(self):
        """Declares the statistics, unless nobody may change them: plain inference needs none."""
        if not self.is_mutable_collection("codebook_stats"):
            return
        shape = (self.codebook_size,)
        self.age = self.variable("codebook_stats", "age", lambda: jnp.full(shape, NEVER, jnp.int32))
        self.usage = self.variable("codebook_stats", "usage", lambda: jnp.zeros(shape, jnp.float32))

    def codes(self):
        raise NotImplementedError("a quantizer defines codes() -> (rows, transform)")

    def __call__(self, z, mask=None, train: bool = False) -> Quantized:
        """Quantizes every token of z: (..., d). mask: bool (...) or None, True = count the token.

        With `train=True` the statistics advance (make `codebook_stats` mutable). Raises ValueError if the last
        axis of z is not `dim` or the mask's shape is not that of the tokens.
        """
        weight = self._weight(z, mask)
        rows, transform = self.codes()
        tokens = z.astype(jnp.float32)
        indices, _ = nearest_code(tokens, rows, transform)
        q = self.lookup(indices)
        counts = count_codes(indices, weight, self.codebook_size)
        if train and not self.is_initializing():
            self._advance_stats(counts)
        # Padding may hold anything, and 0 x NaN is NaN.
        counted = tokens if mask is None else jnp.where(mask[..., None], tokens, 0.0)
        losses = {
            "commitment": mean_square(counted - jax.lax.stop_gradient(q), weight),
            "codebook": self.codebook_loss_value(jax.lax.stop_gradient(counted), q, indices, weight, counts, train),
        }
        on_commitment, on_codebook = (1.0, self.beta) if self.legacy else (self.beta, 1.0)
        loss = on_commitment * losses["commitment"] + on_codebook * losses["codebook"]
        z_q = straight_through(counted, q).astype(self.dtype or z.dtype)
        return Quantized(z_q, indices, losses, loss)

    def codebook_loss_value(self, tokens, q, indices, weight, counts, train):
        """Mean over tokens of ||sg(z) - q||^2 / d (VQ-VAE, 1711.00937, eq. 3)."""
        return mean_square(tokens - q, weight)

    def codebook(self):
        """The effective codebook: (K, d) float32."""
        rows, transform = self.codes()
        return _apply(rows, transform)

    def lookup(self, indices):
        """Codes of indices: int (...) -> (..., d) float32; the values that the forward pass uses."""
        rows, transform = self.codes()
        return _apply(take_codes(rows, indices), transform)

    def _weight(self, z, mask):
        if z.shape[-1:] != (self.dim,):
            raise ValueError(f"z has shape {z.shape} but must be (..., {self.dim}), the last axis being dim.")
        if mask is None:
            return jnp.ones(z.shape[:-1], jnp.float32)
        if mask.shape != z.shape[:-1]:
            raise ValueError(f"mask has shape {mask.shape} but the tokens have {z.shape[:-1]}: make them equal.")
        return mask.astype(jnp.float32)

    def _advance_stats(self, counts):
        if not self.is_mutable_collection("codebook_stats"):
            raise ValueError("train=True advances codebook_stats: pass mutable=['codebook_stats'] to apply.")
        total = jnp.sum(counts)
        older = jnp.minimum(self.age.value + total.astype(jnp.int32), NEVER)
        self.age.value = jnp.where(counts > 0, 0, older)
        self.usage.value = jnp.exp(-total / USAGE_WINDOW) * self.usage.value + counts


def _apply(rows, transform):
    if transform is None:
        return rows.astype(jnp.float32)
    weight, bias = transform
    q = jnp.dot(rows.astype(jnp.float32), weight, precision=HIGHEST)
    return q if bias is None else q + jnp.broadcast_to(bias, q.shape)
