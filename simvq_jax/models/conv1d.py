"""Convolutions over time, as SEANet has them (EnCodec, 2210.13438): weight norm, and padding for any length.

Arrays: x: (b, samples, channels); lengths: int32 (b,) samples that count, or None for all.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from simvq_jax.dsp import before, reflect
from simvq_jax.models.layers import WeightNormConv, weight_normed


class Conv1d(nn.Module):
    """Weight-normed convolution that gives ceil(samples / stride) samples, whatever their number.

    Fields:
        size: of the kernel. stride, dilation: at most one of them above 1.
        causal: an output depends on no later input; else the padding is on both sides.
    With `lengths`, each item is padded where it ends, so a batch gives what its items give alone; x must be 0 behind.
    """

    features: int
    size: int
    stride: int = 1
    dilation: int = 1
    causal: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x, lengths=None):
        """x: (b, samples, c) -> (b, ceil(samples / stride), features)."""
        total = (self.size - 1) * self.dilation - (self.stride - 1)
        right = 0 if self.causal else total // 2
        fill = -x.shape[1] % self.stride  # so that the last window is full
        x = reflect(x, total - right, right + fill, lengths, self.stride)
        return WeightNormConv(
            self.features, (self.size,), (self.stride,), dilation=(self.dilation,), dtype=self.dtype, name="conv"
        )(x)


class ConvTranspose1d(nn.Module):
    """Weight-normed transposed convolution with a kernel of two strides, that gives stride * samples samples.

    What a kernel adds beyond them is cut: at the end if causal, else on both sides. The norm is by input channel, as in
    torch, whose kernel has that axis first.
    """

    features: int
    stride: int
    causal: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        """x: (b, samples, c) -> (b, stride * samples, features)."""
        kernel = weight_normed(self, (2 * self.stride, x.shape[-1], self.features), axis=1)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = jax.lax.conv_general_dilated(
            x,
            kernel[::-1],
            (1,),
            ((2 * self.stride - 1,) * 2,),
            lhs_dilation=(self.stride,),
            dimension_numbers=("NHC", "HIO", "NHC"),
        )
        left = 0 if self.causal else self.stride - self.stride // 2
        return y[:, left : left + self.stride * x.shape[1]] + bias[None, None]


def shorter(lengths, stride: int):
    """Lengths behind a convolution of this stride; None stays None."""
    return None if lengths is None else -(-lengths // stride)


def clear(x, lengths):
    """x, 0 behind each item's length."""
    return x if lengths is None else jnp.where(counted(x, lengths), x, 0.0)


def counted(x, lengths):
    """Which of the samples count: bool (b, samples, 1)."""
    return before(lengths, x.shape[1])[..., None]
