"""Peers of PyTorch and faiss; builders as in `benchmarks.peers`. They run where jax runs: on the GPU, or on the CPU."""

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.peers import BETA, Method, UnavailableError
from benchmarks.problems import Problem
from benchmarks.timing import Contender

OFFICIAL_FILE = "taming/modules/vqvae/quantize.py"


def _place(problem: Problem) -> Any:
    """The problem with torch tensors, on the device kind that jax uses."""
    kind = {"cpu": "cpu", "gpu": "cuda"}.get(jax.default_backend())
    if kind is None or (kind == "cuda" and not torch.cuda.is_available()):
        raise UnavailableError(f"this PyTorch has no {jax.default_backend()}")
    return jax.tree.map(lambda a: torch.from_numpy(a).to(kind), problem)


def _wait(result) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _method(run: Callable[[], Any]) -> Method:
    """run() -> indices, or a tuple that begins with them."""
    _wait(run())  # compiles, and fills caches that are none of the call's own
    result, temporary = _peak_of(run)
    indices = result[0] if isinstance(result, tuple) else result
    return Method(Contender(run, _wait), indices.cpu().numpy().reshape(-1), temporary)


def _peak_of(run) -> tuple[Any, int | None]:
    """Result, and the bytes that the call held at most: of the GPU's allocator, else of the process under Linux."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = run()
        _wait(result)
        return result, torch.cuda.max_memory_allocated() - before
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the process's peak starts afresh
        before = _resident_bytes("VmRSS")
    except OSError:
        return run(), None
    result = run()
    return result, _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _codes(problem: Problem):
    if problem.transform is None:
        return problem.rows
    weight, bias = problem.transform
    return problem.rows @ weight + bias


def _expanded(tokens, codes):
    """The official expression."""
    distances = (tokens**2).sum(1, keepdim=True) + (codes**2).sum(1) - 2 * (tokens @ codes.T)
    return distances.argmin(1)


def official(problem: Problem, direction: str, *, path: str, compiled: bool = False) -> Method:
    """The official quantizer: its module from the checkout at `path`, or its expression, eager or compiled."""
    placed = _place(problem)
    if path and problem.transform is None:
        raise UnavailableError("the official module always has a transform")
    if path:
        quantize, trained = _official_module(placed, path)
    else:
        quantize, trained = _paper_quantizer(placed)
    if direction == "forward" and not path:
        run = lambda p: _expanded(p.tokens, _codes(p))  # noqa: E731
        return _search_method(_compiled(run) if compiled else run, placed)
    quantize = _compiled(quantize) if compiled else quantize
    return _module_method(quantize, trained, placed, direction)


def _compiled(function):
    torch._dynamo.reset()  # of many shapes in one process, the last ones would silently run uncompiled
    return torch.compile(function, dynamic=False)


def _search_method(search, placed) -> Method:
    return _method(torch.no_grad()(functools.partial(search, placed)))


def _module_method(quantize, trained, placed, direction: str) -> Method:
    """quantize(tokens) -> (indices, z_q, loss). Forward is the whole module, without gradients."""
    if direction == "forward":
        return _method(torch.no_grad()(functools.partial(quantize, placed.tokens)))
    tokens = placed.tokens.clone().requires_grad_()

    def run():
        indices, z_q, loss = quantize(tokens)
        objective = loss + (z_q * placed.cotangent).sum()
        return indices, torch.autograd.grad(objective, [tokens, *trained])

    return _method(run)


def _paper_quantizer(placed):
    """(quantize, trained parameters) as the paper defines it: the codebook whole, distances to every code."""
    transform = None if placed.transform is None else [part.clone().requires_grad_() for part in placed.transform]
    rows = placed.rows if transform else placed.rows.clone().requires_grad_()

    def quantize(tokens):
        codes = rows if transform is None else rows @ transform[0] + transform[1]
        indices = _expanded(tokens, codes)
        z_q = torch.nn.functional.embedding(indices, codes)
        loss = BETA * ((tokens - z_q.detach()) ** 2).mean() + ((tokens.detach() - z_q) ** 2).mean()
        return indices, tokens + (z_q - tokens).detach(), loss

    return quantize, transform or [rows]


def _linear(placed):
    """W and b as a layer of torch, which keeps W transposed."""
    weight, bias = placed.transform
    layer = torch.nn.Linear(*weight.shape).to(weight.device)
    layer.load_state_dict({"weight": weight.T, "bias": bias})
    return layer


def _official_module(placed, path: str):
    """(quantize, trained parameters) of the official module; its pictures are (1, d, N, 1)."""
    spec = importlib.util.spec_from_file_location("official_quantize", Path(path) / OFFICIAL_FILE)
    if spec is None or spec.loader is None:
        raise UnavailableError(f"{path} has no {OFFICIAL_FILE}")
    code = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = code  # torch.compile looks the module up by its name
    spec.loader.exec_module(code)
    module = code.SimVQ(*placed.rows.shape, beta=BETA, legacy=False).to(placed.rows.device)
    module.embedding.weight.data = placed.rows
    module.embedding_proj = _linear(placed)

    def quantize(tokens):
        (z_q, _, indices), breakdown = module(tokens.T[None, :, :, None])
        return indices, z_q[0, :, :, 0].T, breakdown.commitment

    return quantize, list(module.embedding_proj.parameters())


def vector_quantize_pytorch(problem: Problem, direction: str) -> Method:
    """Its SimVQ, straight-through as the others, or its VectorQuantize in inference where there is no transform."""
    import vector_quantize_pytorch as library

    placed = _place(problem)
    k, d = placed.rows.shape
    if placed.transform is None:
        if direction == "backward":
            raise UnavailableError("its VectorQuantize trains by moving averages, without a gradient to the codes")
        module = library.VectorQuantize(dim=d, codebook_size=k).eval().to(placed.rows.device)
        module._codebook.embed.data = placed.rows[None]
    else:
        layer = _linear(placed)
        module = library.SimVQ(d, k, codebook_transform=layer, rotation_trick=False).to(placed.rows.device)
        module.frozen_codebook = placed.rows

    def quantize(tokens):
        z_q, indices, loss = module(tokens[None])
        return indices[0], z_q[0], loss

    return _module_method(quantize, list(module.parameters()), placed, direction)


def cdist(problem: Problem, direction: str) -> Method:
    """torch.cdist and argmin."""
    if direction == "backward":
        raise UnavailableError("it is a search, no quantizer")
    return _search_method(lambda p: torch.cdist(p.tokens, _codes(p)).argmin(1), _place(problem))


def faiss_flat(problem: Problem, direction: str) -> Method:
    """faiss' exact index. Where there is a transform the index is filled in the call, for W moves every code."""
    import faiss

    if direction == "backward":
        raise UnavailableError("it is a search, no quantizer")
    if jax.default_backend() != "cpu":
        raise UnavailableError("it would run on the CPU and the others do not")

    def index_of(codes: np.ndarray):
        index = faiss.IndexFlatL2(codes.shape[1])
        index.add(codes)
        return index

    fixed = index_of(problem.rows) if problem.transform is None else None

    def run():
        index = index_of(_codes(problem)) if fixed is None else fixed
        return torch.from_numpy(index.search(problem.tokens, 1)[1])

    return _method(run)
