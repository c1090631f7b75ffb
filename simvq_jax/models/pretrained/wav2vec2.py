"""wav2vec 2.0 (Baevski et al., 2020, 2006.11477) without its pretraining parts, as fairseq's base model has it.

Arrays: sound: float32 (b, samples) at 16 kHz; lengths: int32 (b,) samples that count, or frames.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.dsp import before
from simvq_jax.models.layers import gelu
from simvq_jax.models.pretrained.weights import select_weights

LAYERS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))  # size and stride of the convolutions
EPSILON = 1e-5  # of every norm


class Sizes(NamedTuple):
    """channels: of the convolutions; reach: size of the positions' kernel, which takes `groups` groups of channels."""

    channels: int = 512
    width: int = 768
    hidden: int = 3072
    depth: int = 12
    heads: int = 12
    reach: int = 128
    groups: int = 16


BASE = Sizes()


def frames_of(lengths):
    """Frames of so many samples, 0 where there are too few."""
    for size, stride in LAYERS:
        lengths = (lengths - size) // stride + 1
    return jnp.maximum(lengths, 0)


class Wav2Vec2(nn.Module):
    """Sound to features; what is behind an item's length changes nothing."""

    sizes: Sizes = BASE

    @nn.compact
    def __call__(self, sound, lengths):
        """sound: (b, samples) -> (b, frames, width), 0 behind an item's frames."""
        sizes = self.sizes
        x = sound[..., None]
        for i, (size, stride) in enumerate(LAYERS):
            x = nn.Conv(sizes.channels, (size,), stride, padding="VALID", use_bias=False, name=f"conv{i}")(x)
            if i == 0:
                mask = jnp.broadcast_to(before((lengths - size) // stride + 1, x.shape[1])[..., None], x.shape)
                norm = nn.GroupNorm(None, group_size=1, epsilon=EPSILON, use_fast_variance=False, name="conv_norm")
                x = norm(x, mask=mask)
            x = gelu(x)
        counts = before(frames_of(lengths), x.shape[1])
        x = nn.Dense(sizes.width, name="project")(layer_norm("features_norm")(x))
        x = jnp.where(counts[..., None], x, 0.0)
        x = layer_norm("encoder_norm")(x + gelu(Positions(sizes.reach, sizes.groups, name="positions")(x)))
        for i in range(sizes.depth):
            x = Layer(sizes.hidden, sizes.heads, name=f"layer{i}")(x, counts)
        return jnp.where(counts[..., None], x, 0.0)


class Positions(nn.Module):
    """A wide convolution, zeros at the ends, that tells where a frame stands."""

    reach: int
    groups: int

    @nn.compact
    def __call__(self, x):
        """(b, frames, c) -> the same."""
        half = self.reach // 2
        padding = ((half, half - 1 + self.reach % 2),)
        return nn.Conv(x.shape[-1], (self.reach,), padding=padding, feature_group_count=self.groups, name="conv")(x)


class Layer(nn.Module):
    """A transformer's layer with the norms behind: norm(x + attention(x)), norm(x + mlp(x))."""

    hidden: int
    heads: int

    @nn.compact
    def __call__(self, x, counts):
        """x: (b, frames, c), counts: bool (b, frames) -> the same as x."""
        width = x.shape[-1]
        query, key, value = (
            nn.DenseGeneral((self.heads, width // self.heads), name=name)(x) for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(query, key, value, mask=counts[:, None, None])
        x = layer_norm("attention_norm")(x + nn.DenseGeneral(width, axis=(-2, -1), name="out")(mixed))
        y = nn.Dense(width, name="mlp_out")(gelu(nn.Dense(self.hidden, name="mlp_in")(x)))
        return layer_norm("mlp_norm")(x + y)


def layer_norm(name: str):
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)


def wav2vec2_params(weights: Mapping[str, np.ndarray], sizes: Sizes, prefix: str, name: str) -> dict[str, Any]:
    """Parameters of `Wav2Vec2` from tensors under fairseq's names behind a prefix.

    Raises WeightFileError: tensors are missing or misshapen; one sentence lists all of them.
    """
    shapes = {prefix + key: shape for key, shape in _shapes(sizes).items()}
    w = {
        key.removeprefix(prefix): value.astype(np.float32)
        for key, value in select_weights(weights, shapes, name).items()
    }
    params: dict[str, Any] = {
        f"conv{i}": {"kernel": w[f"feature_extractor.conv_layers.{i}.0.weight"].transpose(2, 1, 0)}
        for i in range(len(LAYERS))
    }
    params["conv_norm"] = _norm(w, "feature_extractor.conv_layers.0.2")
    params |= {"features_norm": _norm(w, "layer_norm"), "encoder_norm": _norm(w, "encoder.layer_norm")}
    params["project"] = dense_params(w, "post_extract_proj")
    direction, length = w["encoder.pos_conv.0.weight_v"], w["encoder.pos_conv.0.weight_g"]
    kernel = direction * (length / np.sqrt((direction**2).sum(axis=(0, 1), keepdims=True)))
    params["positions"] = {"conv": {"kernel": kernel.transpose(2, 1, 0), "bias": w["encoder.pos_conv.0.bias"]}}
    for i in range(sizes.depth):
        params[f"layer{i}"] = _layer(w, f"encoder.layers.{i}", sizes)
    return params


def _layer(w, prefix: str, sizes: Sizes) -> dict[str, Any]:
    by_head = sizes.heads, sizes.width // sizes.heads
    projections = {}
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
        dense = dense_params(w, f"{prefix}.self_attn.{theirs}_proj")
        projections[ours] = {"kernel": dense["kernel"].reshape(-1, *by_head), "bias": dense["bias"].reshape(by_head)}
    out = dense_params(w, f"{prefix}.self_attn.out_proj")
    return {
        **projections,
        "out": {"kernel": out["kernel"].reshape(*by_head, -1), "bias": out["bias"]},
        "attention_norm": _norm(w, f"{prefix}.self_attn_layer_norm"),
        "mlp_in": dense_params(w, f"{prefix}.fc1"),
        "mlp_out": dense_params(w, f"{prefix}.fc2"),
        "mlp_norm": _norm(w, f"{prefix}.final_layer_norm"),
    }


def dense_params(w, name: str) -> dict[str, np.ndarray]:
    return {"kernel": w[f"{name}.weight"].T, "bias": w[f"{name}.bias"]}


def _norm(w, name: str) -> dict[str, np.ndarray]:
    return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}


def _shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """By fairseq's name."""
    c, width, hidden = sizes.channels, sizes.width, sizes.hidden
    shapes: dict[str, tuple[int, ...]] = {
        f"feature_extractor.conv_layers.{i}.0.weight": (c, c if i else 1, size) for i, (size, _) in enumerate(LAYERS)
    }
    linear = {"post_extract_proj": (width, c)}
    norms = {"feature_extractor.conv_layers.0.2": c, "layer_norm": c, "encoder.layer_norm": width}
    for i in range(sizes.depth):
        layer = f"encoder.layers.{i}"
        linear |= {f"{layer}.self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
        linear |= {f"{layer}.fc1": (hidden, width), f"{layer}.fc2": (width, hidden)}
        norms |= {f"{layer}.self_attn_layer_norm": width, f"{layer}.final_layer_norm": width}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, size in norms.items():
        shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    return shapes | {
        "encoder.pos_conv.0.weight_v": (width, width // sizes.groups, sizes.reach),
        "encoder.pos_conv.0.weight_g": (1, 1, sizes.reach),
        "encoder.pos_conv.0.bias": (width,),
    }
