"""Random rows for a codebook: from a key, or from a seed alone, the same numbers on every platform."""

import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np

INITS = ("normal", "uniform")
LEVELS = 2**16  # different values that a seeded basis has


def draw(key, shape, init: str):
    """(K, d) float32 of mean 0 and variance 1 / d. init: "normal" or "uniform"."""
    std = shape[1] ** -0.5
    if init == "normal":
        return jax.random.normal(key, shape) * std
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0) * (std * 3**0.5)


def draw_from_seed(seed: int, shape, init: str):
    """As `draw`, from integers and a table: a formula in floats would round otherwise on a GPU than on a CPU.

    So the array need not be stored: its seed, shape and init say it all. The table holds LEVELS quantiles of the
    distribution, the middles of equal shares.
    """
    levels = jax.random.bits(jax.random.key(seed, impl="threefry2x32"), shape, jnp.uint16)
    table = jnp.asarray(_quantiles(init) * shape[1] ** -0.5, jnp.float32)
    return table[levels.astype(jnp.int32)]


@functools.cache
def _quantiles(init: str) -> np.ndarray:
    shares = (np.arange(LEVELS) + 0.5) / LEVELS
    if init == "uniform":
        return (2 * shares - 1) * 3**0.5
    return np.array([statistics.NormalDist().inv_cdf(share) for share in shares])
