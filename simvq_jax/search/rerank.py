"""From coarse group maxima to the exact nearest code.

With `u = (z - b) W^T` and `h_k = ||c_k W||^2 / 2`, the nearest code has the largest score `u . c_k - h_k`: the bias and
`||z||^2` drop out, so neither is a source of cancellation, and Q = C W + b is not needed.

1. A coarse pass gives each group's largest score, and a bound on its rounding says which groups can hold the winner.
2. Where that is one group, its codes are scored by one formula of fixed order; where it is a few, all of theirs;
   where it is more, every code.
3. The two best codes are compared by the direct difference `||(z - b) - c W||^2`; the lower index wins a tie.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from simvq_jax.search.codes import HIGHEST, Codes, Groups, in_equal_batches

FEW_GROUPS = 8  # a token with more candidate groups is scored against every code
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


def search(tokens, codes: Codes, weight, bias, coarse, groups: Groups, *, tile: int, retry: int) -> Found:
    """Nearest code of every token.

    Args:
        tokens: float32 (N, d). weight: (d_basis, d) and bias: (d,), or None and None.
        coarse: maps u: (T, d_basis) to the maxima of groups (T, G) and to (T, 1), its largest error relative to a code
            of norm 1.
        tile: tokens searched together. retry: tokens with several candidate groups that are scored again together.
    """
    n, d = tokens.shape
    tile = max(min(tile, n), 1)
    padding = ((0, -n % tile), (0, 0))
    tiles = jnp.pad(tokens, padding, constant_values=jnp.nan).reshape(-1, tile, d)  # what is not finite costs no scan
    found = jax.lax.map(lambda z: _search_tile(z, codes, weight, bias, coarse, groups, retry), tiles)
    return Found(found.indices.reshape(-1)[:n], found.sq_distance.reshape(-1)[:n], found.scanned.sum())


def _search_tile(z, codes: Codes, weight, bias, coarse, groups: Groups, retry: int) -> Found:
    v, u = z, z
    if weight is not None:
        v = z - bias[None]
        u = in_equal_batches(lambda v: jnp.dot(v, weight.T, precision=HIGHEST), TOKENS_AT_ONCE, v)
    finite = jnp.isfinite(jnp.sum(v * v, axis=-1)) & jnp.isfinite(jnp.sum(u * u, axis=-1))
    v, u = jnp.where(finite[:, None], v, 0.0), jnp.where(finite[:, None], u, 0.0)

    upper, threshold = _bounds(u, codes, *coarse(u))
    candidate = upper >= threshold
    count = jnp.where(finite, candidate.sum(axis=-1), 0)
    group = jnp.where(candidate, jax.lax.broadcasted_iota(jnp.int32, upper.shape, 1), NO_CODE).min(axis=-1)
    pairs = _best_two(u, codes, groups.members(jnp.minimum(group, upper.shape[1] - 1)))

    few = min(FEW_GROUPS, upper.shape[1])

    def among_few(chosen):
        best = jax.lax.top_k(upper[chosen], few)[1]
        return _best_two(u[chosen], codes, groups.members(best).reshape(retry, -1))

    pairs = _replace(pairs, (count > 1) & (count <= few), among_few, retry)
    pairs = _replace(pairs, count > few, lambda chosen: _best_two_of_all(u[chosen], codes), retry)
    indices, sq_distance = in_equal_batches(lambda v, pairs: _closer(v, codes, weight, pairs), TOKENS_AT_ONCE, v, pairs)
    scanned = jnp.sum(count > few, dtype=jnp.int32)
    return Found(jnp.where(finite, indices, 0), jnp.where(finite, sq_distance, jnp.nan), scanned)


def _bounds(u, codes: Codes, maxima, slope):
    """The most that each group's best score can be (T, G), and the least that the best of all is (T, 1)."""
    error = slope * codes.group_norms[None] + rounding(u.shape[1]) * codes.group_halves[None]
    return maxima + error, (maxima - error).max(axis=-1, keepdims=True)


def _best_two(u, codes: Codes, ids):
    """The two best of a token's candidates, the lower index first among equals. ids: int32 (T, n) -> (T, 2)."""
    return _two_largest(_fixed_order_scores(u[:, None], codes.rows[ids], codes.half_norms[ids]), ids)[1]


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
    """`_best_two` over the whole codebook, for a few tokens. u: (n, d_basis) -> (n, 2)."""
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

    return jax.lax.fori_loop(1, -(-k // block), better_of, best_of(0))[1]


def _replace(pairs, where, compute, at_once: int):
    """Pairs with those of marked tokens computed anew, some at once. compute: tokens (at_once,) -> (at_once, 2)."""
    tokens = where.shape[0]
    order = jnp.argsort(~where, stable=True)
    order = jnp.pad(order, (0, -tokens % at_once), mode="edge")
    count = jnp.sum(where)

    def some(carry):
        start, pairs = carry
        place = start + jnp.arange(at_once)
        chosen = order[place]
        target = jnp.where(place < count, chosen, tokens)  # beyond the count: out of bounds, and dropped
        return start + at_once, pairs.at[target].set(compute(chosen), mode="drop")

    return jax.lax.while_loop(lambda carry: carry[0] < count, some, (jnp.zeros((), count.dtype), pairs))[1]


def _closer(v, codes: Codes, weight, pairs):
    """The nearer code of each pair by the direct difference. v: (T, d), pairs: (T, 2) -> (T,), (T,)."""
    pairs = jnp.sort(pairs, axis=-1)
    rows = codes.rows[pairs].astype(jnp.float32)  # (T, 2, d_basis)
    q = rows if weight is None else jnp.dot(rows, weight, precision=HIGHEST)
    usable = codes.half_norms[pairs] < jnp.inf
    sq_distance = jnp.where(usable, jnp.sum((v[:, None] - q) ** 2, axis=-1), jnp.inf)
    second = sq_distance[:, 1] < sq_distance[:, 0]
    nearer = jnp.where(second, pairs[:, 1], pairs[:, 0])
    return jnp.where(usable.any(axis=-1), nearer, 0), sq_distance.min(axis=-1)
