"""Inception-v3 (Szegedy et al., 2015, 1512.00567) as the Frechet distance takes it: TensorFlow's of 2015-12-05.

It differs from later ones: average pools leave the padding out, and the last block pools by maximum. Batch norms, which
are constants here, are part of the convolutions.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from simvq_jax.models.pretrained.weights import Published, select_weights

INCEPTION = Published(
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
FEATURES = 2048
SIDE = 299  # pixels of the input
EPSILON = 1e-3  # of the batch norms

Pair = tuple[int, int]
Layer = tuple[str, int, Pair]  # name, channels, size of the kernel


class InceptionV3(nn.Module):
    """Pictures to the 2,048 features before the classifier."""

    @nn.compact
    def __call__(self, x) -> jax.Array:
        """x: (b, 299, 299, 3) in about [-1, 1] -> (b, 2048) float32."""
        x = unit("Conv2d_1a_3x3", 32, (3, 3), stride=2)(x)
        x = unit("Conv2d_2a_3x3", 32, (3, 3), padded=False)(x)
        x = unit("Conv2d_2b_3x3", 64, (3, 3))(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = unit("Conv2d_3b_1x1", 80, (1, 1))(x)
        x = unit("Conv2d_4a_3x3", 192, (3, 3), padded=False)(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        for name, pool in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = Fine(pool, name=f"Mixed_{name}")(x)
        x = FineToMiddle(name="Mixed_6a")(x)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = Middle(width, name=f"Mixed_{name}")(x)
        x = MiddleToCoarse(name="Mixed_7a")(x)
        x = Coarse(average_pool, name="Mixed_7b")(x)
        x = Coarse(max_pool, name="Mixed_7c")(x)
        return jnp.mean(x, axis=(1, 2))


class Fine(nn.Module):
    """At an eighth of the input: 1x1, 5x5, twice 3x3, and a pool."""

    pool: int

    @nn.compact
    def __call__(self, x):
        return join(
            chain(x, ("branch1x1", 64, (1, 1))),
            chain(x, ("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5))),
            chain(x, ("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))),
            chain(average_pool(x), ("branch_pool", self.pool, (1, 1))),
        )


class FineToMiddle(nn.Module):
    """Halves the sides."""

    @nn.compact
    def __call__(self, x):
        double = chain(x, ("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)))
        return join(
            unit("branch3x3", 384, (3, 3), stride=2)(x),
            unit("branch3x3dbl_3", 96, (3, 3), stride=2)(double),
            nn.max_pool(x, (3, 3), (2, 2)),
        )


class Middle(nn.Module):
    """At a sixteenth: 7x7 as rows and columns, once and twice."""

    width: int

    @nn.compact
    def __call__(self, x):
        w = self.width
        single = [("branch7x7_1", w, (1, 1)), ("branch7x7_2", w, (1, 7)), ("branch7x7_3", 192, (7, 1))]
        double = [("branch7x7dbl_1", w, (1, 1)), ("branch7x7dbl_2", w, (7, 1)), ("branch7x7dbl_3", w, (1, 7))]
        double += [("branch7x7dbl_4", w, (7, 1)), ("branch7x7dbl_5", 192, (1, 7))]
        return join(
            chain(x, ("branch1x1", 192, (1, 1))),
            chain(x, *single),
            chain(x, *double),
            chain(average_pool(x), ("branch_pool", 192, (1, 1))),
        )


class MiddleToCoarse(nn.Module):
    """Halves the sides again."""

    @nn.compact
    def __call__(self, x):
        seven = [("branch7x7x3_1", 192, (1, 1)), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1))]
        return join(
            unit("branch3x3_2", 320, (3, 3), stride=2)(chain(x, ("branch3x3_1", 192, (1, 1)))),
            unit("branch7x7x3_4", 192, (3, 3), stride=2)(chain(x, *seven)),
            nn.max_pool(x, (3, 3), (2, 2)),
        )


class Coarse(nn.Module):
    """At a thirty-second: 3x3 as a row beside a column. pool: what the last branch does first."""

    pool: Any

    @nn.compact
    def __call__(self, x):
        single = chain(x, ("branch3x3_1", 384, (1, 1)))
        double = chain(x, ("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3)))
        return join(
            chain(x, ("branch1x1", 320, (1, 1))),
            chain(single, ("branch3x3_2a", 384, (1, 3))),
            chain(single, ("branch3x3_2b", 384, (3, 1))),
            chain(double, ("branch3x3dbl_3a", 384, (1, 3))),
            chain(double, ("branch3x3dbl_3b", 384, (3, 1))),
            chain(self.pool(x), ("branch_pool", 192, (1, 1))),
        )


def unit(name: str, features: int, size: Pair, stride: int = 1, padded: bool = True):
    """Convolution and rectifier. Strided ones see no padding."""
    sides = [(n // 2, n // 2) if padded and stride == 1 else (0, 0) for n in size]
    convolve = nn.Conv(features, size, (stride, stride), sides, precision=jax.lax.Precision.HIGHEST, name=name)
    return lambda x: nn.relu(convolve(x))


def chain(x, *layers: Layer):
    """One unit after the other."""
    for layer in layers:
        x = unit(*layer)(x)
    return x


def join(*branches):
    """Channels of all branches."""
    return jnp.concatenate(branches, axis=-1)


def average_pool(x):
    """3x3 at stride 1; at the border a mean over fewer."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def max_pool(x):
    """3x3 at stride 1."""
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def inception_params(weights: Mapping[str, np.ndarray], name: str = "The Inception weights") -> dict[str, Any]:
    """Parameters of `InceptionV3` from PyTorch tensors under torchvision's names, batch norms folded in.

    Others, such as the classifier, are left aside. Raises WeightFileError where tensors are missing or misshapen.
    """
    picture = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    shapes = flatten_dict(jax.eval_shape(InceptionV3().init, jax.random.key(0), picture)["params"])
    kernels = {".".join(path[:-1]): leaf.shape for path, leaf in shapes.items() if path[-1] == "kernel"}
    wanted: dict[str, tuple[int, ...]] = {}
    for module, (h, w, inputs, outputs) in kernels.items():
        wanted[f"{module}.conv.weight"] = (outputs, inputs, h, w)
        for statistic in ("weight", "bias", "running_mean", "running_var"):
            wanted[f"{module}.bn.{statistic}"] = (outputs,)
    chosen = select_weights(weights, wanted, name)
    params = {}
    for module in kernels:
        kernel = chosen[f"{module}.conv.weight"].astype(np.float64).transpose(2, 3, 1, 0)
        scale, shift, mean, variance = (
            chosen[f"{module}.bn.{statistic}"].astype(np.float64)
            for statistic in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / np.sqrt(variance + EPSILON)
        path = tuple(module.split("."))
        params[(*path, "kernel")] = (kernel * factor).astype(np.float32)
        params[(*path, "bias")] = (shift - mean * factor).astype(np.float32)
    return unflatten_dict(params)
