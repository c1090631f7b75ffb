"""Vocos (Siuzdak, 2023, 2306.00814): sound from a spectrum that a network at the tokens' rate predicts.

With the position net of WavTokenizer (2408.16532) before the ConvNeXt blocks.
Arrays: latents: (b, tokens, d); lengths: int32 (b,) tokens that count, or None for all.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from simvq_jax import dsp
from simvq_jax.models.conv1d import clear, counted
from simvq_jax.models.layers import TORCH_KERNEL, gelu, group_norm

NARROW = nn.initializers.normal(0.02)  # the official one is cut off at 2, a hundred deviations away
LARGEST = 100.0  # magnitude that the head may give
GROUPS = 32  # of channels, of the position net's norms


class Block(nn.Module):
    """ConvNeXt (2201.03545) over time: x + gamma * MLP(norm(depthwise 7(x)))."""

    hidden: int
    gamma: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x, lengths=None):
        """x: (b, t, c) -> the same."""
        width = x.shape[-1]
        y = DepthwiseConv(7, self.dtype, name="depthwise")(x)
        y = layer_norm(self.dtype, "norm")(y)
        y = gelu(dense(self.hidden, self.dtype, "mlp_in", NARROW)(y))
        y = dense(width, self.dtype, "mlp_out", NARROW)(y)
        gamma = self.param("gamma", nn.initializers.constant(self.gamma), (width,))
        return clear(x + y * gamma.astype(y.dtype)[None, None], lengths)


class DepthwiseConv(nn.Module):
    """Each channel's own convolution over time, with zeros at the ends; parameters as `nn.Conv` has them.

    A sum of shifted products, which XLA fuses: on a CPU, with gradients, seven times as fast as a grouped convolution.
    """

    size: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        """x: (b, t, c) -> the same."""
        kernel = self.param("kernel", NARROW, (self.size, 1, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        padded = jnp.pad(x.astype(jnp.float32), ((0, 0), (self.size // 2,) * 2, (0, 0)))
        shifted = (padded[:, i : i + x.shape[1]] * kernel[i][None] for i in range(self.size))
        return sum(shifted, start=bias[None, None]).astype(self.dtype or x.dtype)


class ResidualBlock(nn.Module):
    """x + conv3(dropout(silu(norm(conv3(silu(norm(x)))))))."""

    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x, lengths=None, train: bool = False):
        """x: (b, t, c) -> the same."""
        width = x.shape[-1]
        y = normed(x, lengths, self.dtype, "norm1")
        y = clear(conv(width, 3, self.dtype, "conv1")(clear(nn.silu(y), lengths)), lengths)
        y = nn.silu(normed(y, lengths, self.dtype, "norm2"))
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        return clear(x + conv(width, 3, self.dtype, "conv2")(clear(y, lengths)), lengths)


class Attention(nn.Module):
    """x + self-attention(norm(x)) with one head, over all tokens."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x, lengths=None):
        """x: (b, t, c) -> the same."""
        width = x.shape[-1]
        y = normed(x, lengths, self.dtype, "norm")
        query, key, value = (dense(width, self.dtype, name)(y)[:, :, None] for name in ("query", "key", "value"))
        mixed = jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths)[:, :, 0]
        return clear(x + dense(width, self.dtype, "out")(mixed), lengths)


class VocosDecoder(nn.Module):
    """Latents to sound.

    Fields:
        width: channels. hidden: of the ConvNeXt blocks' layers. depth: of those blocks.
        hop: samples a token. n_fft: of the spectrum, a multiple of hop.
        dropout: share of the position net's activations that training drops; it needs `rngs={"dropout": key}`.
    """

    width: int = 768
    hidden: int = 2304
    depth: int = 12
    hop: int = 320
    n_fft: int = 1280
    dropout: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, z, lengths=None, train: bool = False):
        """z: (b, tokens, d) -> (b, hop * tokens), float32; 0 behind an item's tokens."""
        x = clear(conv(self.width, 7, self.dtype, "conv_in", NARROW)(clear(z, lengths)), lengths)
        x = self._position_net(x, lengths, train)
        x = clear(layer_norm(self.dtype, "norm_in")(x), lengths)
        for i in range(self.depth):
            x = Block(self.hidden, 1 / self.depth, self.dtype, name=f"block{i}")(x, lengths)
        return self._head(layer_norm(self.dtype, "norm_out")(x), lengths)

    def _position_net(self, x, lengths, train):
        for i in range(2):
            x = ResidualBlock(self.dropout, self.dtype, name=f"position_block{i}")(x, lengths, train)
        x = Attention(self.dtype, name="position_attention")(x, lengths)
        for i in range(2, 4):
            x = ResidualBlock(self.dropout, self.dtype, name=f"position_block{i}")(x, lengths, train)
        return normed(x, lengths, self.dtype, "position_norm")

    def _head(self, x, lengths):
        """Magnitudes and phases of a spectrum, in float32, and its inverse."""
        out = dense(self.n_fft + 2, jnp.float32, "head")(x.astype(jnp.float32))
        log_magnitude, phase = jnp.split(out, 2, axis=-1)
        magnitude = jnp.exp(jnp.minimum(log_magnitude, jnp.log(LARGEST)))
        spectrum = jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))
        return dsp.istft(spectrum, self.n_fft, self.hop, dsp.hann(self.n_fft), centred=False, lengths=lengths)


def conv(features: int, size: int, dtype, name: str, kernel_init=TORCH_KERNEL):
    """Convolution over time that keeps the length, with zeros at the ends."""
    return nn.Conv(
        features,
        (size,),
        padding=((size // 2, size // 2),),
        dtype=dtype,
        kernel_init=kernel_init,
        name=name,
    )


def dense(features: int, dtype, name: str, kernel_init=TORCH_KERNEL):
    return nn.Dense(features, dtype=dtype, kernel_init=kernel_init, name=name)


def normed(x, lengths, dtype, name: str):
    """Group normalisation over the tokens that count. x: (b, t, c) -> the same."""
    mask = None if lengths is None else jnp.broadcast_to(counted(x, lengths), x.shape)
    return group_norm(GROUPS, dtype, name)(x, mask=mask)


def layer_norm(dtype, name: str):
    """LayerNorm with eps 1e-6, statistics in float32."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name)
