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


def interpreted(kernel):
    """`kernel.group_maxima` as a CPU can run it."""
    interpret = plgpu.InterpretGPUParams() if kernel is hopper else True
    return functools.partial(kernel.group_maxima, interpret=interpret)


def random_limbs(n, k, d, products: int):
    """Limbs of normal tokens and codes, and half norms (K,), as `group_maxima` takes them."""
    rng = np.random.default_rng(n + k + d)
    tokens, codes = (jnp.asarray(rng.normal(size=(rows, d)), jnp.float32) for rows in (n, k))
    return split(tokens, U_LIMBS[products]), split(codes, CODE_LIMBS[products]), jnp.sum(codes**2, axis=1) / 2


def assert_maxima(kernel, got, u_limbs, code_limbs, half_norms, products):
    """Group maxima are those of float64 scores, to the worst rounding of float32 sums of exact products, in any order.

    A sum of t terms is off by at most t roundings of the sum of their sizes, 2^-23 each where it is cut off, not
    rounded. A group without a code that may win has `-inf`, or for a kernel that pads with it, `-kernel.NEVER`.
    """
    u, c = ([np.asarray(limb, np.float64) for limb in limbs] for limbs in (u_limbs, code_limbs))
    halves = np.asarray(half_norms, np.float64)
    scores = sum(u[i] @ c[j].T for i, j in products) - halves
    sizes = sum(abs(u[i]) @ abs(c[j]).T for i, j in products) + halves
    terms = len(products) * u[0].shape[1] + 1
    expected = groups(kernel, scores, -np.inf).max(2).reshape(len(scores), -1)
    tolerance = 2.0**-23 * terms * groups(kernel, np.where(sizes < np.inf, sizes, 0), 0).max(2).reshape(expected.shape)
    assert got.shape == expected.shape and got.dtype == jnp.float32
    empty = np.isneginf(expected)
    assert (np.asarray(got)[empty] <= -getattr(kernel, "NEVER", np.inf)).all()
    error = abs(np.where(empty, 0, got) - np.where(empty, 0, expected))
    assert (error <= tolerance).all(), (error - tolerance).max()


def groups(kernel, scores, filler):
    """(N, K) -> (N, blocks, GROUP, LANES), the codes of a group along axis 2."""
    padded = np.pad(scores, ((0, 0), (0, -scores.shape[1] % (kernel.GROUP * kernel.LANES))), constant_values=filler)
    return padded.reshape(len(scores), -1, kernel.GROUP, kernel.LANES)


def lowered(kernel, platform, n, k, d, products: int) -> str:
    """The program for a device that need not be there, as text."""
    tokens, codes = (jax.ShapeDtypeStruct((rows, d), jnp.bfloat16) for rows in (n, k))
    operands = (tokens,) * U_LIMBS[products], (codes,) * CODE_LIMBS[products], jax.ShapeDtypeStruct((k,), jnp.float32)
    traced = jax.jit(functools.partial(kernel.group_maxima, products=PRODUCTS[products])).trace(*operands)
    return traced.lower(lowering_platforms=(platform,)).as_text()
