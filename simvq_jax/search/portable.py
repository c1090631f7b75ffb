"""Search by plain operations of XLA, for programs that leave this machine: any platform, any number of tokens.

Blocks of codes are gone through in a scan; nothing depends on how many tokens there are, so their number may be
symbolic. Slower than `blockwise`, which looks at few of the scores.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from simvq_jax.search.codes import HIGHEST, effective, from_middle, shifted
from simvq_jax.search.rerank import Found

BLOCK = 1024  # codes at once


class Best(NamedTuple):
    """The two best scores of each token, z q - ||q||^2 / 2, and their codes: (n, 2)."""

    scores: jax.Array
    indices: jax.Array


def search(tokens, codebook, weight, bias, allowed, middle=None) -> Found:
    """As the other backends: tokens (n, d), codebook (K, d_basis), W or None, b or None, bool (K,) or None, (d,) or
    None."""
    if weight is not None:
        codebook = effective(codebook, weight, "cpu")
    tokens, codebook = shifted(tokens, bias, middle), from_middle(codebook, middle)
    # From the codes' middle: scores of codes that lie close together far from 0 would be differences of large numbers.
    able = jnp.isfinite(jnp.sum(codebook**2, axis=1))[:, None]
    middle = jnp.sum(jnp.where(able, codebook, 0.0), axis=0) / jnp.maximum(jnp.sum(able), 1)
    centred = codebook - middle[None]
    half_norms = 0.5 * jnp.sum(centred**2, axis=1)
    wins = jnp.isfinite(half_norms) if allowed is None else jnp.isfinite(half_norms) & allowed
    half_norms = jnp.where(wins, half_norms, jnp.inf)
    rows = jnp.where(wins[:, None], centred, 0.0)
    k = rows.shape[0]
    size = min(BLOCK, k)
    padding = -k % size
    blocks = jnp.pad(rows, ((0, padding), (0, 0))).reshape(-1, size, rows.shape[1])
    halves = jnp.pad(half_norms, (0, padding), constant_values=jnp.inf).reshape(-1, size)
    firsts = jnp.arange(blocks.shape[0], dtype=jnp.int32) * size
    finite = jnp.isfinite(jnp.sum(tokens**2, axis=1))
    clean = jnp.where(finite[:, None], tokens - middle[None], 0.0)

    def advance(best: Best, block):
        codes, half, first = block
        scores = jnp.dot(clean, codes.T, precision=HIGHEST) - half[None]
        places = jnp.broadcast_to(first + jnp.arange(size, dtype=jnp.int32)[None], scores.shape)
        joined = (jnp.concatenate(pair, axis=1) for pair in ((best.scores, scores), (best.indices, places)))
        return _two_best(*joined), None

    start = Best(jnp.full((tokens.shape[0], 2), -jnp.inf), jnp.zeros((tokens.shape[0], 2), jnp.int32))
    best, _ = jax.lax.scan(advance, start, (blocks, halves, firsts))
    return _nearer(jnp.where(finite[:, None], tokens, 0.0), jnp.where(wins[:, None], codebook, 0.0), best, finite)


def _two_best(scores, indices) -> Best:
    """Of (n, m) each; the leftmost of equals."""
    first = jnp.argmax(scores, axis=1)[:, None]
    others = jnp.where(jnp.arange(scores.shape[1])[None] == first, -jnp.inf, scores)
    places = jnp.concatenate([first, jnp.argmax(others, axis=1)[:, None]], axis=1)
    return Best(jnp.take_along_axis(scores, places, axis=1), jnp.take_along_axis(indices, places, axis=1))


def _nearer(tokens, rows, best: Best, finite) -> Found:
    """Of the two best the one that is nearer by the direct difference, which rounds less; the lower index of equals."""
    gaps = tokens[:, None] - rows[best.indices]
    distances = jnp.where(best.scores > -jnp.inf, jnp.sum(gaps**2, axis=-1), jnp.inf)
    second = (distances[:, 1] < distances[:, 0]) | (
        (distances[:, 1] == distances[:, 0]) & (best.indices[:, 1] < best.indices[:, 0])
    )
    second &= best.scores[:, 1] > -jnp.inf
    indices = jnp.where(second, best.indices[:, 1], best.indices[:, 0])
    distance = jnp.where(second, distances[:, 1], distances[:, 0])
    found = finite & (best.scores[:, 0] > -jnp.inf)
    scanned = jnp.int32(0)  # as nobody counts them here
    nothing = jnp.zeros_like(distance)  # the order is the distance itself
    return Found(jnp.where(found, indices, 0), jnp.where(finite, distance, jnp.nan), nothing, scanned)
