"""The official convolutional encoder and decoder (SimVQ's `improved_model.py`, after MAGVIT-2)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from simvq_jax.models.layers import conv, depth_to_space, group_norm


class ResidualBlock(nn.Module):
    """norm, swish, 3x3, norm, swish, 3x3; a 1x1 convolution on the skip path where widths differ."""

    features: int
    groups: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        """x: (b, h, w, c) -> (b, h, w, features)."""
        y = nn.swish(group_norm(self.groups, self.dtype, name="norm1")(x))
        y = conv(self.features, 3, use_bias=False, dtype=self.dtype, name="conv1")(y)
        y = nn.swish(group_norm(self.groups, self.dtype, name="norm2")(y))
        y = conv(self.features, 3, use_bias=False, dtype=self.dtype, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, use_bias=False, dtype=self.dtype, name="skip")(x)
        return x + y


class Encoder(nn.Module):
    """Pictures to latents.

    Fields:
        width: channels of the first level. multipliers: width of every level; halved in resolution between levels.
        residual_blocks: a level, and again in the middle. latent_channels: d.
        norm_groups: groups of every GroupNorm; each level's width must be a multiple.
        remat: recompute each residual block in the backward pass instead of keeping its activations.
    """

    width: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 4)
    residual_blocks: int = 2
    latent_channels: int = 128
    norm_groups: int = 32
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        """x: (b, h, w, 3) -> (b, h / f, w / f, d), f = 2^(levels - 1)."""
        check_widths(self.width, self.multipliers, self.norm_groups)
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        x = conv(self.width, 3, use_bias=False, dtype=self.dtype, name="conv_in")(x)
        for level, multiplier in enumerate(self.multipliers):
            features = self.width * multiplier
            for i in range(self.residual_blocks):
                x = block(features, self.norm_groups, self.dtype, name=f"down{level}_block{i}")(x)
            if level < len(self.multipliers) - 1:
                x = conv(features, 3, stride=2, use_bias=True, dtype=self.dtype, name=f"down{level}_downsample")(x)
        for i in range(self.residual_blocks):
            x = block(features, self.norm_groups, self.dtype, name=f"mid_block{i}")(x)
        x = nn.swish(group_norm(self.norm_groups, self.dtype, name="norm_out")(x))
        return conv(self.latent_channels, 1, use_bias=True, dtype=self.dtype, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents to pictures; fields as in `Encoder`, levels from deep to shallow."""

    width: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 4)
    residual_blocks: int = 2
    norm_groups: int = 32
    dtype: Any = None
    remat: bool = False

    def setup(self):
        self.conv_out = conv(3, 3, use_bias=True, dtype=self.dtype)

    def __call__(self, z):
        """z: (b, h, w, d) -> (b, f h, f w, 3)."""
        return self.to_pixels(self.features(z))

    @nn.compact
    def features(self, z):
        """Everything before the last convolution: (b, h, w, d) -> (b, f h, f w, width of level 0)."""
        check_widths(self.width, self.multipliers, self.norm_groups)
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        deepest = len(self.multipliers) - 1
        features = self.width * self.multipliers[deepest]
        x = conv(features, 3, use_bias=True, dtype=self.dtype, name="conv_in")(z)
        for i in range(self.residual_blocks):
            x = block(features, self.norm_groups, self.dtype, name=f"mid_block{i}")(x)
        for level in reversed(range(len(self.multipliers))):
            features = self.width * self.multipliers[level]
            for i in range(self.residual_blocks):
                x = block(features, self.norm_groups, self.dtype, name=f"up{level}_block{i}")(x)
            if level > 0:
                x = conv(4 * features, 3, use_bias=True, dtype=self.dtype, name=f"up{level}_upsample")(x)
                x = depth_to_space(x)
        return nn.swish(group_norm(self.norm_groups, self.dtype, name="norm_out")(x))

    def to_pixels(self, x) -> jax.Array:
        """The last convolution, apart because the adaptive discriminator weight differentiates by its kernel."""
        return self.conv_out(x)


def check_widths(width: int, multipliers: Sequence[int], norm_groups: int) -> None:
    """Raises ValueError where a level's width is not a positive multiple of the norm groups."""
    for multiplier in multipliers:
        features = width * multiplier
        if features < 1 or features % norm_groups:
            raise ValueError(
                f"a level of width {width} x {multiplier} = {features} is no positive multiple of"
                f" norm_groups = {norm_groups}: change model.width, model.multipliers or model.norm_groups."
            )
