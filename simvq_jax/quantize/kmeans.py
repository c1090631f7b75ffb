"""k-means over tokens, for the start of a codebook, and random tokens for codes that are moved and rows of a basis."""

import jax
import jax.numpy as jnp

from simvq_jax.quantize.base import count_codes
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
    """As `random_tokens`, but a repeated token is moved by a share of the difference of two, if any differ.

    So rows are hardly alike, and keep the shape of the tokens' cloud, its directions and its tails.
    """
    row_key, other_key, share_key = jax.random.split(key, 3)
    rows, others = (random_tokens(k, tokens, weight, size) for k in (row_key, other_key))
    repeats = jnp.arange(size) >= jnp.sum(weight > 0)
    share = jnp.where(repeats, APART * jax.random.normal(share_key, (size,)), 0.0)
    return rows + share[:, None] * (others - jnp.roll(others, 1, axis=0))


def random_tokens(key, tokens, weight, size: int):
    """Tokens that count, in random order, each once before any twice: (N, d), (N,) -> (size, d)."""
    counts = weight > 0
    order = jnp.argsort(jnp.where(counts, jax.random.uniform(key, weight.shape), 2.0))
    return tokens[order[jnp.arange(size) % jnp.maximum(jnp.sum(counts), 1)]]
