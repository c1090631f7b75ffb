"""The coarse pass on matrix units: scores from bfloat16 limbs, by a device kernel that writes group maxima only."""

import jax.numpy as jnp

from simvq_jax.search import rerank
from simvq_jax.search.codes import Groups, prepare
from simvq_jax.search.limbs import ONE_LIMB, TWO_LIMBS, split

MAXIMA_BYTES = 512 << 20  # group maxima of a tile
RERANK_BYTES = 512 << 20  # codes gathered for a tile
MAX_TILE = 16_384
RETRY = 512  # tokens with several candidate groups that are scored again together


def code_limbs(dtype) -> int:
    """Limbs that a code is cut into."""
    return 1 if dtype == jnp.bfloat16 else 2


def search(
    tokens, codebook, weight=None, bias=None, allowed=None, middle=None, *, group_maxima, groups: Groups, platform: str
) -> rerank.Found:
    """Nearest code of every token on this device; arguments as `blockwise.search`.

    group_maxima: the kernel, (u_limbs, c_limbs, half_norms, products) -> (N, G); groups: what it takes maxima over.
    A bfloat16 codebook is its own limb, and two products give scores as good as float32; a float32 one takes three, and
    it alone may have a middle.
    """
    codes = prepare(codebook, weight, allowed, middle, groups, platform)
    exact = code_limbs(codebook.dtype) == 1
    rows = codes.rows if exact else codes.from_middle(codes.rows)
    rows = jnp.where(jnp.isfinite(codes.half_norms)[:, None], rows, 0)
    c_limbs = (rows,) if exact else split(rows, 2)
    products = ((0, 0), (1, 0)) if exact else ((0, 0), (1, 0), (0, 1))
    # The rest of the tokens; and of the codes, and the product of both second limbs.
    left_out = TWO_LIMBS if exact else 2 * TWO_LIMBS + ONE_LIMB**2
    # The bound is of sums that cut off instead of rounding, as matrix units do. In eight cases an H100 took 5% of it.
    sums = rerank.rounding(codebook.shape[1] * len(products))

    def coarse(u):
        u = jnp.where(jnp.isfinite(u).all(axis=-1, keepdims=True), u, 0.0)  # kernels need not say what they make of it
        return group_maxima(split(u, 2), c_limbs, codes.half_norms, products)

    fitting = MAXIMA_BYTES // (4 * codes.group_norms.shape[0]), RERANK_BYTES // (4 * groups.size * codebook.shape[1])
    return rerank.search(
        tokens,
        codes,
        weight,
        bias,
        coarse,
        rerank.CoarseError(product=left_out + sums, half=sums),
        groups,
        tile=max(min(MAX_TILE, *fitting), 128),
        retry=RETRY,
        platform=platform,
    )
