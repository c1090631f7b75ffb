"""A small SimVQ, its tokens, and calls to it compiled once."""

import functools

import jax
import numpy as np

from simvq_jax.quantize import SimVQ

K, D = 20, 6


def tokens(*shape, seed=1, scale=1.0):
    """Normal tokens of shape (*shape, D)."""
    return np.float32(scale) * np.random.default_rng(seed).standard_normal((*shape, D), np.float32)


@functools.cache
def make(**fields):
    """A small SimVQ and its initial variables."""
    module = SimVQ(**{"codebook_size": K, "dim": D, **fields})
    init = functools.partial(module.init, method="codebook")  # needs no search to compile
    return module, jax.jit(init)(jax.random.key(0))


@functools.partial(jax.jit, static_argnames=("module", "method"))
def apply(module, variables, *arguments, method="__call__", **masks):
    """`module.apply` as one program, which compiles faster than its parts."""
    return module.apply(variables, *arguments, method=method, **masks)


def with_params(variables, params):
    return {**variables, "params": params}


@functools.partial(jax.jit, static_argnames="module")
def trained(module, variables, z, mask=None, key=0):
    """(result, new statistics) of one training call."""
    rngs = {"quantizer": jax.random.key(key)}
    out, changed = module.apply(variables, z, mask, train=True, mutable=["codebook_stats"], rngs=rngs)
    return out, changed["codebook_stats"]
