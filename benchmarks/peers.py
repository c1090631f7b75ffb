"""Ours and others' nearest-code search on one problem, each as a contender for timing; those of jax are here.

A builder takes (problem, direction), direction "forward" or "backward", and returns a Method. Forward is the search
alone, from tokens and rows to indices, the effective codes computed in the call. Backward is the whole quantizer:
search, losses, and the gradient of `loss + sum(z_q * cotangent)` with respect to tokens and trained parameters.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import simvq_jax
from benchmarks.problems import Problem
from benchmarks.timing import Contender

HIGHEST = jax.lax.Precision.HIGHEST
BETA = 0.25  # of the commitment loss, the same for all


class Method(NamedTuple):
    """contender: for timing. indices: (N,), or None of a mere limit. temporary_bytes: peak beyond the operands."""

    contender: Contender
    indices: np.ndarray | None
    temporary_bytes: int | None


class Peer(NamedTuple):
    """build: (problem, direction) -> Method. arrays: N x K float32 arrays alive at once, to know what fits."""

    build: Callable[[Problem, str], Method]
    arrays: int


class UnavailableError(RuntimeError):
    """A peer that cannot take part here, with the reason in one sentence."""


def known_peers(official: str = "") -> dict[str, Peer]:
    """Peers by name. official: folder of the official checkout, or "" for its expression as the paper defines it."""
    return {
        "naive_jnp": Peer(naive, 1),
        "torch_official": Peer(_lazy("official", path=official), 3),
        "torch_official_compiled": Peer(_lazy("official", path=official, compiled=True), 2),
        "vector_quantize_pytorch": Peer(_lazy("vector_quantize_pytorch"), 6),
        "torch_cdist": Peer(_lazy("cdist"), 1),
        "faiss": Peer(_lazy("faiss_flat"), 0),
    }


def _lazy(name: str, **options) -> Callable[[Problem, str], Method]:
    """A builder of torch_peers, imported on the call: PyTorch need not be installed."""

    def build(problem, direction):
        return getattr(importlib.import_module("benchmarks.torch_peers"), name)(problem, direction, **options)

    return build


def jax_method(function: Callable[..., Any], *operands, gives_indices: bool = True) -> Method:
    """function(*operands) -> indices, or a tuple that begins with them; compiled, its operands on the device."""
    placed = jax.device_put(operands)
    compiled = jax.jit(function).lower(*placed).compile()
    result = compiled(*placed)
    memory = compiled.memory_analysis()
    return Method(
        Contender(functools.partial(compiled, *placed)),
        np.asarray(jax.tree.leaves(result)[0]) if gives_indices else None,
        None if memory is None else memory.temp_size_in_bytes,
    )


def ours(problem: Problem, direction: str, backend: str = "auto", rows_type=jnp.float32) -> Method:
    """`nearest_code`, or the gradient through SimVQ (VQ where there is no transform), which chooses its backend."""
    problem = problem._replace(rows=problem.rows.astype(rows_type))
    if direction == "forward":
        return jax_method(
            lambda p: simvq_jax.nearest_code(p.tokens, p.rows, p.transform, backend=backend)[0],
            problem,
        )
    k, d = problem.rows.shape
    module = (simvq_jax.VQ if problem.transform is None else simvq_jax.SimVQ)(k, d, beta=BETA)

    def objective(trained, p):
        out = module.apply(_variables(trained, p), trained["tokens"])
        return out.loss + jnp.sum(out.z_q * p.cotangent), out.indices

    return jax_method(functools.partial(_gradient, objective), problem)


def _variables(trained, problem):
    if problem.transform is None:
        return {"params": {"codebook": trained["rows"]}}
    kernel, bias = trained["transform"]
    return {"params": {"transform": {"kernel": kernel, "bias": bias}}, "codebook": {"basis": problem.rows}}


def naive(problem: Problem, direction: str) -> Method:
    """What one writes first: argmin over the expanded N x K distances, and jax differentiates the rest."""

    def search(tokens, codes):
        squares = jnp.sum(tokens**2, axis=-1, keepdims=True) + jnp.sum(codes**2, axis=-1)[None]
        return jnp.argmin(squares - 2 * jnp.dot(tokens, codes.T, precision=HIGHEST), axis=-1)

    def codes_of(rows, transform):
        return rows if transform is None else jnp.dot(rows, transform[0], precision=HIGHEST) + transform[1][None]

    def objective(trained, p):
        codes = codes_of(trained.get("rows", p.rows), trained.get("transform"))
        tokens, stop = trained["tokens"], jax.lax.stop_gradient
        indices = search(stop(tokens), stop(codes))
        z_q = codes[indices]
        loss = BETA * jnp.mean((tokens - stop(z_q)) ** 2) + jnp.mean((stop(tokens) - z_q) ** 2)
        return loss + jnp.sum((tokens + stop(z_q - tokens)) * p.cotangent), indices

    if direction == "forward":
        return jax_method(lambda p: search(p.tokens, codes_of(p.rows, p.transform)), problem)
    return jax_method(functools.partial(_gradient, objective), problem)


def _gradient(objective, problem: Problem):
    """(indices, gradient with respect to the tokens and what is trained: W and b, or the codes themselves)."""
    trained: dict[str, Any] = {"tokens": problem.tokens}
    trained |= {"rows": problem.rows} if problem.transform is None else {"transform": problem.transform}
    gradient, indices = jax.grad(objective, has_aux=True)(trained, problem)
    return indices, gradient
