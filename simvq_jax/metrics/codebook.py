"""How a codebook is used. Counts are of the whole job: one array of K summed over all devices."""

import jax.numpy as jnp


def utilization(used):
    """Share of codes for which `used`: bool (K,) holds, in [0, 1]."""
    return jnp.mean(used.astype(jnp.float32))


def perplexity(counts):
    """exp of the entropy of the codes' frequencies. counts: (K,) non-negative -> () in [1, K]; 0 if all are 0."""
    total = jnp.sum(counts)
    p = counts / jnp.maximum(total, 1e-30)
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0))
    return jnp.where(total > 0, jnp.exp(entropy), 0.0)


def effective_rank(singular_values):
    """exp of the entropy of the normalised singular values (Roy and Vetterli, 2007). (r,) -> () in [1, r]."""
    return perplexity(singular_values)


def scale(vectors):
    """Root mean square length. (..., d) -> ()."""
    return jnp.sqrt(jnp.mean(jnp.sum(vectors.astype(jnp.float32) ** 2, axis=-1)))


def spread(vectors):
    """Root mean square distance from their mean. (..., d) -> ()."""
    flat = vectors.astype(jnp.float32).reshape(-1, vectors.shape[-1])
    return scale(flat - jnp.mean(flat, axis=0, keepdims=True))
