"""Means and counts over tokens, of those that count."""

import jax.numpy as jnp


def mean_square(difference, weight):
    """Mean over the elements of the tokens that count. difference: (..., d), weight: (...) -> ()."""
    d = difference.shape[-1]
    per_token = jnp.sum(difference * difference, axis=-1)
    return jnp.sum(per_token * weight) / (jnp.maximum(jnp.sum(weight), 1.0) * d)


def mean_and_variance(vectors, weight):
    """Of the vectors that count. vectors: (..., d), weight: (...) -> (d,), and () the mean over d."""
    flat, weight = vectors.reshape(-1, vectors.shape[-1]), weight.reshape(-1)
    mean = jnp.sum(flat * weight[:, None], axis=0) / jnp.maximum(jnp.sum(weight), 1.0)
    return mean, mean_square(flat - mean[None], weight)


def told_apart(variance, vectors, weight):
    """Whether vectors (..., d) of this variance, of those that count, differ by more than float32 rounds: bool ()."""
    return variance > 1e-10 * mean_square(vectors, weight)


def count_codes(indices, weight, codebook_size: int):
    """Tokens assigned to each code: (K,) float32; one array summed over every device."""
    return jnp.zeros((codebook_size,), jnp.float32).at[indices.reshape(-1)].add(weight.reshape(-1))
