"""SEANet, the encoder and decoder of EnCodec (Defossez et al., 2022, 2210.13438), with weight norm.

Arrays: sound: (b, samples); latents: (b, tokens, d); lengths: int32 (b,) samples that count, or None for all.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from simvq_jax.models.conv1d import Conv1d, ConvTranspose1d, clear, shorter
from simvq_jax.models.lstm import LSTM

FIRST, INNER, LAST = 7, 3, 7  # sizes of kernels: of the first convolution, of residual blocks, of the last one
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
    def __call__(self, x, states=None):
        """x: (b, tokens, d); states: what was returned before, or None at the start -> the same as x, states."""
        y, after = x, []
        for i in range(self.layers):
            y, state = LSTM(name=f"lstm{i}")(y, None if states is None else states[i])
            after.append(state)
        return x + y, tuple(after)


class SEANetEncoder(nn.Module):
    """Sound to latents.

    Fields:
        width: channels of the first level; each level has twice those of the one before.
        ratios: strides of the decoder, in its order; the encoder takes them from the last to the first.
        residual_blocks: a level; dilated 1, 2, 4, ... times. lstm_layers: behind the last level.
        latent_channels: d. causal: a token depends on no sample behind its own.

    `convolve`, `remember` and `project` are its three parts, for streams.
    """

    width: int = 32
    ratios: Sequence[int] = RATIOS
    residual_blocks: int = 1
    lstm_layers: int = 2
    latent_channels: int = 512
    causal: bool = True
    dtype: Any = None

    def setup(self):
        self.memory = Memory(self.lstm_layers)
        self.conv_out = Conv1d(self.latent_channels, LAST, causal=self.causal, dtype=self.dtype)

    def __call__(self, x, lengths=None):
        """x: (b, samples) -> (b, ceil(samples / hop), d), 0 where an item has no token."""
        tokens = shorter(lengths, math.prod(self.ratios))
        y, _ = self.remember(self.convolve(x, lengths))
        return self.project(clear(y, tokens), tokens)

    @nn.compact
    def convolve(self, x, lengths=None):
        """Every level: (b, samples) -> (b, ceil(samples / hop), c), 0 where an item has no token."""
        shared = {"causal": self.causal, "dtype": self.dtype}
        x = clear(Conv1d(self.width, FIRST, **shared, name="conv_in")(clear(x[..., None], lengths), lengths), lengths)
        width = self.width
        for level, ratio in enumerate(reversed(self.ratios)):
            for i in range(self.residual_blocks):
                x = ResidualBlock(INNER, 2**i, **shared, name=f"down{level}_block{i}")(x, lengths)
            width *= 2
            x = Conv1d(width, 2 * ratio, ratio, **shared, name=f"down{level}")(nn.elu(x), lengths)
            lengths = shorter(lengths, ratio)
            x = clear(x, lengths)
        return x

    def remember(self, x, states=None):
        """The LSTM: (b, tokens, c) -> the same, and its states after the last token, to go on from."""
        return self.memory(x, states)

    def project(self, x, lengths=None):
        """The last convolution: (b, tokens, c) -> (b, tokens, d); lengths: in tokens."""
        return clear(self.conv_out(nn.elu(x), lengths), lengths)

    @property
    def reach(self) -> int:
        """Samples before a token's last one that its output of `convolve` depends on."""
        reach, step = FIRST - 1, 1
        for ratio in reversed(self.ratios):
            reach += step * (INNER - 1) * sum(2**i for i in range(self.residual_blocks))
            reach += step * (2 * ratio - 1)
            step *= ratio
        return reach


class SEANetDecoder(nn.Module):
    """Latents to sound; fields as in `SEANetEncoder`."""

    width: int = 32
    ratios: Sequence[int] = RATIOS
    residual_blocks: int = 1
    lstm_layers: int = 2
    causal: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, z, lengths=None, train: bool = False):
        """z: (b, tokens, d) -> (b, hop * tokens), float32; lengths: in tokens; 0 behind an item's tokens."""
        del train  # nothing here differs in training
        shared = {"causal": self.causal, "dtype": self.dtype}
        width = self.width * 2 ** len(self.ratios)
        x = clear(Conv1d(width, FIRST, **shared, name="conv_in")(clear(z, lengths), lengths), lengths)
        x = clear(Memory(self.lstm_layers, name="memory")(x)[0], lengths)
        for level, ratio in enumerate(self.ratios):
            width //= 2
            x = ConvTranspose1d(width, ratio, **shared, name=f"up{level}")(nn.elu(x))
            lengths = None if lengths is None else lengths * ratio
            x = clear(x, lengths)
            for i in range(self.residual_blocks):
                x = ResidualBlock(INNER, 2**i, **shared, name=f"up{level}_block{i}")(x, lengths)
        sound = Conv1d(1, LAST, **shared, name="conv_out")(nn.elu(x), lengths)
        return clear(sound, lengths)[..., 0].astype(jnp.float32)
