"""What bounds the search: matrix products, the coarse pass alone, and Hopper's kernel with and without epilogue."""

import functools

import jax
import jax.numpy as jnp

from benchmarks import timing
from benchmarks.peers import HIGHEST, Method, Peer, UnavailableError, jax_method
from benchmarks.problems import Problem

GROUP, TILE, BLOCK = 32, 1024, 2048  # of the bare maxima; the fastest of those tried on a CPU
KERNEL_CALLS = 10  # a measurement of the kernel averages over
PRODUCTS = {1: ((0, 0),), 2: ((0, 0), (1, 0)), 3: ((0, 0), (1, 0), (0, 1))}  # pairs of limbs, by passes


def known_limits() -> dict[str, Peer]:
    return {
        "limit_large_gemm": Peer(large_gemm, 0),
        "limit_gemm": Peer(gemm, 1),
        "limit_maxima": Peer(bare_maxima, 0),
    }


def large_size() -> int:
    """Side of the large product: enough to reach the device's rate, not more."""
    return 2048 if jax.default_backend() == "cpu" else 8192


def work_type():
    """Of the products that the search is made of."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def _product(left, right):
    """left: (n, d), right: (m, d) -> (n, m)."""
    return jnp.dot(left, right.T, precision=HIGHEST if left.dtype == jnp.float32 else None)


def large_gemm(problem: Problem, direction: str) -> Method:
    size = large_size()
    keys = jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(key, (size, size), work_type()) for key in keys)
    return jax_method(_product, left, right, gives_indices=False)


def gemm(problem: Problem, direction: str) -> Method:
    """All scores, written out."""
    operands = (jnp.asarray(a, work_type()) for a in (problem.tokens, problem.rows))
    return jax_method(_product, *operands, gives_indices=False)


def bare_maxima(problem: Problem, direction: str) -> Method:
    """The largest score `u . c - h` of every GROUP codes, and nothing after that."""
    if jax.default_backend() != "cpu":
        raise UnavailableError("XLA fuses a maximum into a product on the CPU only")
    k, d = problem.rows.shape
    block = min(BLOCK, -(-k // GROUP) * GROUP)
    u = jnp.pad(problem.tokens, ((0, -len(problem.tokens) % TILE), (0, 0))).reshape(-1, TILE, d)
    blocks = jnp.pad(problem.rows, ((0, -k % block), (0, 0))).reshape(-1, block, d)
    half_norms = jnp.sum(blocks**2, axis=-1) / 2

    def of_block(u, block_and_half):
        scores = jnp.dot(u, block_and_half[0].T, precision=HIGHEST) - block_and_half[1][None]
        return scores.reshape(TILE, GROUP, -1).max(axis=1)

    def maxima(u, blocks, half_norms):
        return jax.lax.map(lambda tile: jax.lax.map(functools.partial(of_block, tile), (blocks, half_norms)), u)

    return jax_method(maxima, u, blocks, half_norms, gives_indices=False)


def kernel_rows(problem: Problem, repeats: int) -> list[dict]:
    """The Hopper kernel itself, a row for every number of passes, beside the large product; elsewhere nothing.

    gflops counts 2 N K d once, tensor_tflops every pass, and so does the share.
    """
    from simvq_jax.search import hopper
    from simvq_jax.search.limbs import split

    (n, d), k = problem.tokens.shape, problem.rows.shape[0]
    reason = hopper.why_not(jax.devices()[0], d, 2)
    if reason is not None:
        raise UnavailableError(reason)
    u_limbs, code_limbs = split(jnp.asarray(problem.tokens), 2), split(jnp.asarray(problem.rows), 2)
    half_norms = jnp.sum(jnp.asarray(problem.rows) ** 2, axis=-1) / 2
    methods = {"large_gemm": large_gemm(problem, "forward")}
    for passes, products in PRODUCTS.items():
        limbs = u_limbs[: 1 + (passes > 1)], code_limbs[: 1 + (passes > 2)]
        for epilogue in (True, False):
            run = functools.partial(hopper.coarse_pass(k)[0], products=products, epilogue=epilogue)
            name = f"hopper_{passes}_pass" + ("" if epilogue else "_bare")
            methods[name] = jax_method(run, *limbs, half_norms, gives_indices=False)
    seconds = timing.alternate({name: m.contender for name, m in methods.items()}, repeats, KERNEL_CALLS)
    ceiling = 2 * large_size() ** 3 / timing.summary(seconds["large_gemm"])["median"]
    return [_kernel_row(name, seconds[name], 2 * n * k * d, ceiling) for name in methods if name != "large_gemm"]


def _kernel_row(name: str, seconds: list[float], work: int, ceiling: float) -> dict:
    summary = timing.summary(seconds)
    passes = int(name.split("_")[1])
    rate = work / summary["median"]
    return {
        "method": name,
        "calls": KERNEL_CALLS,
        "seconds": summary,
        "gflops": round(rate / 1e9, 1),
        "tensor_tflops": round(passes * rate / 1e12, 1),
        "share_of_limit_large_gemm": round(passes * rate / ceiling, 3),
    }
