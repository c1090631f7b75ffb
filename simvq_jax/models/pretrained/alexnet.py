"""AlexNet's feature maps (Krizhevsky, 2014, 1404.5997) with torchvision's ImageNet weights."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.models.pretrained.weights import Published, select_weights

ALEXNET = Published(
    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
)
WIDTHS = (64, 192, 384, 256, 256)  # channels of the five feature maps
MIN_SIDE = 31  # pixels: two poolings of 3 after a stride of 4

# Of each convolution: position in torchvision's `features`, size, stride, padding, and whether a pooling is before it.
_LAYERS = ((0, 11, 4, 2, False), (3, 5, 1, 2, True), (6, 3, 1, 1, True), (8, 3, 1, 1, False), (10, 3, 1, 1, False))


class AlexNetFeatures(nn.Module):
    """The five feature maps that LPIPS compares: behind each convolution's rectifier."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """x: ImageNet-normalised (b, h, w, 3), both sides at least 31 -> five arrays (b, h', w', c).

        Raises ValueError if a side is shorter.
        """
        if min(x.shape[1:3]) < MIN_SIDE:
            raise ValueError(f"AlexNet got images of shape {x.shape}, the shortest side is {MIN_SIDE}; enlarge them.")
        maps = []
        for i, ((_, size, stride, pad, pooled), width) in enumerate(zip(_LAYERS, WIDTHS, strict=True), start=1):
            x = nn.max_pool(x, (3, 3), (2, 2)) if pooled else x
            padding = ((pad, pad), (pad, pad))
            x = nn.relu(nn.Conv(width, (size, size), (stride, stride), padding, dtype=self.dtype, name=f"conv{i}")(x))
            maps.append(x)
        return tuple(maps)


def alexnet_params(weights: Mapping[str, np.ndarray], name: str = "The AlexNet weights") -> dict[str, Any]:
    """Parameters of `AlexNetFeatures` from PyTorch tensors under torchvision's names; others are left aside.

    Raises WeightFileError where tensors are missing or misshapen.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 3
    for (position, size, *_), width in zip(_LAYERS, WIDTHS, strict=True):
        shapes[f"features.{position}.weight"] = (width, inputs, size, size)
        shapes[f"features.{position}.bias"] = (width,)
        inputs = width
    chosen = select_weights(weights, shapes, name)
    return {
        f"conv{i}": {
            "kernel": np.ascontiguousarray(chosen[f"features.{position}.weight"].transpose(2, 3, 1, 0), np.float32),
            "bias": chosen[f"features.{position}.bias"].astype(np.float32),
        }
        for i, (position, *_) in enumerate(_LAYERS, start=1)
    }
