"""From coarse group maxima to the exact nearest code.

With `u = (z - b) W^T` and `h_k = ||c_k W||^2 / 2`, the nearest code has the largest score `u . c_k - h_k`: the bias and
`||z||^2` drop out, so neither is a source of cancellation, and Q = C W + b is not needed.

1. A coarse pass gives each group's largest score, and a bound on its rounding says which groups can hold the winner.
2. Where that is one group, its codes are scored by one formula of fixed order; where it is a few, all of theirs;
   where it is more, every code.
3. Where rounding may hide which code is nearest, a number that grows with the distance and rounds less (`_order`)
   decides between all that are so close to the best; the lower index wins a tie.

The bounds of both steps allow for the worst of scores, and so admit every code whose order may come out as the least.
So the answer is the code of the least order of all, but where more than NEAR_TIES codes are that close; it depends
neither on how codes are grouped nor on how they are split over devices.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from simvq_jax.search.codes import HIGHEST, Codes, Groups, batch_of, in_equal_batches, shifted

TYPICAL_GROUPS = 4  # candidate groups that a token has at most, as a rule
UNASKED = 16  # of so many tokens, one is scored again without asking whether any must be
FEW_GROUPS = 12  # a token with more candidate groups is scored against every code
SCAN_NUMBERS = 2**20  # products that a scan of every code forms at once, or more:
SCAN_CODES = 128  # at least so many codes of every token
NEAR = 0.25  # of a token's square: codes at less than this squared distance are near it
NEAR_TIES = 32  # codes that may be nearest between which the order decides; of more, the first by score
EVEN = 128  # tiles are multiples of it, unless there is one, or it would be too large
PART = 32  # of a row, looked through as one for the largest values
NO_CODE = jnp.iinfo(jnp.int32).max
EPS = float(jnp.finfo(jnp.float32).eps)


class Found(NamedTuple):
    """indices: int32 (N,), order: float32 (N,), which grows with the distance (`_order`), square: (N,), of the token,
    scanned: int32 (), tokens that were scored against every code."""

    indices: jax.Array
    order: jax.Array
    square: jax.Array
    scanned: jax.Array

    @property
    def sq_distance(self):
        """float32 (N,)"""
        unit = _unit(self.square)
        near = self.order < -(1 - NEAR) * self.square / unit
        return jnp.where(near, _reciprocal(self.square, -self.order), self.order * unit + self.square)


class CoarseError(NamedTuple):
    """The largest error of a coarse score: `product` for a token and a code of norm 1, `half` for a half norm of 1."""

    product: float
    half: float


def rounding(terms: int) -> float:
    """Worst case, relative, of the difference between two float32 dot products of `terms` terms, each in any order."""
    return (terms + 4) * EPS


class _Tile(NamedTuple):
    """Tokens less the bias and the middle v: (T, d), and their squares (T,); in the space of the basis u: (T, d_basis),
    the length of u (T,), and the rounding of a score of fixed order for a code of norm 1 (T,)."""

    v: jax.Array
    square: jax.Array
    u: jax.Array
    length: jax.Array
    reach: jax.Array

    @property
    def half_rounding(self) -> float:
        """The rounding of a half norm of 1, of squares in the space of tokens."""
        return rounding(max(self.u.shape[1], self.v.shape[1]))


def search(
    tokens,
    codes: Codes,
    weight,
    bias,
    coarse: Callable,
    error: CoarseError,
    groups: Groups,
    *,
    tile: int,
    retry: int,
    platform: str,
) -> Found:
    """Nearest code of every token.

    Args:
        tokens: float32 (N, d). weight: (d_basis, d) or None. bias: (d,) or None, taken off tokens.
        coarse: maps u: (T, d_basis) to each group's largest score (T, G); of groups of one code to `u . c` without
            `- h`, which XLA then need not store. error: how far those may be off.
        tile: tokens searched together. retry: tokens scored again together. platform: of the device.
    """
    n = tokens.shape[0]
    tile, batch = _even_tile(n, tile), batch_of(platform)
    # Whether any token must be scored again a GPU has to ask its host, which costs more than to score some anyway.
    ask = platform != "gpu"
    # Wherever they are read, so that all of them are never formed.
    v_of = functools.partial(shifted, bias=bias, middle=codes.middle)
    square = in_equal_batches(lambda tokens: _square(v_of(tokens)), batch, tokens)
    tiles = [  # what is not finite costs no scan
        jnp.pad(a, ((0, -n % tile),) + ((0, 0),) * (a.ndim - 1), constant_values=fill).reshape(-1, tile, *a.shape[1:])
        for a, fill in ((tokens, jnp.nan), (square, jnp.nan))
    ]
    searched = jax.lax.map(
        lambda own: _search_tile(v_of(own[0]), own[1], codes, weight, coarse, error, groups, retry, ask, batch),
        tiles,
    )
    indices, refused = (a.reshape(-1)[:n] for a in searched[:2])
    order_of = lambda tokens, square, indices: _order(v_of(tokens), square, indices, codes, weight)  # noqa: E731
    order = in_equal_batches(order_of, batch, tokens, square, indices)
    return Found(indices, jnp.where(refused, jnp.nan, order), square, searched[2].sum())


def _even_tile(n: int, most: int) -> int:
    """Tokens a tile, at most so many, of tiles as equal as may be: of one token more than a tile, few are padding."""
    count = max(-(-n // most), 1)
    return max(n, 1) if count == 1 else min(-(-n // (count * EVEN)) * EVEN, most)


def _search_tile(
    v, square, codes: Codes, weight, coarse, error: CoarseError, groups: Groups, retry: int, ask: bool, batch: int
):
    """v and square: as `_Tile` has them. -> indices (T,), whether not finite (T,), tokens scanned ()."""
    tokens, finite = _measured(v, square, weight, batch)
    searchable = finite & (codes.half_norms < jnp.inf).any()
    bounds = functools.partial(_bounds, error=error, codes=codes)
    maxima = coarse(tokens.u)
    upper, threshold = bounds(maxima, tokens)
    count, group = _count_and_place(upper >= threshold)
    # A group of one code that is the only candidate has won.
    indices, close = (group, False) if groups.size == 1 else _best(tokens, codes, groups, group)
    again = searchable & ((count != 1) | close)
    few = min(FEW_GROUPS, upper.shape[1])
    many = again & (count > few) & (few < upper.shape[1])

    def among(group_count: int, chosen):
        own = jax.tree.map(lambda a: a[chosen], tokens)
        upper, threshold = bounds(maxima[chosen], own)
        candidates = _places_of_largest(upper, group_count)
        ids = jnp.sort(groups.members(candidates).reshape(chosen.shape[0], -1), axis=-1)
        rows = codes.from_middle(codes.rows[ids])
        rivals = _rivals(own, threshold, rows, codes.norms[ids], codes.half_norms[ids])
        return _nearest(own, codes, weight, _largest(rivals, ids)[1], batch)

    def among_all(chosen):
        own = jax.tree.map(lambda a: a[chosen], tokens)
        _, threshold = bounds(maxima[chosen], own)
        return _nearest(own, codes, weight, _largest_of_all(own, codes, threshold)[1], batch)

    def settle(indices, again):
        indices = _replaced(indices, again & ~many, functools.partial(among, few), retry)
        return _replaced(indices, again & many, among_all, retry)

    if not ask:
        typical = min(TYPICAL_GROUPS, few)
        now = again & (count <= typical)
        indices, later = _some_replaced(indices, now, functools.partial(among, typical), -(-again.shape[0] // UNASKED))
        again = later | (again & ~now)
    indices = jax.lax.cond(again.any(), settle, lambda indices, _: indices, indices, again)
    return jnp.where(searchable, indices, 0), ~finite, jnp.sum(many, dtype=jnp.int32)


def _measured(v, square, weight, batch: int) -> tuple[_Tile, jax.Array]:
    """The tile, and which of its tokens can be searched (T,)."""
    u, square_u, of_u = v, square, jnp.zeros_like(square)
    if weight is not None:
        u = in_equal_batches(lambda v: jnp.dot(v, weight.T, precision=HIGHEST), batch, v)
        # u and c W were rounded too. Of sums of so many terms this is what they come to, with ample room; the worst
        # case, without the root, would make every tenth token one to look at again.
        of_u = 4 * math.sqrt(max(weight.shape)) * EPS * jnp.sqrt(jnp.sum(weight * weight)) * jnp.sqrt(square)
        square_u = _square(u)
    length = jnp.sqrt(square_u)
    finite = jnp.isfinite(square_u) & jnp.isfinite(square)
    return _Tile(v, square, u, length, rounding(u.shape[1]) * length + of_u), finite


def _bounds(maxima, tokens: _Tile, *, error: CoarseError, codes: Codes):
    """Which groups may hold a code that is best or too close to it: those with upper (T, G) >= threshold (T, 1)."""
    reach = error.product * tokens.length + tokens.reach
    half = error.half + tokens.half_rounding
    margin = reach[:, None] * codes.group_norms[None] + half * codes.group_halves[None]
    if codes.group_norms.shape == codes.half_norms.shape:  # groups of one code
        maxima = maxima - codes.half_norms[None]
    return maxima + margin, (maxima - margin).max(axis=-1, keepdims=True)


def _count_and_place(marked):
    """How many places of a row are marked, or more, but 1 only if it is one, and then which: bool (T, G) -> (T,), (T,).

    One sum has the count in its high digits and the places in its low ones, from which they may carry: where groups
    are G, not before 2^30 / G^2 of them.
    """
    groups = marked.shape[1]
    place = jax.lax.broadcasted_iota(jnp.uint32, marked.shape, 1)
    digits = max((groups - 1).bit_length(), 1)
    base = 1 << (31 - digits)
    if digits > 15:
        return marked.sum(axis=-1, dtype=jnp.int32), jnp.where(marked, place, 0).max(axis=-1).astype(jnp.int32)
    both = jnp.where(marked, base + place, 0).sum(axis=-1, dtype=jnp.uint32)
    return (both // base).astype(jnp.int32), jnp.minimum(both % base, groups - 1).astype(jnp.int32)


def _best(tokens: _Tile, codes: Codes, groups: Groups, group):
    """The best of a token's group by score (T,), and whether another of it may be nearer (T,). group: int32 (T,).

    Maxima and minima, which vectorise where an argmax or a sort does not.
    """
    ids = groups.members(group)
    scores = _scores(tokens.u, codes.from_middle(codes.rows[ids]), codes.half_norms[ids])
    best = scores.max(axis=-1)
    index = jnp.where(scores == best[:, None], ids, NO_CODE).min(axis=-1)
    second = jnp.where(ids == index[:, None], -jnp.inf, scores).max(axis=-1)
    margin = _margin(tokens, codes.group_norms[group][:, None], codes.group_halves[group][:, None])[:, 0]
    return index, second + margin >= best - margin


def _scores(u, rows, half_norms):
    """`u . c - h`, not by a matrix product, whose order of summation would depend on shapes. (T, d), (T or 1, n, d),
    (T or 1, n) -> (T, n)."""
    scores = jnp.sum(u[:, None] * rows, axis=-1) - half_norms
    return jnp.where(scores > -jnp.inf, scores, -jnp.inf)  # a code that is not finite scores NaN


def _margin(tokens: _Tile, norms, half_norms):
    """How far a score may be off, or, in scores, what decides between near ties. (T or 1, n), (T or 1, n) -> (T, n)."""
    return tokens.reach[:, None] * norms + tokens.half_rounding * half_norms


def _rivals(tokens: _Tile, threshold, rows, norms, half_norms):
    """Scores of the codes that may be nearest, -inf of others: (T, 1), (T or 1, n, d), (T or 1, n), (T or 1, n) ->
    (T, n)."""
    scores = _scores(tokens.u, rows, half_norms)
    return jnp.where(scores + _margin(tokens, norms, half_norms) >= threshold, scores, -jnp.inf)


def _places_of_largest(values, count: int):
    """Places of a row's largest values, in two steps, as top_k looks slowly through long rows. (T, n) -> (T, count)."""
    rows, n = values.shape
    if n <= 4 * count * PART:
        return jax.lax.top_k(values, count)[1]
    parts = jnp.pad(values, ((0, 0), (0, -n % PART)), constant_values=-jnp.inf).reshape(rows, -1, PART)
    part = jax.lax.top_k(parts.max(axis=-1), count)[1]  # the parts that hold them
    inside = jnp.take_along_axis(parts, part[:, :, None], axis=1)
    place = jax.lax.top_k(inside.reshape(rows, -1), count)[1]
    return jnp.minimum(jnp.take_along_axis(part, place // PART, axis=1) * PART + place % PART, n - 1)


def _largest(scores, ids, count: int = NEAR_TIES):
    """The largest scores and their ids, falling, the first of equals first. (T, n), (T, n) -> (T, m), (T, m)."""
    largest, place = jax.lax.top_k(scores, min(count, scores.shape[1]))
    return largest, jnp.take_along_axis(ids, place, axis=1)


def _largest_of_all(tokens: _Tile, codes: Codes, threshold):
    """`_largest` over the whole codebook, for a few tokens. threshold: (T, 1)."""
    (n, d), k = tokens.u.shape, codes.rows.shape[0]
    block = min(max(SCAN_NUMBERS // (n * d), SCAN_CODES), k)

    def largest_of(number):
        first = jnp.minimum(number * block, k - block)  # the last block may overlap the one before
        of_block = lambda a: jax.lax.dynamic_slice_in_dim(a, first, block)[None]  # noqa: E731
        rows, norms, half_norms = (of_block(a) for a in (codes.rows, codes.norms, codes.half_norms))
        rivals = _rivals(tokens, threshold, codes.from_middle(rows), norms, half_norms)
        ids = jnp.broadcast_to((first + jnp.arange(block, dtype=jnp.int32))[None], rivals.shape)
        return _largest(jnp.where(ids >= number * block, rivals, -jnp.inf), ids)

    def larger_of(number, largest):
        both = [jnp.concatenate(pair, axis=-1) for pair in zip(largest, largest_of(number), strict=True)]
        return _largest(both[0], both[1], min(NEAR_TIES, block))

    return jax.lax.fori_loop(1, -(-k // block), larger_of, largest_of(0))


def _nearest(tokens: _Tile, codes: Codes, weight, ids, batch: int):
    """The first in order of some codes that hold the nearest. ids: int32 (T, n) -> (T,)."""
    v, square = (jnp.repeat(a, ids.shape[1], axis=0) for a in (tokens.v, tokens.square))
    order_of = functools.partial(_order, codes=codes, weight=weight)
    order = in_equal_batches(order_of, batch, v, square, ids.reshape(-1)).reshape(ids.shape)
    return jnp.where(order == order.min(axis=-1, keepdims=True), ids, NO_CODE).min(axis=-1)


def _square(v):
    return jnp.sum(v * v, axis=-1)


def _order(v, square, indices, codes: Codes, weight):
    """What grows with `||v - q||^2`, q = c W, and rounds no more than scores do; the same bits in equal batches of one
    program.

    Of a code that is not near the token it is `||v - q||^2 - ||v||^2`, summed without `||v||^2`, which tells no code
    from another and whose rounding would hide short ones. Of a near code the squared distance r itself tells more; as
    `-1 / r`, scaled so that one meets the other at r = NEAR ||v||^2, it joins that scale and keeps r's digits. The unit
    keeps either from overflowing. Infinite for a code that must not win. (n, d), (n,), (n,) -> (n,).
    """
    q = codes.from_middle(codes.rows[indices])
    q = q if weight is None else jnp.dot(q, weight, precision=HIGHEST)
    direct = jnp.sum((v - q) ** 2, axis=-1)
    without = jnp.sum(q * (q - 2 * v), axis=-1)
    order = jnp.where(direct < NEAR * square, -_reciprocal(square, direct), without / _unit(square))
    return jnp.where(codes.half_norms[indices] < jnp.inf, order, jnp.inf)


def _unit(square):
    return jnp.maximum(square, 1.0)


def _reciprocal(square, value):
    """Squared distances of near codes to their order but for its sign, and back."""
    return NEAR * (1 - NEAR) * (square / _unit(square)) * (square / value)


def _replaced(results, where, compute, at_once: int):
    """Results with those of marked tokens computed anew, some at once: (T,), where: bool (T,).

    compute: maps the tokens' places, int (at_once,), to results (at_once,).
    """
    some = functools.partial(_some_replaced, compute=compute, at_once=at_once)
    return jax.lax.while_loop(lambda carry: carry[1].any(), lambda carry: some(*carry), (results, where))[0]


def _some_replaced(results, where, compute, at_once: int):
    """As `_replaced` for the first `at_once` marked tokens. -> results (T,), tokens that are left bool (T,)."""
    tokens = where.shape[0]
    rank = jnp.cumsum(where, dtype=jnp.int32) - 1
    places = jnp.full((at_once,), tokens, jnp.int32)  # beyond the count: out of bounds, and dropped
    places = places.at[jnp.where(where, rank, at_once)].set(jnp.arange(tokens, dtype=jnp.int32), mode="drop")
    found = compute(jnp.minimum(places, tokens - 1))
    return results.at[places].set(found, mode="drop"), where.at[places].set(False, mode="drop")
