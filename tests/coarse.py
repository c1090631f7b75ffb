"""What a coarse kernel must compute, in float64 from the very limbs, and how to run or lower one without its device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from simvq_jax.search import hopper
from simvq_jax.search.limbs import split

PRODUCTS = {1: ((0, 0),), 2: ((0, 0), (1, 0)), 3: ((0, 0), (1, 0), (0, 1))}
U_LIMBS, CODE_LIMBS = {1: 1, 2: 2, 3: 2}, {1: 1, 2: 1, 3: 2}

needs_gpu_interpreter = pytest.mark.skipif(
    not hasattr(plgpu, "InterpretGPUParams"), reason="this jax has no GPU interpreter"
)


def interpreted(kernel, k: int):
    """The kernel's pass over K codes as a CPU can run it, and its groups."""
    group_maxima, groups = kernel.coarse_pass(k)
    return functools.partial(group_maxima, interpret=plgpu.InterpretGPUParams() if kernel is hopper else True), groups


def random_limbs(n, k, d, products: int):
    """Limbs of normal tokens and codes, and half norms (K,), as `group_maxima` takes them."""
    rng = np.random.default_rng(n + k + d)
    tokens, codes = (jnp.asarray(rng.normal(size=(rows, d)), jnp.float32) for rows in (n, k))
    return split(tokens, U_LIMBS[products]), split(codes, CODE_LIMBS[products]), jnp.sum(codes**2, axis=1) / 2


def assert_maxima(kernel, u_limbs, code_limbs, half_norms, products):
    """-> float32 (N, G), the kernel's group maxima, having seen that they are those of float64 scores.

    That is, to the worst rounding of float32 sums of exact products, in any order.

    A sum of t terms is off by at most t roundings of the sum of their sizes, 2^-23 each where it is cut off, not
    rounded. A group without a code that may win has `-inf`, or `-kernel.NEVER` or less.
    """
    group_maxima, groups = interpreted(kernel, len(half_norms))
    got = jax.jit(group_maxima, static_argnums=3)(u_limbs, code_limbs, half_norms, products)
    u, c = ([np.asarray(limb, np.float64) for limb in limbs] for limbs in (u_limbs, code_limbs))
    halves = np.asarray(half_norms, np.float64)
    scores = sum(u[i] @ c[j].T for i, j in products) - halves
    sizes = sum(abs(u[i]) @ abs(c[j]).T for i, j in products) + halves
    terms = len(products) * u[0].shape[1] + 1
    expected = largest_of(groups, scores, -np.inf)
    tolerance = 2.0**-23 * terms * largest_of(groups, np.where(sizes < np.inf, sizes, 0), 0)
    assert got.shape == expected.shape and got.dtype == jnp.float32
    empty = np.isneginf(expected)
    assert (np.asarray(got)[empty] <= -getattr(kernel, "NEVER", np.inf)).all()
    error = abs(np.where(empty, 0, got) - np.where(empty, 0, expected))
    assert (error <= tolerance).all(), (error - tolerance).max()
    return got


def largest_of(groups, scores, filler):
    """Maxima over groups of codes: (N, K) -> (N, G)."""
    padded = np.pad(scores, ((0, 0), (0, -scores.shape[1] % groups.block)), constant_values=filler)
    return padded.reshape(len(scores), -1, *groups).max(axis=2).reshape(len(scores), -1)


def lowered(kernel, platform, n, k, d, products: int) -> str:
    """The program for a device that need not be there, as text."""
    tokens, codes = (jax.ShapeDtypeStruct((rows, d), jnp.bfloat16) for rows in (n, k))
    operands = (tokens,) * U_LIMBS[products], (codes,) * CODE_LIMBS[products], jax.ShapeDtypeStruct((k,), jnp.float32)
    group_maxima, _ = kernel.coarse_pass(k)
    traced = jax.jit(functools.partial(group_maxima, products=PRODUCTS[products])).trace(*operands)
    return traced.lower(lowering_platforms=(platform,)).as_text()
