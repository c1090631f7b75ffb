"""x W + b: the layer that moves a codebook, or projects tokens to one and back."""

import flax.linen as nn
import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST


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

        self.param("kernel", uniform, (self.in_features, self.out_features))
        if self.use_bias:
            self.param("bias", uniform, (self.out_features,))

    def weights(self):
        """W: (in_features, out_features), and b: (out_features,) or None."""
        read = self.get_variable
        return read("params", "kernel"), read("params", "bias") if self.use_bias else None

    def start_at(self, kernel, bias) -> None:
        """Replaces what the parameters start from, during `init`."""
        self.put_variable("params", "kernel", kernel)
        if self.use_bias:
            self.put_variable("params", "bias", bias)

    def __call__(self, x):
        """x: (..., in_features) -> (..., out_features), float32."""
        return apply_transform(x, self.weights())


def apply_transform(rows, transform):
    """rows W + b: (..., d_basis) -> float32 (..., d); transform: (W, b or None), or None."""
    if transform is None:
        return rows.astype(jnp.float32)
    weight, bias = transform
    q = jnp.dot(rows.astype(jnp.float32), weight, precision=HIGHEST)
    return q if bias is None else q + jnp.broadcast_to(bias, q.shape)
