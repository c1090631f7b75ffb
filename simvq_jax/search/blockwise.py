"""Exact search in XLA on any device: coarse maxima over groups of codes, then exact re-ranking.

With `u = (z - b) W^T` and `h_k = ||c_k W||^2 / 2`, the nearest code has the largest score `u . c_k - h_k`
(the bias and `||z||^2` drop out, so neither is a source of cancellation, and Q = C W + b is not needed).

1. Coarse: a matrix product a block of codes at a time, of which only each group's maximum is kept. A maximum
   vectorises where an argmax does not.
2. The two groups that can hold the winner are re-scored by one formula of fixed order, and the best two codes
   are compared by the direct difference `||z - (c W + b)||^2`.
3. A bound on the coarse pass's rounding says for which tokens a third group could hold the winner; those few
   are scored against every code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

GROUP = 64  # codes whose coarse scores share one maximum
BLOCK = 8192  # codes a coarse product covers at most: (TILE, BLOCK) scores are the largest temporary
TILE_BYTES = 64 << 20  # gathered candidate codes a tile of tokens may take
MAX_TILE = 1024
RESCAN = 16  # tokens that are scored against every code at once
HIGHEST = jax.lax.Precision.HIGHEST


class Codes(NamedTuple):
    """The codebook, padded to whole blocks.

    rows: (blocks, B, d_basis), half_norms: (blocks, B), inf where a code must not win;
    group_norms: (G,) largest ||c|| of each group, group_halves: (G,) largest finite h of each group.
    """

    rows: jax.Array
    half_norms: jax.Array
    group_norms: jax.Array
    group_halves: jax.Array


def search(tokens, codebook, weight=None, bias=None, allowed=None):
    """Nearest code of every token on this device.

    Args:
        tokens: float32 (N, d). codebook: float32 (K, d_basis). weight: (d_basis, d) or None. bias: (d,) or None.
        allowed: bool (K,) or None; codes that may win.

    Returns:
        indices int32 (N,), sq_distance float32 (N,).
    """
    n, d = tokens.shape
    codes = _prepare(codebook, weight, allowed)
    candidates_bytes = 2 * GROUP * codebook.shape[1] * 4
    tile = max(8, min(MAX_TILE, n, TILE_BYTES // candidates_bytes))
    tiles = jnp.pad(tokens, ((0, -n % tile), (0, 0))).reshape(-1, tile, d)
    indices, sq_distance = jax.lax.map(lambda z: _search_tile(z, codes, weight, bias), tiles)
    return indices.reshape(-1)[:n], sq_distance.reshape(-1)[:n]


def _prepare(codebook, weight, allowed) -> Codes:
    k, d_basis = codebook.shape
    blocks = -(-k // BLOCK)
    size = -(-k // (blocks * GROUP)) * GROUP
    rows = jnp.pad(codebook, ((0, blocks * size - k), (0, 0))).reshape(blocks, size, d_basis)
    exists = jnp.ones((k,), bool) if allowed is None else allowed
    exists = jnp.pad(exists, (0, blocks * size - k)).reshape(blocks, size)

    def norms(block_and_exists):
        block, real = block_and_exists
        q = block if weight is None else jnp.dot(block, weight, precision=HIGHEST)
        half = jnp.sum(q * q, axis=-1) / 2
        length = jnp.sqrt(jnp.sum(block * block, axis=-1))
        group_max = lambda v: jnp.where(real, v, 0).reshape(-1, GROUP).max(axis=-1)  # noqa: E731
        return jnp.where(real, half, jnp.inf), group_max(length), group_max(half)

    half_norms, group_norms, group_halves = jax.lax.map(norms, (rows, exists))
    return Codes(rows, half_norms, group_norms.reshape(-1), group_halves.reshape(-1))


def _search_tile(z, codes: Codes, weight, bias):
    """z: (T, d) -> indices int32 (T,), sq_distance (T,)."""
    finite = jnp.all(jnp.isfinite(z), axis=-1)
    z = jnp.where(finite[:, None], z, 0.0)
    u = z if weight is None else jnp.dot(z - bias[None], weight.T, precision=HIGHEST)
    first, second, undecided = _best_groups(u, codes)
    pairs = _best_two(u, codes, jnp.stack([first, second], axis=-1))
    pairs = _rescan(u, codes, pairs, undecided & finite)
    indices, sq_distance = _closest(z, codes, pairs, weight, bias)
    return jnp.where(finite, indices, 0), jnp.where(finite, sq_distance, jnp.nan)


def _best_groups(u, codes: Codes):
    """Two groups a token, and whether a third could hold its nearest code. u: (T, d_basis) -> three (T,)."""

    def coarse(block_and_half):
        block, half = block_and_half
        scores = jnp.dot(u, block.T, precision=HIGHEST) - half[None]
        return scores.reshape(u.shape[0], -1, GROUP).max(axis=-1)

    maxima = jax.lax.map(coarse, (codes.rows, codes.half_norms))  # (blocks, T, G / blocks)
    maxima = jnp.moveaxis(maxima, 0, 1).reshape(u.shape[0], -1)
    # Worst case of a float32 dot product of d terms in any order, twice: here and in the re-ranking.
    unit = 2 * (u.shape[1] + 4) * jnp.finfo(jnp.float32).eps / 2
    length = jnp.sqrt(jnp.sum(u * u, axis=-1, keepdims=True))
    error = unit * (length * codes.group_norms[None] + codes.group_halves[None])
    upper, lower = maxima + error, maxima - error
    first, upper = _pop_max(upper)
    if upper.shape[1] == 1:
        return first, first, jnp.zeros(first.shape, bool)
    second, upper = _pop_max(upper)
    return first, second, upper.max(axis=-1) >= lower.max(axis=-1)


def _pop_max(values):
    """(T, n) -> index of each row's first maximum, and the rows with -inf in its place."""
    best = jnp.argmax(values, axis=-1)
    taken = jnp.arange(values.shape[1])[None] == best[:, None]
    return best.astype(jnp.int32), jnp.where(taken, -jnp.inf, values)


