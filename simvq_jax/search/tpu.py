"""Coarse scores on a TPU: the maximum of every group of codes, by a Mosaic kernel that writes no other score.

A group's codes lie LANES apart, so a group is one lane of the score matrix, and the running maximum is elementwise
over registers: no index arithmetic, no reduction across lanes. Group `s * LANES + l` holds the codes
`s * GROUP * LANES + r * LANES + l` for r in 0..GROUP-1.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from simvq_jax.search.codes import Groups

GROUP = 32  # codes whose scores share one maximum
LANES = 128  # groups side by side: the lanes of a vector register
SPAN = GROUP * LANES  # codes that LANES groups cover
BLOCK = 256  # codes a matrix product covers: the widest matrix unit's columns (128 before v6e)
SUBLANES = 16  # rows of a bfloat16 tile
LEAST_TILE = 128  # tokens; fewer only where there are no more
UNROLL = 4  # blocks in flight: while the maxima of one are folded, the next fills the matrix unit
VMEM_BUDGET = 12 << 20  # bytes; a kernel may take 16 MiB on a v5e, and the compiler's own temporaries need the rest


def coarse_pass(k: int) -> tuple[Callable, Groups]:
    """The kernel as it serves K codes, and the groups that it takes maxima over: the same for every K."""
    return group_maxima, Groups(GROUP, LANES)


def group_maxima(u_limbs, code_limbs, half_norms, products, *, interpret=False):
    """Largest score `u . c - h` of every group of codes, padded to whole spans.

    Args:
        u_limbs: tuple of bfloat16 (N, d), tokens. code_limbs: tuple of bfloat16 (K, d), codes. Finite values.
        half_norms: float32 (K,), inf where a code must not win.
        products: pairs (i, j); `u . c` is the float32 sum of `u_limbs[i] . code_limbs[j]` over them.
        interpret: True or `pltpu.InterpretParams()` to run on another platform.

    Returns:
        float32 (N, G) with G = ceil(K / SPAN) * LANES; -inf for a group without a code that may win.
    """
    n, k = u_limbs[0].shape[0], half_norms.shape[0]
    if joins_limbs(u_limbs[0].shape[1], len(products)):
        u_limbs = (jnp.concatenate([u_limbs[i] for i, _ in products], axis=1),)
        code_limbs = (jnp.concatenate([code_limbs[j] for _, j in products], axis=1),)
        products = ((0, 0),)
    d = _round_up(u_limbs[0].shape[1], LANES)
    tile, blocks = tile_sizes(n, d, len(u_limbs), len(code_limbs))
    u_limbs = [_padded(u, _round_up(n, tile), d) for u in u_limbs]
    codes = [_padded(c, _round_up(k, SPAN), d).reshape(-1, BLOCK, d) for c in code_limbs]
    half_norms = jnp.pad(half_norms, (0, -k % SPAN), constant_values=jnp.inf).reshape(-1, 1, BLOCK)
    tiles, spans, steps = pl.cdiv(n, tile), pl.cdiv(k, SPAN), SPAN // BLOCK // blocks

    maxima = pl.pallas_call(
        functools.partial(_kernel, products, len(u_limbs)),
        grid=(tiles, spans, steps),
        in_specs=[pl.BlockSpec((tile, d), lambda t, s, b: (t, 0))] * len(u_limbs)
        + [pl.BlockSpec((blocks, BLOCK, d), lambda t, s, b: (s * steps + b, 0, 0))] * len(codes)
        + [pl.BlockSpec((blocks, 1, BLOCK), lambda t, s, b: (s * steps + b, 0, 0))],
        out_specs=pl.BlockSpec((tile, LANES), lambda t, s, b: (t, s)),
        out_shape=jax.ShapeDtypeStruct((tiles * tile, spans * LANES), jnp.float32),
        # The steps over one span add to the same maxima, so they alone keep their order.
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
        name="simvq_group_maxima",
    )(*u_limbs, *codes, half_norms)
    return maxima[:n]


def why_not(device: jax.Device, d: int, code_limbs: int) -> str | None:
    """Why the kernel cannot search codes of length d on such a device with two limbs of the tokens, or None."""
    if device.platform != "tpu":
        return f"it needs a TPU, not {device.device_kind}"
    if device.device_kind in ("TPU v2", "TPU v3"):
        return f"the matrix unit of a {device.device_kind} takes no bfloat16 from a kernel"
    passes = code_limbs + 1
    joined = joins_limbs(d, passes)
    limbs = (1, 1) if joined else (2, code_limbs)
    try:
        tile_sizes(LEAST_TILE, _round_up(d * passes if joined else d, LANES), *limbs)
    except ValueError:
        return f"tiles of {passes} products of length {d} do not fit in {VMEM_BUDGET >> 20} MiB of on-chip memory"
    return None


def joins_limbs(d: int, passes: int) -> bool:
    """Whether the limbs of all products, joined along d into one long product, take fewer passes of a matrix unit.

    A unit is 128 or 256 deep, and short vectors leave it partly empty: at d = 64, two products cost no more than one.
    """
    return any(_round_up(passes * d, deep) < passes * _round_up(d, deep) for deep in (128, 256))


def tile_sizes(n: int, d: int, u_limbs: int, code_limbs: int) -> tuple[int, int]:
    """Tokens and blocks of codes that a grid step takes. d: a multiple of LANES. Raises ValueError if nothing fits.

    The codes are read again for every tile of tokens, and a v6e does some 560 operations in the time it reads a byte:
    tiles of 1,024 tokens keep it computing, so long tiles come first; then many blocks, which spread the cost of a
    step. The pipeline holds twice what it moves, one copy being filled while the other is in use.
    """
    for most in (1024, 512, 256, LEAST_TILE):
        tile = _round_up(pl.cdiv(n, pl.cdiv(n, most)), SUBLANES)  # equal tiles, so that little is padding
        for blocks in (16, 8, 4, 2, 1):
            tokens = tile * u_limbs * d * 2
            codes = blocks * BLOCK * (code_limbs * d * 2 + 4)
            maxima = tile * LANES * 4
            if 2 * (tokens + codes + maxima) <= VMEM_BUDGET:
                return tile, blocks
    raise ValueError(f"tiles of length {d} do not fit in {VMEM_BUDGET >> 20} MiB of on-chip memory")


def _kernel(products, u_count, *refs):
    """Limbs of u: (tile, d), of codes: (blocks, BLOCK, d); half norms: (blocks, 1, BLOCK); maxima: (tile, LANES)."""
    u_refs, code_refs, (half_ref, maxima_ref) = refs[:u_count], refs[u_count:-2], refs[-2:]
    blocks = half_ref.shape[0]

    @pl.when(pl.program_id(2) == 0)
    def _():
        maxima_ref[...] = jnp.full(maxima_ref.shape, -jnp.inf, jnp.float32)

    @pl.loop(0, blocks, unroll=min(blocks, UNROLL))
    def _(block):
        first, *others = (_dot(u_refs[i][...], code_refs[j][block]) for i, j in products)
        scores = sum(others, start=first) - half_ref[block]
        best = maxima_ref[...]
        for lane in range(0, BLOCK, LANES):
            best = jnp.maximum(best, scores[:, lane : lane + LANES])
        maxima_ref[...] = best


def _dot(u, codes):
    """(tile, d), (BLOCK, d) -> float32 (tile, BLOCK)."""
    return jax.lax.dot_general(
        u,
        codes,
        (((1,), (1,)), ((), ())),
        # Products of bfloat16 are exact as they are; a higher precision, if set globally, is an error in a kernel.
        precision=jax.lax.Precision.DEFAULT,
        preferred_element_type=jnp.float32,
    )


def _padded(rows, count: int, d: int):
    return jnp.pad(rows, ((0, count - rows.shape[0]), (0, d - rows.shape[1])))


def _round_up(size: int, multiple: int) -> int:
    return size + -size % multiple
