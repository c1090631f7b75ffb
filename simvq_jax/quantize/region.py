"""What the region loss of SimVQ draws anew at every step: tokens as targets, and codes out of use."""

import jax
import jax.numpy as jnp

from simvq_jax.search import codebook_shards


def one_of_each_run(key, tokens, weight, count: int):
    """One random token of each of up to `count` equal runs of tokens (N, d), and its weight: (S, d), (S,).

    Runs rather than free draws: a token is read on the device that holds it.
    """
    run = max(-(-tokens.shape[0] // count), 1)
    short = -tokens.shape[0] % run  # the last run is filled up with tokens that do not count
    tokens, weight = jnp.pad(tokens, ((0, short), (0, 0))), jnp.pad(weight, (0, short))
    runs = tokens.shape[0] // run
    pick = jax.random.randint(key, (runs, 1), 0, run)
    sources = jnp.take_along_axis(tokens.reshape(runs, run, -1), pick[..., None], axis=1)[:, 0]
    return sources, jnp.take_along_axis(weight.reshape(runs, run), pick, axis=1)[:, 0]


def idle_codes(key, unused, size: int):
    """Up to `size` codes out of use, from a random one on: int32 (n,), and which of them are: bool (n,).

    unused: bool (K,). A codebook of up to `size` codes is given whole, in order.
    """
    k = unused.shape[0]
    if k <= size:
        return jnp.arange(k, dtype=jnp.int32), unused
    size = -(-size // codebook_shards()) * codebook_shards()
    total, before = jnp.sum(unused, dtype=jnp.int32), jnp.cumsum(unused, dtype=jnp.int32) - unused
    first = before[jax.random.randint(key, (), 0, k)]
    place = jnp.where(unused, (before - first) % jnp.maximum(total, 1), size)
    idle = jnp.zeros((size,), jnp.int32).at[place].set(jnp.arange(k, dtype=jnp.int32), mode="drop")
    return idle, jnp.arange(size) < total


def nearest_source(codes, sources, weight):
    """The source, of those that count, nearest to each code: (n, d), (S, d), (S,) -> (n, d), without a gradient.

    They are few, so their products are formed; which of two that are nearly as close does not matter.
    """
    codes, sources = jax.lax.stop_gradient(codes), jax.lax.stop_gradient(sources)
    scores = codes @ sources.T - 0.5 * jnp.sum(sources * sources, axis=-1)[None]
    return sources[jnp.argmax(jnp.where(weight[None] > 0, scores, -jnp.inf), axis=-1)]
