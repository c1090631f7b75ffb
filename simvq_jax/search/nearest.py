"""The public search: what it accepts, and its way to a backend on every device."""

import functools

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim

from simvq_jax.search import backends, placement, sharded
from simvq_jax.search.blockwise import Sizes
from simvq_jax.search.codes import effective

FOLD_BYTES = 4 << 20  # of Q = C W that is formed rather than u = (z - b) W^T
FAR = 4.0  # times as far from 0 as from their middle: from then on what codes share is taken off
MIDDLE_CODES, MIDDLE_BITS = 16, 12  # whose middle it is, and its digits: few, so that what ties still ties


def nearest_code(z, codebook, transform=None, *, backend: str = "auto", sizes: Sizes | None = None):
    """Index of, and squared distance to, the code nearest to every token.

    Exact: equal to `argmin_k ||z_n - q_k||^2` with `q_k = c_k W + b`, up to float32 rounding of
    `(||z - b|| + ||q - b||) ||q - b||`, or with a transform of a large codebook, of `||c|| ||W||` in the place of the
    last; an offset that all codes
    share is taken off before where there is no such transform, of codes in float32. The lowest index wins ties.
    Sizes and sharding do not change the answer, but of more than 32 codes that such rounding does not tell apart they
    may change which of them wins; so may another platform, and backend "portable". The N x K distances are never
    formed, nor is the codebook Q, K x d, unless it is small. Gradients do not pass.

    On the current mesh (`jax.set_mesh`, axes of type Auto) each device searches for its own tokens; where that has an
    axis "codebook", among its own codes. `jax.vmap` over tokens is one search for all of them, over codebooks one after
    the other.

    Args:
        z: (..., d) tokens, any floating type of at most 32 bits; compared in float32.
        codebook: (K, d_basis) codes, or the basis C when `transform` is given; in bfloat16 it takes half the memory
            and, on matrix units, about four fifths of the time.
        transform: None, or `(W, b)` with W: (d_basis, d) and b: (d,) or None.
        backend: "auto", "blockwise" (XLA, any device), "hopper" (NVIDIA H100, H200), "tpu", or "portable" (XLA, any
            platform and a symbolic number of tokens, for programs that are exported; "auto" takes it for those).
        sizes: how "blockwise" cuts up its work; None chooses by shapes and device.

    Returns:
        indices: int32 (...), sq_distance: float32 (...). A token with a NaN or an infinity, or so long that its square
        overflows (above 1e19; with W that of (z - b) W^T may, too), gets index 0 and distance NaN. Such a code never
        wins; where no code can, index 0 and an infinite distance. Of lengths below 1e-17 the squares are lost to
        float32, and the choice with them.

    Raises:
        ValueError: shapes that do not fit, an empty codebook, types other than floats of at most 32 bits, an unknown
            backend or one that does not apply here, a codebook axis that does not divide K,
            arrays that are split over mesh axes of type Explicit.
    """
    return _search(z, codebook, transform, None, backend, sizes)


def nearest_allowed_code(z, codebook, allowed, transform=None):
    """`nearest_code` over the codes for which `allowed`: bool (K,) holds; index 0 where none is allowed."""
    return _search(z, codebook, transform, allowed, "auto", None)


