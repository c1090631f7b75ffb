"""VGG16 feature maps (Simonyan and Zisserman, 2015, configuration D) with torchvision's ImageNet weights."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.models.pretrained.weights import Published, select_weights

VGG16 = Published(
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
WIDTHS = (64, 128, 256, 512, 512)  # channels of the five feature maps
MIN_SIDE = 16  # pixels: four poolings halve each side before the last feature map

# Positions of the convolutions in torchvision's `features`, in the blocks between poolings.
_CONVS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


class VGG16Features(nn.Module):
    """The five feature maps that LPIPS compares: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.

    Attributes:
        dtype: compute dtype of the convolutions, and the dtype of the feature maps.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Feature maps of ImageNet-normalised images.

        Args:
            x: (batch, height, width, 3), both sides at least 16 pixels.

        Returns:
            Five arrays (batch, height / s, width / s, c), sides rounded down, for s = 1, 2, 4, 8, 16 and
            c = 64, 128, 256, 512, 512.

        Raises:
            ValueError: a side is shorter than 16 pixels.
        """
        if min(x.shape[1:3]) < MIN_SIDE:
            raise ValueError(f"VGG16 got images of shape {x.shape}, the shortest side is {MIN_SIDE}; enlarge them.")
        maps = []
        for block, (convs, width) in enumerate(zip(_CONVS, WIDTHS, strict=True), start=1):
            if block > 1:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for conv in range(1, len(convs) + 1):
                x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype, name=f"conv{block}_{conv}")(x))
            maps.append(x)
        return tuple(maps)


def vgg16_params(weights: Mapping[str, np.ndarray], name: str = "The VGG16 weights") -> dict[str, Any]:
    """Parameters of `VGG16Features` from PyTorch tensors.

    Args:
        weights: tensors under torchvision's names (`features.0.weight`, ...) or under those of an LPIPS
            module (`net.slice1.0.weight`, ...); others, such as the classifier, are left aside.
        name: what the error calls the weights.

    Returns:
        `{"conv1_1": {"kernel": (3, 3, 3, 64), "bias": (64,)}, ...}` in float32.

    Raises:
        WeightFileError: tensors are missing or misshapen; one sentence lists all of them.
    """
    sliced = any(key.startswith("net.slice") for key in weights)
    prefixes: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for block, (convs, width) in enumerate(zip(_CONVS, WIDTHS, strict=True), start=1):
        for conv, position in enumerate(convs, start=1):
            prefix = f"net.slice{block}.{position}" if sliced else f"features.{position}"
            prefixes[f"conv{block}_{conv}"] = prefix
            shapes |= {f"{prefix}.weight": (width, inputs, 3, 3), f"{prefix}.bias": (width,)}
            inputs = width
    chosen = select_weights(weights, shapes, name)
    return {
        conv: {
            "kernel": _hwio(chosen[f"{prefix}.weight"]),
            "bias": chosen[f"{prefix}.bias"].astype(np.float32),
        }
        for conv, prefix in prefixes.items()
    }


def _hwio(kernel: np.ndarray) -> np.ndarray:
    """PyTorch's (out, in, height, width) as flax's (height, width, in, out), in float32."""
    return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0), np.float32)
