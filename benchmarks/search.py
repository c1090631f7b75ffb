"""Nearest-code search against its peers and its limits: speed, temporary memory and exactness.

    python -m benchmarks.search [--codebook_sizes=1024,65536] [--dims=128] [--tokens=4096] [--data=normal,near]
        [--passes=forward,backward] [--notransform] [--bfloat16_codes] [--backends=auto,blockwise]
        [--peers=all|none|NAME,...] [--official=CHECKOUT] [--out=benchmarks/results/search_cpu.json]

Per problem all methods take turns in one process. Writes JSON and, beside it, a markdown table, after every problem, so
that a run cut short leaves what it measured. Who is not installed, fails, or does not fit into --memory_gb is named.

Limits, forward only: `limit_large_gemm`, a large square product of the type the search multiplies in (float32 on the
CPU, bfloat16 elsewhere); `limit_gemm`, the product of the search's own shape, scores written out; `limit_maxima`, on
the CPU the coarse pass alone. On Hopper, rows of the kernel with and without its epilogue stand for the last.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import timing
from benchmarks.flags import numbers
from benchmarks.limits import kernel_rows, known_limits, large_size
from benchmarks.peers import Method, Peer, UnavailableError, known_peers, ours
from benchmarks.problems import Problem, Reference, random_problem
from simvq_jax import cli

PACKAGES = ("flax", "numpy", "torch", "vector-quantize-pytorch", "faiss-cpu")
CHECKED_TOKENS = 512  # compared with float64; all of a million codes take seconds then
MEASUREMENT_SECONDS = 0.02  # on a device, shorter calls are averaged over several
MAX_CALLS = 20


class Settings(NamedTuple):
    """The flags and their defaults."""

    codebook_sizes: str = "1024,8192,65536,262144"
    dims: str = "128"
    tokens: int = 4096
    data: str = "normal"
    passes: str = "forward,backward"
    transform: bool = True
    bfloat16_codes: bool = False
    backends: str = "auto"
    peers: str = "all"
    limits: bool = True
    official: str = ""
    repeats: int = 5
    memory_gb: float = 8.0
    out: str = "benchmarks/results/search_cpu.json"


HELP = {
    "codebook_sizes": "K, separated by commas",
    "dims": "d, separated by commas",
    "tokens": "N",
    "data": "normal, near, or both with a comma",
    "passes": "forward (the search), backward (the quantizer and its gradient), or both with a comma",
    "transform": "whether the codes are rows W + b, computed in the call; without it they are given",
    "bfloat16_codes": "rows are bfloat16 numbers, and ours are stored so",
    "backends": "ours, separated by commas; ratios are to the first",
    "peers": "all, none, or names separated by commas",
    "limits": "measure the limits too",
    "official": "folder of the official PyTorch checkout; empty for its expression written from the paper",
    "repeats": "measurements of every method",
    "memory_gb": "peers whose N x K arrays would take more are left out",
    "out": "JSON file to write; the table goes beside it as .md",
}


class Report:
    """Rows and remarks, on disk after every problem."""

    def __init__(self, path: str):
        self.path = path
        self.result: dict[str, Any] = {**timing.provenance(PACKAGES), "rows": [], "remarks": []}

    def remark(self, sentence: str) -> None:
        if sentence not in self.result["remarks"]:
            print(sentence, flush=True)
            self.result["remarks"].append(sentence)

    def add(self, rows: list[dict[str, Any]]) -> None:
        self.result["rows"] += rows
        timing.write_json(self.path, self.result)
        table = table_of(self.result["rows"])
        Path(self.path).with_suffix(".md").write_text(table + "\n", encoding="utf-8")
        print(table_of(rows), flush=True)


def gather(problem: Problem, direction: str, settings: Settings, remark: Callable[[str], None]) -> dict[str, Method]:
    """Every method that can take part, ours first; `remark` hears who cannot and why."""
    (n, d), k = problem.tokens.shape, problem.rows.shape[0]
    rows_type = jnp.bfloat16 if settings.bfloat16_codes else jnp.float32
    methods = {}
    # The quantizers leave the choice to "auto".
    for backend in settings.backends.split(",") if direction == "forward" else ["auto"]:
        methods[f"simvq_jax_{backend}"] = ours(problem, direction, backend, rows_type)
    others = _chosen(settings)
    if settings.limits and direction == "forward":
        others |= known_limits()
    for name, peer in others.items():
        where = f"{name}, {direction}, K = {k}, d = {d}: left out"
        gib = peer.arrays * n * k * 4 / timing.GIB
        if gib > settings.memory_gb:
            remark(f"{where}, its N x K arrays take {gib:.1f} GiB and --memory_gb is {settings.memory_gb:g}.")
            continue
        try:
            methods[name] = peer.build(problem, direction)
        except Exception as error:  # another's fault, of whatever kind, must not end the comparison
            remark(f"{where}, {type(error).__name__}: {' '.join(str(error).split())[:200]}.")
    return methods


def _chosen(settings: Settings) -> dict[str, Peer]:
    known = known_peers(settings.official)
    if settings.peers in ("all", "none"):
        return known if settings.peers == "all" else {}
    unknown = set(settings.peers.split(",")) - set(known)
    if unknown:
        raise ValueError(f"--peers has {', '.join(sorted(unknown))} but knows all, none, {', '.join(known)}.")
    return {name: known[name] for name in settings.peers.split(",")}


def measure(methods: dict[str, Method], repeats: int) -> tuple[int, dict[str, list[float]]]:
    """Calls a measurement, and seconds a call of every method."""
    contenders = {name: method.contender for name, method in methods.items()}
    first = next(iter(contenders.values()))
    began = time.perf_counter()
    first.wait(first.run())
    calls = min(max(round(MEASUREMENT_SECONDS / (time.perf_counter() - began)), 1), MAX_CALLS)
    calls = 1 if jax.default_backend() == "cpu" else calls
    return calls, timing.alternate(contenders, repeats, calls)


def rows_of(problem: Problem, reference: Reference, methods: dict[str, Method], repeats: int) -> list[dict[str, Any]]:
    """Measures, and makes a row of every method; what all rows of a problem share is left to the caller."""
    (n, d), k = problem.tokens.shape, problem.rows.shape[0]
    calls, seconds = measure(methods, repeats)
    ours_seconds = seconds[next(iter(methods))]
    work = dict.fromkeys(methods, 2 * n * k * d) | {"limit_large_gemm": 2 * large_size() ** 3}
    rates = {name: work[name] / timing.summary(seconds[name])["median"] / 1e9 for name in methods}
    limits = [name for name in methods if name.startswith("limit_")]
    rows = []
    for name, method in methods.items():
        row = {"method": name, "calls": calls, "seconds": timing.summary(seconds[name])}
        row |= {"gflops": round(rates[name], 1), "temporary_bytes": method.temporary_bytes}
        if method.indices is not None:
            row |= reference.errors(method.indices)
            row["time_over_ours"] = timing.ratio(seconds[name], ours_seconds)
            row |= {f"share_of_{limit}": round(rates[name] / rates[limit], 3) for limit in limits}
        rows.append(row)
    return rows


def table_of(rows: list[dict[str, Any]]) -> str:
    header = ["data", "d", "K", "N", "pass", "method", "seconds (fastest to slowest)", "GFLOP/s", "time over ours"]
    header += ["temporary MB", "wrong / other index", "share of large GEMM, GEMM, maxima"]
    return timing.markdown_table(header, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[object]:
    seconds, temporary = row["seconds"], row.get("temporary_bytes")
    shares = [row.get(f"share_of_limit_{limit}") for limit in ("large_gemm", "gemm", "maxima")]
    return [
        *(row[key] for key in ("data", "dim", "codebook_size", "tokens", "pass", "method")),
        f"{seconds['median']} ({seconds['fastest']} to {seconds['slowest']})",
        row["gflops"],
        row["time_over_ours"]["of_medians"] if "time_over_ours" in row else "",
        "" if temporary is None else round(temporary / 1e6, 1),
        "{wrong_indices} / {different_indices} of {checked_tokens}".format_map(row) if "wrong_indices" in row else "",
        ", ".join("-" if share is None else f"{share:.0%}" for share in shares) if any(shares) else "",
    ]


def main(**flags) -> None:
    settings = Settings(**flags)
    unknown = set(settings.passes.split(",")) - {"forward", "backward"}
    if unknown:
        raise ValueError(f"--passes has {', '.join(sorted(unknown))} but knows forward and backward.")
    if settings.tokens < 1 or settings.repeats < 1:
        raise ValueError(f"--tokens is {settings.tokens} and --repeats {settings.repeats} but both must be at least 1.")
    report = Report(settings.out)
    sizes, dims = numbers(settings.codebook_sizes, "codebook_sizes"), numbers(settings.dims, "dims")
    for kind, d, k in itertools.product(settings.data.split(","), dims, sizes):
        run_problem(kind, k, d, settings, report)


def run_problem(kind: str, k: int, d: int, settings: Settings, report: Report) -> None:
    """Every pass of one problem, and with the limits Hopper's kernel."""
    problem = random_problem(
        kind, settings.tokens, k, d, transform=settings.transform, bfloat16_codes=settings.bfloat16_codes
    )
    reference = Reference(problem, min(settings.tokens, CHECKED_TOKENS))
    shared = {
        "data": kind,
        "tokens": settings.tokens,
        "codebook_size": k,
        "dim": d,
        "transform": settings.transform,
        "bfloat16_codes": settings.bfloat16_codes,
    }
    for direction in settings.passes.split(","):
        methods = gather(problem, direction, settings, report.remark)
        rows = rows_of(problem, reference, methods, settings.repeats)
        report.add([{**shared, "pass": direction, **row} for row in rows])
    if not settings.limits:
        return
    try:
        report.add([{**shared, "pass": "kernel", **row} for row in kernel_rows(problem, settings.repeats)])
    except UnavailableError as reason:
        report.remark(f"The Hopper kernel alone: left out, {reason}.")


if __name__ == "__main__":
    cli.run_main(main, Settings()._asdict(), HELP)
