"""PatchGAN (Isola et al., 2017, 1611.07004), as VQGAN and SimVQ use it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from simvq_jax.models.layers import BatchNorm, conv

KERNEL = nn.initializers.normal(0.02)


class PatchGAN(nn.Module):
    """Logits of overlapping patches.

    4x4 convolutions of widths w, 2w, 4w at stride 2, 8w at stride 1, then 1; batch norm on the batch's own
    statistics on all but the first and last.

    Fields: width: w. layers: convolutions at stride 2.
    """

    width: int = 64
    layers: int = 3
    dtype: Any = None

    @nn.compact
    def __call__(self, x) -> jax.Array:
        """x: (b, h, w, 3) in [-1, 1] -> (b, h', w', 1) float32 logits. Raises ValueError on too small a picture."""
        smallest = 2 ** (self.layers + 1) + 2**self.layers
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"the discriminator got a {x.shape[1]}x{x.shape[2]} picture but {self.layers} layers need {smallest}"
                f" pixels a side: raise data.size or lower discriminator.layers."
            )
        x = conv(self.width, 4, stride=2, use_bias=True, dtype=self.dtype, kernel_init=KERNEL, name="conv0")(x)
        x = nn.leaky_relu(x, 0.2)
        for i in range(1, self.layers + 1):
            features = self.width * min(2**i, 8)
            stride = 2 if i < self.layers else 1
            x = conv(
                features,
                4,
                stride=stride,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=KERNEL,
                name=f"conv{i}",
            )(x)
            x = nn.leaky_relu(BatchNorm(self.dtype, name=f"norm{i}")(x), 0.2)
        x = conv(1, 4, use_bias=True, dtype=self.dtype, kernel_init=KERNEL, name=f"conv{self.layers + 1}")(x)
        return x.astype(jnp.float32)
