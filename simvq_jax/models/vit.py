"""A vision transformer as encoder and decoder (after ViT-VQGAN, Yu et al., 2022, 2110.04627, section 3.1).

One token a patch; pre-norm blocks (LayerNorm, attention, LayerNorm, MLP); positions are rotations of queries and keys
by row and by column (RoFormer, 2104.09864, in two dimensions), so any size of picture works.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from simvq_jax.models.layers import conv, depth_to_space

BASE = 100.0  # of the rates, from one radian a patch down to nearly one in so many
XAVIER = nn.initializers.xavier_uniform()
PATCHES = nn.initializers.variance_scaling(
    1.0, "fan_avg", "uniform", in_axis=(0, 1, 2), out_axis=3
)  # a patch is one vector


class Attention(nn.Module):
    """Self-attention over all positions of a picture."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        """x: (b, h, w, c) -> (b, h, w, c)."""
        b, h, w, c = x.shape
        qkv = nn.Dense(3 * c, dtype=self.dtype, kernel_init=XAVIER, name="qkv")(x)
        query, key, value = jnp.split(qkv.reshape(b, h, w, 3 * self.heads, c // self.heads), 3, axis=3)
        tokens = [a.reshape(b, h * w, self.heads, -1) for a in (rotate(query), rotate(key), value)]
        mixed = jax.nn.dot_product_attention(*tokens).reshape(b, h, w, c)
        return nn.Dense(c, dtype=self.dtype, kernel_init=XAVIER, name="out")(mixed)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) with a hidden layer four times as wide (GELU)."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        """x: (b, h, w, c) -> (b, h, w, c)."""
        width = x.shape[-1]
        x = x + Attention(self.heads, self.dtype, name="attention")(layer_norm(self.dtype, "norm1")(x))
        y = layer_norm(self.dtype, "norm2")(x)
        y = nn.gelu(nn.Dense(4 * width, dtype=self.dtype, kernel_init=XAVIER, name="mlp_in")(y))
        return x + nn.Dense(width, dtype=self.dtype, kernel_init=XAVIER, name="mlp_out")(y)


class ViTEncoder(nn.Module):
    """Pictures to latents.

    Fields:
        patch: f, pixels a side of a token. width: channels, a multiple of 4 heads. depth: blocks.
        heads: of every attention. latent_channels: d.
        remat: recompute each block in the backward pass instead of keeping its activations.
    """

    patch: int = 8
    width: int = 512
    depth: int = 8
    heads: int = 8
    latent_channels: int = 128
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        """x: (b, h, w, 3) -> (b, h / f, w / f, d). Raises ValueError unless h and w are multiples of f, above 0."""
        check_heads(self.width, self.heads)
        _check_sides(x.shape, self.patch)
        size = (self.patch, self.patch)
        patches = nn.Conv(self.width, size, size, "VALID", dtype=self.dtype, kernel_init=PATCHES, name="patches")
        x = blocks(self, patches(x))
        return conv(self.latent_channels, 1, use_bias=True, dtype=self.dtype, name="conv_out")(x)


class ViTDecoder(nn.Module):
    """Latents to pictures; fields as in `ViTEncoder`."""

    patch: int = 8
    width: int = 512
    depth: int = 8
    heads: int = 8
    dtype: Any = None
    remat: bool = False

    def setup(self):
        self.conv_out = conv(3 * self.patch**2, 1, use_bias=True, dtype=self.dtype)

    def __call__(self, z):
        """z: (b, h, w, d) -> (b, f h, f w, 3)."""
        return self.to_pixels(self.features(z))

    @nn.compact
    def features(self, z):
        """Everything before the last layer: (b, h, w, d) -> (b, h, w, width)."""
        check_heads(self.width, self.heads)
        return blocks(self, conv(self.width, 1, use_bias=True, dtype=self.dtype, name="conv_in")(z))

    def to_pixels(self, x) -> jax.Array:
        """The last layer, apart because the adaptive discriminator weight differentiates by its kernel."""
        return depth_to_space(self.conv_out(x), self.patch)


def blocks(module, x):
    """The blocks of an encoder or decoder and the norm after them, declared in it."""
    block = nn.remat(Block) if module.remat else Block
    for i in range(module.depth):
        x = block(module.heads, module.dtype, name=f"block{i}")(x)
    return layer_norm(module.dtype, "norm_out")(x)


def layer_norm(dtype, name: str):
    """LayerNorm with eps 1e-6, statistics in float32."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


def rotate(x):
    """Turns the pairs of channels (i, i + c / 2) of every head, half of the pairs by the row, half by the column.

    x: (b, h, w, heads, c) -> the same; c a multiple of 4. Products of turned queries and keys depend on differences of
    positions alone.
    """
    h, w, c = x.shape[1], x.shape[2], x.shape[-1]
    rates = BASE ** -(jnp.arange(c // 4) / (c // 4))
    rows, columns = jnp.arange(h)[:, None] * rates[None], jnp.arange(w)[:, None] * rates[None]
    angles = jnp.concatenate(
        [jnp.broadcast_to(rows[:, None], (h, w, c // 4)), jnp.broadcast_to(columns[None], (h, w, c // 4))], axis=-1
    )[None, :, :, None]
    even, odd = x[..., : c // 2].astype(jnp.float32), x[..., c // 2 :].astype(jnp.float32)
    cos, sin = (jnp.broadcast_to(a, even.shape) for a in (jnp.cos(angles), jnp.sin(angles)))
    return jnp.concatenate([even * cos - odd * sin, even * sin + odd * cos], axis=-1).astype(x.dtype)


def _check_sides(shape, patch: int) -> None:
    """Of sizes that are known when the program is traced; exported ones are multiples by their symbols."""
    sides = [side for side in shape[1:3] if isinstance(side, int)]
    if any(side < 1 or side % patch for side in sides):
        raise ValueError(f"images are {shape[1]}x{shape[2]} but must be multiples of {patch}: pad or crop them.")


def check_heads(width: int, heads: int) -> None:
    """Raises ValueError unless every head gets a multiple of four channels."""
    if width < 1 or heads < 1 or width % (4 * heads):
        raise ValueError(
            f"a width of {width} is no positive multiple of 4 x {heads} heads: change model.width or model.heads."
        )
