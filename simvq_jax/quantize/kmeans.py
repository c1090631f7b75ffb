"""k-means over tokens, for the start of a codebook, and random tokens for codes that are moved and rows of a basis."""

import jax
import jax.numpy as jnp

from simvq_jax.quantize.base import count_codes
from simvq_jax.search import nearest_code


def kmeans(key, tokens, weight, size: int, rounds: int = 10):
    """Lloyd's algorithm from random tokens; a centre that no token is nearest to stays where it is.

    tokens: float32 (N, d). weight: (N,), 1 where a token counts. -> (size, d); of fewer tokens, some of them twice.
    """

    def improve(_, centres):
        indices, _ = nearest_code(tokens, centres)
        counts = count_codes(indices, weight, size)[:, None]
        sums = jnp.zeros_like(centres).at[indices].add(tokens * weight[:, None])
        return jnp.where(counts > 0, sums / jnp.maximum(counts, 1.0), centres)

    return jax.lax.fori_loop(0, rounds, improve, random_tokens(key, tokens, weight, size))


def random_tokens(key, tokens, weight, size: int):
    """Tokens that count, in random order, each once before any twice: (N, d), (N,) -> (size, d)."""
    counts = weight > 0
    order = jnp.argsort(jnp.where(counts, jax.random.uniform(key, weight.shape), 2.0))
    return tokens[order[jnp.arange(size) % jnp.maximum(jnp.sum(counts), 1)]]
