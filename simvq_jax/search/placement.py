"""Where a search runs: tokens split over the mesh's axes, codes whole or split over its codebook axis."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

CODEBOOK_AXIS = "codebook"


def codebook_shards() -> int:
    """Devices that share one codebook on the current mesh."""
    return _automatic_axes().get(CODEBOOK_AXIS, 1)


def check_axes(*arrays) -> None:
    """Raises ValueError if an array is split over mesh axes of type Explicit: no operation here states its sharding.

    `jax.make_mesh` makes such axes unless told otherwise.
    """
    for array in arrays:
        spec = jax.typeof(array).sharding.spec
        if any(axis is not None for axis in spec):
            raise ValueError(
                f"an array is split over mesh axes of type Explicit, as {spec}, but must not be: make the mesh with"
                " axis types jax.sharding.AxisType.Auto, or call this inside jax.sharding.auto_axes."
            )


def check_divides(codebook_size: int) -> None:
    """Raises ValueError unless the codebook axis divides the number of codes."""
    if codebook_size % codebook_shards():
        raise ValueError(
            f"the codebook has {codebook_size} codes but mesh axis '{CODEBOOK_AXIS}' has {codebook_shards()} devices:"
            " make the number of codes a multiple of it, or the axis 1."
        )


def over_shards(f, tokens, split, whole):
    """`f(tokens, split, whole)` on every device with its own tokens and its own codes.

    Left to automatic sharding, a loop over tiles of tokens would gather all tokens on every device.

    Args:
        f: maps tokens (n, ...), the device's share of `split` and all of `whole` to a tree of arrays (n, ...), equal on
            the devices that share a codebook.
        tokens: (N, ...), N of any size. split: tree of (K, ...), split over the codebook axis. whole: tree.
    """
    axes = _automatic_axes()
    if math.prod(axes.values()) == 1:
        return f(tokens, split, whole)
    token_axes = tuple(name for name in axes if name != CODEBOOK_AXIS)
    n = tokens.shape[0]
    short = -n % math.prod(axes[name] for name in token_axes)
    padded = jnp.pad(tokens, ((0, short),) + ((0, 0),) * (tokens.ndim - 1), mode="edge")
    by_token = PartitionSpec(token_axes)
    by_code = PartitionSpec(CODEBOOK_AXIS) if CODEBOOK_AXIS in axes else PartitionSpec()
    results = jax.shard_map(
        f, in_specs=(by_token, by_code, PartitionSpec()), out_specs=by_token, axis_names=set(axes), check_vma=False
    )(padded, split, whole)
    return jax.tree.map(lambda a: a[:n], results)


def _automatic_axes() -> dict[str, int]:
    """Sizes of the axes of the current mesh that are not already split by hand."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in kinds if kind == AxisType.Auto}