def _search(z, codebook, transform, allowed, backend, sizes):
    _check(z, codebook, allowed, transform)
    placement.check_axes(*jax.tree.leaves((z, codebook, allowed, transform)))
    d = z.shape[-1]
    tokens = jax.lax.stop_gradient(jnp.asarray(z, jnp.float32)).reshape(-1, d)
    split = jax.lax.stop_gradient({"codebook": _float32_or_bfloat16(codebook), "allowed": allowed})
    whole: dict[str, jax.Array | None] = {"weight": None, "bias": None}
    if transform is not None:
        weight, bias = transform
        bias = jnp.zeros((d,)) if bias is None else bias
        whole = {"weight": jnp.asarray(weight, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    held = jax.ShapeDtypeStruct(codebook.shape, split["codebook"].dtype)
    # By the size of the whole codebook, so that its shards round as it does. A bfloat16 codebook stays what matrix
    # units multiply exactly.
    fold = transform is not None and held.dtype == jnp.float32 and 4 * held.shape[0] * d <= FOLD_BYTES
    if fold:
        held = jax.ShapeDtypeStruct((held.shape[0], d), held.dtype)
    centred = (transform is None or fold) and held.dtype == jnp.float32
    device = backends.device_of(z)
    if backend == "auto" and is_symbolic_dim(tokens.shape[0]):
        backend = "portable"
    search = backends.choose(backend, device, held, sizes)
    fold_on = device.platform if fold else None
    over_devices = _over_devices(search, fold_on, centred)
    indices, sq_distance = over_devices(tokens, split, jax.lax.stop_gradient(whole))
    return indices.reshape(z.shape[:-1]), sq_distance.reshape(z.shape[:-1])


@functools.cache
def _over_devices(search, fold_on: str | None, centred: bool):
    """The compiled search (tokens, split, whole) -> indices, sq_distance, of which `jax.vmap` over tokens makes one
    search for all of them, and over codebooks one after the other; many at once would each take their memory.

    fold_on: the platform, where codes are transformed before the search. centred: take off what codes share.
    """
    searched = jax.custom_batching.custom_vmap(functools.partial(_on_mesh, search, fold_on, centred))

    @searched.def_vmap
    def of_batch(axis_size, batched, tokens, *codes):
        arrays, structure = jax.tree.flatten((tokens, *codes))
        several = jax.tree.leaves(batched)

        def one(own):
            chosen = iter(own)
            every = [next(chosen) if s else a for s, a in zip(several, arrays, strict=True)]
            return searched(*jax.tree.unflatten(structure, every))

        if any(several[1:]):
            results = jax.lax.map(one, [a for s, a in zip(several, arrays, strict=True) if s])
        else:
            symbolic = is_symbolic_dim(axis_size)
            of_all = _over_devices(backends.portable.search, fold_on, centred) if symbolic else searched
            results = of_all(tokens.reshape(-1, tokens.shape[-1]), *codes)
            results = jax.tree.map(lambda a: a.reshape(tokens.shape[:-1]), results)
        return results, (True, True)

    return jax.jit(searched)


def _on_mesh(search, fold_on: str | None, centred: bool, tokens, split, whole):
    shards = placement.codebook_shards()

    def on_one_device(tokens, split, whole):
        if fold_on is not None:
            split = {**split, "codebook": effective(split["codebook"], whole["weight"], fold_on)}
            whole = {**whole, "weight": None}
        middle = _far_middle(sharded.some_codes(split["codebook"], shards, MIDDLE_CODES)) if centred else None
        found = search(tokens, **split, **whole, middle=middle)
        if shards > 1:
            found = sharded.nearest_of_shards(found, split["codebook"].shape[0])
        return found.indices, found.sq_distance

    return placement.over_shards(on_one_device, tokens, split, whole)


def _far_middle(codes):
    """Halfway between the outermost codes that can win, if that is far from 0 for their spread, else 0: (n, d) -> (d,).

    Scores of codes that lie close together far from 0 would be differences of large numbers. Not their mean, of which
    a sum in another order, as on another number of devices, is another number.
    """
    able = jnp.isfinite(jnp.sum(codes * codes, axis=1))[:, None]
    highest = jnp.max(jnp.where(able, codes, -jnp.inf), axis=0)
    lowest = jnp.min(jnp.where(able, codes, jnp.inf), axis=0)
    middle, reach = 0.5 * lowest + 0.5 * highest, 0.5 * highest - 0.5 * lowest
    far = able.any() & (jnp.sum(middle * middle) > FAR**2 * jnp.sum(reach * reach))
    return jnp.where(far, jax.lax.reduce_precision(middle, 8, MIDDLE_BITS), 0.0)


def _float32_or_bfloat16(codebook):
    return jnp.asarray(codebook, jnp.bfloat16 if codebook.dtype == jnp.bfloat16 else jnp.float32)


def _check(z, codebook, allowed, transform) -> None:
    pair = isinstance(transform, (tuple, list)) and len(transform) == 2
    if transform is not None and (not pair or transform[0] is None):
        raise ValueError(
            "transform must be None or a pair (W, b), of which b alone may be None: give W, or no transform."
        )
    weight, bias = transform or (None, None)
    named = {"z": z, "codebook": codebook, "W": weight, "b": bias}
    for name, array in named.items():
        if array is not None and not hasattr(array, "dtype"):
            raise ValueError(f"{name} is a {type(array).__name__} but must be an array: pass jnp.asarray of it.")
        if array is not None and not (jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize <= 4):
            raise ValueError(f"{name} is {array.dtype} but must be a float of at most 32 bits: cast it to float32.")
    if allowed is not None and getattr(allowed, "dtype", None) != jnp.bool_:
        kind = getattr(allowed, "dtype", type(allowed).__name__)
        raise ValueError(f"allowed is {kind} but must be an array of bool: compare, as in usage < limit.")
    if allowed is not None and allowed.shape != codebook.shape[:1]:
        raise ValueError(f"allowed has shape {allowed.shape} but must be {codebook.shape[:1]}, a value for each code.")
    if codebook.ndim != 2 or 0 in codebook.shape:
        raise ValueError(f"codebook has shape {codebook.shape} but must be (K, d) with K, d >= 1.")
    placement.check_divides(codebook.shape[0])
    d = z.shape[-1] if z.ndim else None
    if weight is None:
        if d != codebook.shape[1]:
            raise ValueError(f"z has last axis {d} but the codes have {codebook.shape[1]}: make them equal.")
        return
    if weight.shape != (codebook.shape[1], d):
        raise ValueError(
            f"W has shape {weight.shape} but must be (basis_dim, d) = ({codebook.shape[1]}, {d})"
            " to take the basis to the tokens' space."
        )
    if bias is not None and bias.shape != (d,):
        raise ValueError(f"b has shape {bias.shape} but must be ({d},), the last axis of z.")
