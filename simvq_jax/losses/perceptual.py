"""LPIPS, the learned perceptual image distance (Zhang et al., 2018, version 0.1, on features of VGG16 or AlexNet)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.models.pretrained import alexnet, vgg
from simvq_jax.models.pretrained.weights import Published, read_published, select_weights

_LINEAR = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/"


class Backbone(NamedTuple):
    """A network whose features are compared, its published files, and how its tensors become parameters."""

    features: Any
    widths: tuple[int, ...]
    params: Callable[[Mapping[str, np.ndarray], str], dict[str, Any]]
    file: Published
    linear_file: Published


BACKBONES = {
    "vgg": Backbone(
        vgg.VGG16Features,
        vgg.WIDTHS,
        vgg.vgg16_params,
        vgg.VGG16,
        Published(_LINEAR + "vgg.pth", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
    ),
    "alex": Backbone(
        alexnet.AlexNetFeatures,
        alexnet.WIDTHS,
        alexnet.alexnet_params,
        alexnet.ALEXNET,
        Published(_LINEAR + "alex.pth", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    ),
}

# The published scaling layer: ImageNet's mean and deviation, for images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10


def lpips(params: Mapping[str, Any], x: jax.Array, y: jax.Array, *, dtype: Any = jnp.float32) -> jax.Array:
    """Perceptual distance of each pair of images (equation 1 of the paper).

    Args:
        params: from `load_lpips`, of either backbone.
        x: (batch, height, width, 3), float in [-1, 1], both sides at least 16 pixels (VGG16) or 31 (AlexNet).
        y: like `x`.
        dtype: compute dtype of the backbone; normalisation and every mean and sum are float32.

    Returns:
        (batch,) float32. Its gradient is finite in float32 and bfloat16, at x == y and on flat images too.

    Raises:
        ValueError: the shapes differ or are not images, or the values are not floats.
    """
    _check_images(x, y)
    name = next(name for name in BACKBONES if name in params)
    net = BACKBONES[name].features(dtype=dtype)
    # Two calls rather than one of twice the batch: no backward pass runs through an image held constant.
    features_x, features_y = (net.apply({"params": params[name]}, _scale(images)) for images in (x, y))
    total = jnp.zeros(x.shape[0], jnp.float32)
    for index, (map_x, map_y) in enumerate(zip(features_x, features_y, strict=True)):
        weight = params["linear"][f"lin{index}"].reshape(1, 1, 1, -1)
        difference = jnp.square(_unit(map_x) - _unit(map_y)) * weight
        total += jnp.mean(jnp.sum(difference, axis=-1), axis=(1, 2))
    return total


def lpips_linear_params(
    weights: Mapping[str, np.ndarray], name: str = "The LPIPS linear weights", backbone: str = "vgg"
) -> dict[str, np.ndarray]:
    """The weights of the five linear layers, one a feature map.

    Args:
        weights: tensors under LPIPS' names, `lin0.model.1.weight` (1, 64, 1, 1) and so on.
        name: what the error calls the weights.
        backbone: "vgg" or "alex".

    Returns:
        `{"lin0": (c,), ..., "lin4": (c,)}` in float32, c the feature map's channels.

    Raises:
        WeightFileError: tensors are missing or misshapen; one sentence lists all of them.
    """
    widths = BACKBONES[backbone].widths
    shapes = {f"lin{index}.model.1.weight": (1, width, 1, 1) for index, width in enumerate(widths)}
    chosen = select_weights(weights, shapes, name)
    return {key.split(".")[0]: value.astype(np.float32).reshape(-1) for key, value in chosen.items()}


def load_lpips(
    features_path: str | Path, linear_path: str | Path, *, backbone: str = "vgg", verify: bool = True
) -> dict[str, Any]:
    """Parameters of `lpips` from local weight files; nothing is downloaded.

    Args:
        features_path: torchvision's weights of the backbone (`BACKBONES[backbone].file`), or a conversion under the
            same tensor names.
        linear_path: LPIPS' linear layers (`BACKBONES[backbone].linear_file`), or such a conversion.
        backbone: "vgg" or "alex".
        verify: compares each file's SHA-256 with the published one; a difference logs one warning.

    Returns:
        `{backbone: parameters of its features, "linear": {"lin0": (c,), ...}}`, numpy arrays in float32.

    Raises:
        FileNotFoundError: a file is missing; the sentence names its source and SHA-256.
        WeightFileError: a file cannot be read, or its tensors do not fit.
    """
    net = BACKBONES[backbone]
    features = read_published(features_path, net.file, verify=verify)
    linear = read_published(linear_path, net.linear_file, verify=verify)
    return {
        backbone: net.params(features, f"{features_path}: the weights of LPIPS' features"),
        "linear": lpips_linear_params(linear, f"{linear_path}: the LPIPS linear weights", backbone),
    }


def _check_images(x: jax.Array, y: jax.Array) -> None:
    if x.shape != y.shape or x.ndim != 4 or x.shape[-1] != 3:
        raise ValueError(f"lpips got shapes {x.shape} and {y.shape}; give two of (batch, height, width, 3).")
    for images in (x, y):
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"lpips got images of dtype {images.dtype}; give floats in [-1, 1].")


def _scale(images: jax.Array) -> jax.Array:
    shift, scale = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3) for values in (_SHIFT, _SCALE))
    return (images.astype(jnp.float32) - shift) / scale


def _unit(features: jax.Array) -> jax.Array:
    """Features (..., c) at unit length over their channels, in float32; zero stays zero."""
    features = features.astype(jnp.float32)
    square = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    # The root's slope at zero is infinite, and times zero not a number: take the root of one there.
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return features / (norm + _EPSILON)
