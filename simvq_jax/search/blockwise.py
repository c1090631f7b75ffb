"""The coarse pass in XLA, on any device: a matrix product a block of codes at a time, of which only maxima are kept."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from simvq_jax.search import rerank
from simvq_jax.search.codes import HIGHEST, Codes, Groups, prepare

MAXIMA_BYTES = 64 << 20  # group maxima of a tile
RERANK_BYTES = 32 << 20  # codes gathered for a tile


class Sizes(NamedTuple):
    """How a search cuts up its work; every choice gives the same answer.

    tile: tokens searched together. block: codes of one matrix product. group: codes that share one maximum.
    retry: tokens with several candidate groups that are scored again together.
    """

    tile: int
    block: int
    group: int
    retry: int


def choose_sizes(k: int, d: int, platform: str) -> Sizes:
    """Sizes that keep a block's scores in cache, and balance maxima to look through against codes to score again.

    A token looks through k / group maxima and gathers group * d numbers; the factor 2 was measured on a CPU. Groups of
    two save less than a second look at them costs.
    """
    balance = math.log2(max(2 * k / d, 1)) / 2
    group = 2 ** min(round(balance), 6 if k >= 500_000 else 5)
    group = 1 if group == 2 else group
    tile, block, retry = (max(1024, 2**21 // k), 2048, 16) if platform == "cpu" else (8192, 16_384, 512)
    block = min(block, -(-k // group) * group)
    tile = min(tile, MAXIMA_BYTES * group // (4 * k), RERANK_BYTES // (4 * group * d))
    return Sizes(max(tile // 8 * 8, 8), block, group, retry)


def search(
    tokens, codebook, weight=None, bias=None, allowed=None, middle=None, *, sizes: Sizes, platform: str
) -> rerank.Found:
    """Nearest code of every token on this device.

    tokens: float32 (N, d). codebook: float32 or bfloat16 (K, d_basis). weight: (d_basis, d) or None.
    bias: (d,) or None, taken off tokens; without a weight, of codes that were transformed before.
    allowed: bool (K,) or None, codes that may win. middle: (d,), which tokens and codes shall count from, or None; only
    without a weight. platform: that of the device, as jax names it.
    """
    groups = Groups(sizes.group, sizes.block // sizes.group)
    codes = prepare(codebook, weight, allowed, middle, groups, platform)
    coarse = functools.partial(_group_maxima, codes=codes, groups=groups)
    rounding = rerank.rounding(codebook.shape[1])
    return rerank.search(
        tokens,
        codes,
        weight,
        bias,
        coarse,
        rerank.CoarseError(product=rounding, half=rounding),
        groups,
        tile=sizes.tile,
        retry=sizes.retry,
        platform=platform,
    )


def _group_maxima(u, codes: Codes, groups: Groups):
    """Largest score of each group, or if groups have one code each, its product: u: (T, d_basis) -> (T, G)."""
    rows = codes.rows.reshape(-1, groups.block, codes.rows.shape[1])

    def block_maxima(rows_and_halves):
        rows, halves = rows_and_halves
        rows = jnp.where(halves[:, None] < jnp.inf, codes.from_middle(rows), 0.0)  # NaN - inf is no -inf
        products = jnp.dot(u, rows.T, precision=HIGHEST)
        if groups.size == 1:
            return products
        return (products - halves[None]).reshape(-1, groups.size, groups.stride).max(axis=1)

    blocks = rows, codes.half_norms.reshape(-1, groups.block)
    if rows.shape[0] == 1:  # then what follows can be fused with it
        return block_maxima(jax.tree.map(lambda a: a[0], blocks))
    return jnp.moveaxis(jax.lax.map(block_maxima, blocks), 0, 1).reshape(u.shape[0], -1)
