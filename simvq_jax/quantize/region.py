"""Of the region loss of SimVQ: tokens drawn as targets, and which is nearest to a code."""

import jax
import jax.numpy as jnp


def one_of_each_run(key, tokens, weight, count: int):
    """One random token of each of up to `count` equal runs of tokens (N, d), and its weight: (S, d), (S,).

    Runs rather than free draws, so that a device draws of the tokens that it holds.
    """
    run = max(-(-tokens.shape[0] // count), 1)
    short = -tokens.shape[0] % run  # the last run is filled up with tokens that do not count
    tokens, weight = jnp.pad(tokens, ((0, short), (0, 0))), jnp.pad(weight, (0, short))
    runs = tokens.shape[0] // run
    pick = jax.random.randint(key, (runs, 1), 0, run)
    sources = jnp.take_along_axis(tokens.reshape(runs, run, -1), pick[..., None], axis=1)[:, 0]
    return sources, jnp.take_along_axis(weight.reshape(runs, run), pick, axis=1)[:, 0]


def nearest_source(codes, sources, weight):
    """The source, of those that count, nearest to each code: (n, d), (S, d), (S,) -> (n, d), without a gradient.

    They are few, so their products are formed, about the sources' mean, for matrix units may round them; which of two
    that are nearly as close does not matter. Devices exchange the S sources.
    """
    codes, sources = jax.lax.stop_gradient(codes), jax.lax.stop_gradient(sources)
    counts = weight > 0
    of_counting = jnp.where(counts[:, None], sources, 0.0)
    centre = jnp.sum(of_counting, axis=0, keepdims=True) / jnp.maximum(jnp.sum(counts, dtype=jnp.float32), 1.0)
    near, about = codes - centre, of_counting - centre
    scores = near @ about.T - 0.5 * jnp.sum(about * about, axis=-1)[None]
    return of_counting[jnp.argmax(jnp.where(counts[None], scores, -jnp.inf), axis=-1)]