def _best_two(u, codes: Codes, groups):
    """The two best codes of two groups, in rising order of index. groups: (T, 2) -> (T, 2)."""
    groups = jnp.sort(groups, axis=-1)
    rows = codes.rows.reshape(-1, GROUP, u.shape[1])[groups]  # (T, 2, GROUP, d_basis)
    halves = codes.half_norms.reshape(-1, GROUP)[groups]
    scores = _fixed_order_scores(u[:, None, None], rows, halves).reshape(u.shape[0], -1)
    ids = (groups[..., None] * GROUP + jnp.arange(GROUP)[None, None]).reshape(u.shape[0], -1)
    # A token whose two groups are one and the same must not meet its best code twice.
    repeated = (groups[:, 0] == groups[:, 1])[:, None] & (jnp.arange(2 * GROUP)[None] >= GROUP)
    best, scores = _pop_max(jnp.where(repeated, -jnp.inf, scores))
    runner_up, _ = _pop_max(scores)
    pick = jnp.stack([best, runner_up], axis=-1)
    return jnp.sort(jnp.take_along_axis(ids, pick, axis=-1), axis=-1)


def _fixed_order_scores(u, rows, halves):
    """`u . c - h` without a matrix product, whose order of summation would depend on shapes."""
    return jnp.sum(u * rows, axis=-1) - halves


def _rescan(u, codes: Codes, pairs, undecided):
    """Replaces the pairs of undecided tokens by the best two of all codes, RESCAN tokens at a time."""
    order = jnp.argsort(~undecided, stable=True)
    order = jnp.pad(order, (0, -order.shape[0] % RESCAN), mode="edge")
    count = jnp.sum(undecided)

    def scan_some(carry):
        start, pairs = carry
        chosen = jax.lax.dynamic_slice_in_dim(order, start, RESCAN)
        some = u[chosen]
        blocks = jax.lax.map(
            lambda block: _fixed_order_scores(some[:, None], block[0][None], block[1][None]),
            (codes.rows, codes.half_norms),
        )
        scores = jnp.moveaxis(blocks, 0, 1).reshape(RESCAN, -1)
        best, scores = _pop_max(scores)
        runner_up, _ = _pop_max(scores)
        return start + RESCAN, pairs.at[chosen].set(jnp.sort(jnp.stack([best, runner_up], axis=-1), axis=-1))

    return jax.lax.while_loop(lambda carry: carry[0] < count, scan_some, (jnp.zeros((), count.dtype), pairs))[1]


def _closest(z, codes: Codes, pairs, weight, bias):
    """The nearer code of each pair by the direct difference; the lower index wins a tie. pairs: (T, 2)."""
    rows = codes.rows.reshape(-1, codes.rows.shape[-1])[pairs]  # (T, 2, d_basis)
    q = rows if weight is None else jnp.dot(rows, weight, precision=HIGHEST) + bias[None, None]
    allowed = jnp.isfinite(codes.half_norms.reshape(-1)[pairs])
    sq_distance = jnp.where(allowed, jnp.sum((z[:, None] - q) ** 2, axis=-1), jnp.inf)
    nearer = jnp.argmin(sq_distance, axis=-1)[:, None]
    take = lambda a: jnp.take_along_axis(a, nearer, axis=-1)[:, 0]  # noqa: E731
    return jnp.where(jnp.isfinite(take(sq_distance)), take(pairs), 0), take(sq_distance)
