"""k-means over tokens, for the start of a codebook, and random tokens for codes that are moved and rows of a basis."""

import jax
import jax.numpy as jnp

from simvq_jax.quantize.measures import count_codes
from simvq_jax.search import nearest_code

APART = 0.3  # of the difference of two tokens, about, by which a row differs from the token that it repeats


def kmeans(key, tokens, weight, size: int, rounds: int = 10):
    """Lloyd's algorithm from random tokens; a centre that no token is nearest to stays where it is.

    tokens: float32 (N, d). weight: (N,), 1 where a token counts. -> (size, d); of no more tokens than centres, what
    `apart_tokens` makes of them.
    """
    start = apart_tokens(key, tokens, weight, size)
    if tokens.shape[0] <= size:  # every token has a centre on it
        return start

    def improve(_, centres):
        indices, _ = nearest_code(tokens, centres)
        counts = count_codes(indices, weight, size)[:, None]
        sums = jnp.zeros_like(centres).at[indices].add(tokens * weight[:, None])
        return jnp.where(counts > 0, sums / jnp.maximum(counts, 1.0), centres)

    return jax.lax.fori_loop(0, rounds, improve, start)


def apart_tokens(key, tokens, weight, size: int):
    """As `random_tokens`, but a row that equals one before it is moved by a share of the difference of two tokens, if
    any differ.

    So rows are hardly alike, and keep the shape of the tokens' cloud, its directions and its tails.
    """
    row_key, other_key, share_key = jax.random.split(key, 3)
    rows, others = (random_tokens(k, tokens, weight, size) for k in (row_key, other_key))
    share = jnp.where(_repeats(rows), APART * jax.random.normal(share_key, (size,), jnp.float32), 0.0)
    apart = others - jnp.roll(others, 1, axis=0)
    from_mean = rows - jnp.mean(rows, axis=0, keepdims=True)
    return rows + share[:, None] * jnp.where(jnp.any(apart != 0, axis=1, keepdims=True), apart, from_mean)


def _repeats(rows):
    """Whether each row (n, d) equals one before it: (n,) bool. Of two different rows that is said once in 2^32."""
    bits = jax.lax.bitcast_convert_type(jnp.where(rows == 0, 0.0, rows), jnp.uint32)  # -0 is 0
    factors = jax.random.bits(jax.random.key(0), (rows.shape[1],), jnp.uint32) | 1
    marks = jnp.sum(bits * factors[None], axis=1)  # integers, which wrap around: in any order the same
    order = jnp.argsort(marks)  # stable, so the first of equal rows stays first
    again = jnp.diff(marks[order], prepend=~marks[order[:1]]) == 0
    return jnp.zeros(len(rows), bool).at[order].set(again)


def random_tokens(key, tokens, weight, size: int):
    """Tokens that count, in random order, each once before any twice: (N, d), (N,) -> (size, d)."""
    counts = weight > 0
    order = jnp.argsort(jnp.where(counts, jax.random.uniform(key, weight.shape, jnp.float32), 2.0))
    return tokens[order[jnp.arange(size) % jnp.maximum(jnp.sum(counts), 1)]]
