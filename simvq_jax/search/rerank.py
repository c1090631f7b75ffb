"""From coarse group maxima to the exact nearest code.

With `u = (z - b) W^T` and `h_k = ||c_k W||^2 / 2`, the nearest code has the largest score `u . c_k - h_k`: the bias and
`||z||^2` drop out, so neither is a source of cancellation, and Q = C W + b is not needed.

1. A coarse pass gives each group's largest score, and a bound on its rounding says which groups can hold the winner.
2. Where that is one group, its codes are scored by one formula of fixed order; where it is a few, all of theirs;
   where it is more, every code.
3. Where rounding may hide which of the two best is nearer, the direct difference `||(z - b) - c W||^2` decides; the
   lower index wins a tie.

The bound admits every code that step 3 may have to look at, so the answer does not depend on how codes are grouped.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from simvq_jax.search.codes import HIGHEST, Codes, Groups, in_equal_batches

FEW_GROUPS = 12  # a token with more candidate groups is scored against every code
SCAN_CODES = 2048  # codes that a scan of every code scores at once
TOKENS_AT_ONCE = 256  # in matrix products whose results are compared
NO_CODE = jnp.iinfo(jnp.int32).max


class Found(NamedTuple):
    """indices: int32 (N,), sq_distance: float32 (N,), scanned: int32 (), tokens that were scored against every code."""

    indices: jax.Array
    sq_distance: jax.Array
    scanned: jax.Array


def rounding(terms: int) -> float:
    """Worst case, relative, of the difference between two float32 dot products of `terms` terms, each in any order."""
    return 2 * (terms + 4) * float(jnp.finfo(jnp.float32).eps) / 2


def search(
    tokens, codes: Codes, weight, bias, coarse: Callable, slope: float, groups: Groups, *, tile: int, retry: int
) -> Found:
    """Nearest code of every token.

    Args:
        tokens: float32 (N, d). weight: (d_basis, d) and bias: (d,), or None and None.
        coarse: maps u: (T, d_basis) to each group's largest score (T, G); of groups of one code to `u . c` without
            `- h`, which XLA then need not store. slope: its largest error for a token and a code of norm 1.
        tile: tokens searched together. retry: tokens with several candidate groups that are scored again together.
    """
    n, d = tokens.shape
    tile = max(min(tile, n), 1)
    v = tokens if bias is None else tokens - bias[None]
    # What is not finite costs no scan.
    tiles = jnp.pad(v, ((0, -n % tile), (0, 0)), constant_values=jnp.nan).reshape(-1, tile, d)
    searched = jax.lax.map(lambda v: _search_tile(v, codes, weight, coarse, slope, groups, retry), tiles)
    indices, refused = (a.reshape(-1)[:n] for a in searched[:2])
    # A pair of equals, so that the distance is the very bits that decided between two.
    pairs = jnp.stack([indices, indices], axis=-1)
    measure = lambda v, pairs: _closer(v, codes, weight, pairs)[1]  # noqa: E731
    sq_distance = in_equal_batches(measure, TOKENS_AT_ONCE, v, pairs)
    return Found(indices, jnp.where(refused, jnp.nan, sq_distance), searched[2].sum())


def _search_tile(v, codes: Codes, weight, coarse: Callable, slope: float, groups: Groups, retry: int):
    """v: (T, d), tokens less the bias. -> indices (T,), whether the token is not finite (T,), tokens scanned ()."""
    u = v
    if weight is not None:
        u = in_equal_batches(lambda v: jnp.dot(v, weight.T, precision=HIGHEST), TOKENS_AT_ONCE, v)
    square = jnp.sum(u * u, axis=-1)
    finite = jnp.isfinite(square) & jnp.isfinite(jnp.sum(v * v, axis=-1))
    lengths = jnp.sqrt(square)

    bounds = functools.partial(_bounds, slope=slope, codes=codes, terms=u.shape[1])
    maxima = coarse(u)
    upper, threshold = bounds(maxima, lengths)
    count, group = _count_and_place(upper >= threshold)
    several = finite & (count != 1)
    # A group of one code that is the only candidate has won.
    best = _alone(group) if groups.size == 1 else _best_two(u, codes, groups.members(group))

    few = min(FEW_GROUPS, upper.shape[1])
    many = several & (count > few) & (few < upper.shape[1])

    def among_few(chosen):
        upper, _ = bounds(maxima[chosen], lengths[chosen])
        ids = groups.members(jax.lax.top_k(upper, few)[1]).reshape(retry, -1)
        return _best_two(u[chosen], codes, ids)

    best = _replaced(best, several & ~many, among_few, retry)
    best = _replaced(best, many, lambda chosen: _best_two_of_all(u[chosen], codes), retry)

    def nearer(chosen):
        return _closer(v[chosen], codes, weight, best[1][chosen])[0]

    indices = _replaced(best[1][:, 0], _too_close(lengths, codes, *best, u.shape[1]), nearer, TOKENS_AT_ONCE)
    won = finite & (best[0][:, 0] > -jnp.inf)
    return jnp.where(won, indices, 0), ~finite, jnp.sum(many, dtype=jnp.int32)


def _bounds(maxima, lengths, *, slope: float, codes: Codes, terms: int):
    """Which groups may hold a code that is best or too close to the best: those with upper (T, G) >= threshold (T, 1).

    A score here and one of fixed order differ by the coarse pass's error and the rounding of the latter; that once more
    is what may be too close.
    """
    reach = (slope + rounding(terms)) * lengths
    error = reach[:, None] * codes.group_norms[None] + 2 * rounding(terms) * codes.group_halves[None]
    if codes.group_norms.shape == codes.half_norms.shape:  # groups of one code
        usable = codes.half_norms < jnp.inf
        maxima = jnp.where(usable[None], maxima - codes.half_norms[None], -jnp.inf)
    return maxima + error, (maxima - error).max(axis=-1, keepdims=True)


def _count_and_place(marked):
    """How many places of a row are marked, or more, but 1 only if it is one, and then which: bool (T, G) -> (T,), (T,).

    One sum has the count in its high digits and the places in its low ones, from which they may carry.
    """
    groups = marked.shape[1]
    place = jax.lax.broadcasted_iota(jnp.uint32, marked.shape, 1)
    base = 1 << (groups - 1).bit_length()
    if 2 * base * groups > 2**32:
        return marked.sum(axis=-1), jnp.where(marked, place, 0).max(axis=-1).astype(jnp.int32)
    both = jnp.where(marked, base + place, 0).sum(axis=-1)
    return (both // base).astype(jnp.int32), jnp.minimum(both % base, groups - 1).astype(jnp.int32)


def _too_close(lengths, codes: Codes, scores, ids, terms: int):
    """Whether rounding may hide which of the two best is nearer. lengths: (T,), of u; scores, ids: (T, 2) -> (T,)."""
    error = lengths[:, None] * codes.norms[ids] + codes.half_norms[ids]
    return (scores[:, 1] > -jnp.inf) & (scores[:, 0] - scores[:, 1] <= rounding(terms) * error.sum(axis=-1))


def _alone(ids):
    """A winner without a second: (T,) -> scores (T, 2), ids (T, 2)."""
    zero = jnp.zeros(ids.shape)
    return jnp.stack([zero, zero - jnp.inf], axis=-1), jnp.stack([ids, ids], axis=-1)


def _best_two(u, codes: Codes, ids):
    """Scores (T, 2) and indices (T, 2) of a token's two best, the lower index first among equals. ids: int32 (T, n)."""
    return _two_largest(_fixed_order_scores(u[:, None], codes.rows[ids], codes.half_norms[ids]), ids)


