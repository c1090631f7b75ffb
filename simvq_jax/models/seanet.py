"""SEANet, the encoder and decoder of EnCodec (Defossez et al., 2022, 2210.13438), with weight norm.

Arrays: sound: (b, samples); latents: (b, tokens, d); lengths: int32 (b,) samples that count, or None for all.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from simvq_jax.models.conv1d import Conv1d, ConvTranspose1d, clear, shorter
from simvq_jax.models.lstm import LSTM

RATIOS = (8, 5, 4, 2)  # of the decoder, first to last; 320 samples a token


class ResidualBlock(nn.Module):
    """skip(x) + conv1(elu(conv3(elu(x)))), half as wide between the two. The skip is a convolution of size 1."""

    size: int
    dilation: int
    causal: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x, lengths=None):
        """x: (b, samples, c) -> the same."""
        width, shared = x.shape[-1], {"causal": self.causal, "dtype": self.dtype}
        y = Conv1d(width // 2, self.size, dilation=self.dilation, **shared, name="conv1")(nn.elu(x), lengths)
        y = Conv1d(width, 1, **shared, name="conv2")(nn.elu(clear(y, lengths)))
        return clear(Conv1d(width, 1, **shared, name="skip")(x) + y, lengths)


class Memory(nn.Module):
    """x + LSTM(LSTM(x))."""

    layers: int

    @nn.compact
    def __call__(self, x):
        """x: (b, tokens, d) -> the same."""
        y = x
        for i in range(self.layers):
            y, _ = LSTM(name=f"lstm{i}")(y)
        return x + y


class SEANetEncoder(nn.Module):
    """Sound to latents.

    Fields:
        width: channels of the first level; each level has twice those of the one before.
        ratios: strides of the decoder, in its order; the encoder takes them from the last to the first.
        residual_blocks: a level; dilated 1, 2, 4, ... times. lstm_layers: behind the last level.
        latent_channels: d. causal: a token depends on no sample behind its own.
    """

    width: int = 32
    ratios: Sequence[int] = RATIOS
    residual_blocks: int = 1
    lstm_layers: int = 2
    latent_channels: int = 512
    causal: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x, lengths=None):
        """x: (b, samples) -> (b, ceil(samples / hop), d), 0 where an item has no token."""
        shared = {"causal": self.causal, "dtype": self.dtype}
        x = clear(Conv1d(self.width, 7, **shared, name="conv_in")(clear(x[..., None], lengths), lengths), lengths)
        width = self.width
        for level, ratio in enumerate(reversed(self.ratios)):
            for i in range(self.residual_blocks):
                x = ResidualBlock(3, 2**i, **shared, name=f"down{level}_block{i}")(x, lengths)
            width *= 2
            x = Conv1d(width, 2 * ratio, ratio, **shared, name=f"down{level}")(nn.elu(x), lengths)
            lengths = shorter(lengths, ratio)
            x = clear(x, lengths)
        x = clear(Memory(self.lstm_layers, name="memory")(x), lengths)
        return clear(Conv1d(self.latent_channels, 7, **shared, name="conv_out")(nn.elu(x), lengths), lengths)


class SEANetDecoder(nn.Module):
    """Latents to sound; fields as in `SEANetEncoder`."""

    width: int = 32
    ratios: Sequence[int] = RATIOS
    residual_blocks: int = 1
    lstm_layers: int = 2
    causal: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, z):
        """z: (b, tokens, d) -> (b, hop * tokens), float32."""
        shared = {"causal": self.causal, "dtype": self.dtype}
        width = self.width * 2 ** len(self.ratios)
        x = Memory(self.lstm_layers, name="memory")(Conv1d(width, 7, **shared, name="conv_in")(z))
        for level, ratio in enumerate(self.ratios):
            width //= 2
            x = ConvTranspose1d(width, ratio, **shared, name=f"up{level}")(nn.elu(x))
            for i in range(self.residual_blocks):
                x = ResidualBlock(3, 2**i, **shared, name=f"up{level}_block{i}")(x)
        return Conv1d(1, 7, **shared, name="conv_out")(nn.elu(x))[..., 0].astype(jnp.float32)
