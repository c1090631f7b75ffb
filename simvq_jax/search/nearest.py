"""The public search: checks, the choice of a backend, and its place on the mesh."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from simvq_jax.search import blockwise

BACKENDS = ("auto", "blockwise")
CODEBOOK_AXIS = "codebook"


def nearest_code(z, codebook, transform=None, *, backend: str = "auto"):
    """Index of, and squared distance to, the code nearest to every token.

    Exact: equal to `argmin_k ||z_n - q_k||^2` with `q_k = c_k W + b`, up to float32 rounding of
    `||z - b|| ||q - b||` (so take a large common offset off tokens and codes, or give it as b); the lowest index wins
    ties. Neither the N x K distances nor the K x d codebook Q is ever formed. Gradients do not pass. A token with a
    NaN or an infinity gets index 0 and distance NaN.

    Args:
        z: (..., d) tokens, any floating type; compared in float32.
        codebook: (K, d_basis) codes, or the basis C when `transform` is given.
        transform: None, or `(W, b)` with W: (d_basis, d) and b: (d,) or None.
        backend: "auto" or "blockwise" (XLA, any device).

    Returns:
        indices: int32 (...), sq_distance: float32 (...).

    Raises:
        ValueError: shapes that do not fit, an empty codebook, an unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r} but must be one of {BACKENDS}: pass backend='auto'.")
    return _search(z, codebook, transform, allowed=None)


def nearest_allowed_code(z, codebook, allowed, transform=None):
    """`nearest_code` over the codes for which `allowed`: bool (K,) holds; index 0 where none is allowed."""
    return _search(z, codebook, transform, allowed=allowed)


def _search(z, codebook, transform, allowed):
    _check_shapes(z, codebook, transform)
    if transform is None:
        weight, bias = None, None
    else:
        weight, bias = transform
        bias = jnp.zeros((z.shape[-1],), jnp.float32) if bias is None else bias
    operands = jax.tree.map(
        lambda a: jax.lax.stop_gradient(jnp.asarray(a, jnp.float32)),
        {"codebook": codebook, "weight": weight, "bias": bias},
    )
    operands["allowed"] = allowed
    tokens = jax.lax.stop_gradient(jnp.asarray(z, jnp.float32)).reshape(-1, z.shape[-1])
    indices, sq_distance = _over_token_shards(tokens, operands)
    return indices.reshape(z.shape[:-1]), sq_distance.reshape(z.shape[:-1])


def _over_token_shards(tokens, operands):
    """Every device searches for its own tokens.

    Left to automatic sharding, the loop over tiles of tokens would gather all tokens on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if name != CODEBOOK_AXIS and kind == jax.sharding.AxisType.Auto
    )
    shards = math.prod(mesh.shape[name] for name in axes)
    if shards == 1:
        return blockwise.search(tokens, **operands)
    n = tokens.shape[0]
    padded = jnp.pad(tokens, ((0, -n % shards), (0, 0)))
    rows = PartitionSpec(axes)
    indices, sq_distance = jax.shard_map(
        lambda tokens, operands: blockwise.search(tokens, **operands),
        in_specs=(rows, PartitionSpec()),
        out_specs=(rows, rows),
        axis_names=set(axes),
        check_vma=False,
    )(padded, operands)
    return indices[:n], sq_distance[:n]


def _check_shapes(z, codebook, transform) -> None:
    if codebook.ndim != 2 or 0 in codebook.shape:
        raise ValueError(f"codebook has shape {codebook.shape} but must be (K, d) with K, d >= 1.")
    d = z.shape[-1] if z.ndim else None
    if transform is None:
        if d != codebook.shape[1]:
            raise ValueError(f"z has last axis {d} but the codes have {codebook.shape[1]}: make them equal.")
        return
    weight, bias = transform
    if weight.shape != (codebook.shape[1], d):
        raise ValueError(
            f"W has shape {weight.shape} but must be (basis_dim, d) = ({codebook.shape[1]}, {d})"
            " to take the basis to the tokens' space."
        )
    if bias is not None and bias.shape != (d,):
        raise ValueError(f"b has shape {bias.shape} but must be ({d},), the last axis of z.")