def _fixed_order_scores(u, rows, half_norms):
    """`u . c - h` without a matrix product, whose order of summation would depend on shapes."""
    scores = jnp.sum(u * rows.astype(jnp.float32), axis=-1) - half_norms
    return jnp.where(scores > -jnp.inf, scores, -jnp.inf)  # a code that is not finite scores NaN


def _two_largest(scores, ids):
    """The two largest scores and their ids: (T, n), (T, n) -> (T, 2), (T, 2)."""
    best = _largest(scores, ids)
    runner_up = _largest(jnp.where(ids == best[1][:, None], -jnp.inf, scores), ids)
    return tuple(jnp.stack(pair, axis=-1) for pair in zip(best, runner_up, strict=True))


def _largest(scores, ids):
    """The largest score and the lowest id that has it: a maximum and a minimum vectorise where an argmax does not."""
    largest = scores.max(axis=-1)
    return largest, jnp.where(scores == largest[:, None], ids, NO_CODE).min(axis=-1)


def _best_two_of_all(u, codes: Codes):
    """`_best_two` over the whole codebook, for a few tokens. u: (n, d_basis)."""
    k = codes.rows.shape[0]
    block = min(SCAN_CODES, k)

    def best_of(number):
        # The last block may overlap the one before: a code that is met twice is still one code.
        ids = jnp.minimum(number * block, k - block) + jnp.arange(block, dtype=jnp.int32)
        scores = _fixed_order_scores(u[:, None], codes.rows[ids][None], codes.half_norms[ids][None])
        return _two_largest(scores, jnp.broadcast_to(ids[None], scores.shape))

    def better_of(number, best):
        both = zip(best, best_of(number), strict=True)
        return _two_largest(*(jnp.concatenate(pair, axis=-1) for pair in both))

    return jax.lax.fori_loop(1, -(-k // block), better_of, best_of(0))


def _replaced(results, where, compute, at_once: int):
    """Results with those of marked tokens computed anew, some at once: tree of (T, ...), where: bool (T,).

    compute: maps the tokens' places, int (at_once,), to a tree of (at_once, ...).
    """
    tokens = where.shape[0]
    count = jnp.sum(where)

    def replace(results):
        places = jnp.where(where, jnp.cumsum(where) - 1, tokens)
        order = jnp.zeros((tokens + at_once,), jnp.int32).at[places].set(jnp.arange(tokens), mode="drop")

        def some(carry):
            start, results = carry
            place = start + jnp.arange(at_once)
            chosen = jax.lax.dynamic_slice_in_dim(order, start, at_once)
            target = jnp.where(place < count, chosen, tokens)  # beyond the count: out of bounds, and dropped
            new = jax.tree.map(lambda a, b: a.at[target].set(b, mode="drop"), results, compute(chosen))
            return start + at_once, new

        return jax.lax.while_loop(lambda carry: carry[0] < count, some, (jnp.zeros((), count.dtype), results))[1]

    # Mostly none is marked.
    return jax.lax.cond(count > 0, replace, lambda results: results, results)


def _closer(v, codes: Codes, weight, pairs):
    """The nearer code of each pair by the direct difference. v: (T, d), pairs: (T, 2) -> (T,), (T,).

    Of TOKENS_AT_ONCE tokens always: a product of another shape may round otherwise.
    """
    pairs = jnp.stack([pairs.min(axis=-1), pairs.max(axis=-1)], axis=-1)
    rows = codes.rows[pairs].astype(jnp.float32)  # (T, 2, d_basis)
    q = rows if weight is None else jnp.dot(rows, weight, precision=HIGHEST)
    usable = codes.half_norms[pairs] < jnp.inf
    sq_distance = jnp.where(usable, jnp.sum((v[:, None] - q) ** 2, axis=-1), jnp.inf)
    second = sq_distance[:, 1] < sq_distance[:, 0]
    return jnp.where(second, pairs[:, 1], pairs[:, 0]), sq_distance.min(axis=-1)
