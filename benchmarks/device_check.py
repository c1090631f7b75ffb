"""Is the search exact on the device at hand? Every backend that serves it, against float64 on small, hard problems.

    python -m benchmarks.device_check [--out=FILE.json] [--most_codes=K]

Per case (sizes, type of the codes, with or without transform) and backend: the hard problems on which `nearest_code`
erred, and how; for a kernel also how far its group maxima are from those of float64, as a share of the error that the
search allows them. Exit status 1 where an index or a distance is wrong, a share exceeds 1, or a backend fails.
It needs jax alone: not the command line of the package, which takes more.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from benchmarks import timing
from benchmarks.problems import Problem, Reference, random_problem
from simvq_jax import nearest_code
from simvq_jax.search import backends, rerank
from simvq_jax.search.codes import Groups
from simvq_jax.search.limbs import split

BAD_VALUES = np.array([np.nan, np.inf, -np.inf, 1e30], np.float32)  # the last is finite, but its square is not
PRODUCTS = ((0, 0), (1, 0), (0, 1))  # of limbs; codes of one limb have the first two


class Case(NamedTuple):
    """N tokens, K codes, length d; whether the codes are bfloat16, and whether they are rows W + b."""

    n: int
    k: int
    d: int
    bfloat16_codes: bool
    transform: bool


CASES = (
    Case(1, 1, 8, False, False),
    Case(29, 4099, 8, False, True),
    Case(300, 519, 64, True, False),
    Case(300, 20_000, 128, False, True),
    Case(29, 4099, 130, True, True),
    Case(513, 4099, 256, False, False),
    Case(65, 2100, 512, False, True),
    Case(65, 2100, 512, True, False),
)

Search = Callable[[Problem], tuple[Any, Any]]  # -> indices (N,), sq_distance (N,)


def hard_problems(case: Case) -> dict[str, Problem]:
    """By name, all of one shape, so that one compiled program serves them all."""
    normal, near = (
        random_problem(kind, *case[:3], transform=case.transform, bfloat16_codes=case.bfloat16_codes)
        for kind in ("normal", "near")
    )
    rows, k = normal.rows, case.k
    problems = {
        "normal data": normal,
        "tokens near codes": near,
        "tokens halfway between codes": normal._replace(tokens=_halfway(normal)),
        "every code ten times": normal._replace(rows=np.resize(rows[: max(k // 10, 1)], rows.shape)),
        "all codes equal": normal._replace(rows=np.resize(rows[:1], rows.shape)),
        "codes close together": normal._replace(rows=rows / 100 + 1),
        "scale 1e-15": _scaled(normal, 1e-15),
        "scale 1e15": _scaled(normal, 1e15),
        "tokens that are not finite": normal._replace(tokens=_spoiled(normal.tokens)),
        "codes that are not finite": normal._replace(rows=_spoiled(rows)),
    }
    if normal.transform is not None:
        weight, bias = normal.transform
        problems["W of rank one"] = normal._replace(transform=(np.broadcast_to(weight[:1], weight.shape), bias))
        problems["ill-conditioned W"] = normal._replace(transform=(_ill_conditioned(weight), bias))
        problems["a shared offset"] = normal._replace(tokens=normal.tokens + 1000, transform=(weight, bias + 1000))
    if case.bfloat16_codes:
        problems = {
            name: p._replace(rows=p.rows.astype(ml_dtypes.bfloat16).astype(np.float32)) for name, p in problems.items()
        }
    return problems


def _halfway(problem: Problem) -> np.ndarray:
    pair = np.random.default_rng(0).integers(0, len(problem.rows), (len(problem.tokens), 2))
    middle = problem.rows[pair].mean(axis=1)
    return middle if problem.transform is None else middle @ problem.transform[0] + problem.transform[1]


def _scaled(problem: Problem, scale: float) -> Problem:
    factor = np.float32(scale)
    transform = problem.transform and (problem.transform[0], problem.transform[1] * factor)
    return problem._replace(tokens=problem.tokens * factor, rows=problem.rows * factor, transform=transform)


def _spoiled(vectors: np.ndarray) -> np.ndarray:
    """With a bad value in every seventh from the second on, so that a single vector stays good."""
    vectors = vectors.copy()
    vectors[1::7, 0] = np.resize(BAD_VALUES, len(vectors[1::7]))
    return vectors


def _ill_conditioned(weight: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(weight)
    return ((left * np.logspace(0, -6, len(weight))) @ right).astype(np.float32)


def faults(problem: Problem, indices, sq_distance) -> dict[str, int]:
    """Counts of tokens by what is wrong with their answer; what is right is left out."""
    found, sq_distance, k = np.asarray(indices), np.asarray(sq_distance), len(problem.rows)
    inside = (found >= 0) & (found < k)
    found = np.where(inside, found, 0)
    finite, usable = _squares_are_finite(problem.tokens), _squares_are_finite(problem.rows)
    # A float64 search over codes that are not finite finds nothing: a good one stands in for each.
    rows = np.where(usable[:, None], problem.rows, problem.rows[usable.argmax()])
    reference = Reference(problem._replace(tokens=problem.tokens[finite], rows=rows), len(finite))
    distance = reference.distance_to(found[finite])
    wrong = (distance - reference.sq_distance > reference.resolution) | ~usable[found[finite]]
    off = np.abs(sq_distance[finite] - distance) > 5 * reference.resolution + 2e-4 * distance
    counts = {
        "wrong_indices": (wrong | ~inside[finite]).sum(),
        "later_of_equal_codes": (found != _first_equal(problem.rows)[found])[finite].sum(),
        "wrong_distances": (off | np.isnan(sq_distance[finite])).sum(),
        "bad_token_not_0_and_nan": (~inside | (found != 0) | ~np.isnan(sq_distance))[~finite].sum(),
    }
    return {name: int(count) for name, count in counts.items() if count}


def _squares_are_finite(vectors: np.ndarray) -> np.ndarray:
    """(n, d) -> bool (n,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite((vectors**2).sum(axis=1))


def _first_equal(rows: np.ndarray) -> np.ndarray:
    """Of every code, the lowest index of a code equal to it: (K, d) -> (K,)."""
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def search_with(backend: str, case: Case) -> Search:
    rows_type = jnp.bfloat16 if case.bfloat16_codes else jnp.float32
    return lambda p: nearest_code(p.tokens, jnp.asarray(p.rows, rows_type), p.transform, backend=backend)


def check_search(search: Search, case: Case) -> dict[str, dict[str, int]]:
    """The faults of a search by hard problem; empty where it is exact."""
    found = {name: faults(problem, *search(problem)) for name, problem in hard_problems(case).items()}
    return {name: counts for name, counts in found.items() if counts}


def check_maxima(group_maxima: Callable, groups: Groups, case: Case) -> dict[str, float]:
    """How far a kernel's group maxima are from those of float64: as numbers, and as a share of what is allowed.

    Both take the same limbs, so this is the error of sums alone.
    """
    problem = random_problem("normal", *case[:3], transform=False, bfloat16_codes=case.bfloat16_codes)
    limbs = split(jnp.asarray(problem.tokens), 2), split(jnp.asarray(problem.rows), 1 if case.bfloat16_codes else 2)
    products = PRODUCTS[: 1 + len(limbs[1])]
    half_norms = (problem.rows**2).sum(axis=1) / 2
    got = jax.jit(group_maxima, static_argnums=3)(*limbs, jnp.asarray(half_norms), products)
    u, c = ([np.asarray(limb, np.float64) for limb in of] for of in limbs)
    expected = _largest_of_groups(groups, sum(u[i] @ c[j].T for i, j in products) - half_norms, -np.inf)
    norms = _largest_of_groups(groups, np.linalg.norm(problem.rows, axis=1)[None], 0)
    sums = rerank.rounding(case.d * len(products))
    allowed = sums * np.linalg.norm(problem.tokens, axis=1)[:, None] * norms
    allowed += rerank.rounding(case.d) * _largest_of_groups(groups, half_norms[None], 0)
    filled = expected > -np.inf  # not the groups of padding alone
    difference = np.abs(np.where(filled, got, 0) - np.where(filled, expected, 0))
    share = np.where(filled, difference / np.where(allowed > 0, allowed, 1), 0)
    return {"largest_difference": float(difference.max()), "share_of_allowed": float(share.max())}


def _largest_of_groups(groups: Groups, values: np.ndarray, filler: float) -> np.ndarray:
    """(n, K) -> (n, G)."""
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % groups.block)), constant_values=filler)
    return padded.reshape(len(values), -1, *groups).max(axis=2).reshape(len(values), -1)


def why_not(backend: str, case: Case) -> str | None:
    """Why the backend does not serve this device and case, or None."""
    if backend not in backends.KERNELS:
        return None
    return backends.kernel_module(backend).why_not(jax.devices()[0], case.d, 1 if case.bfloat16_codes else 2)


def check(backend: str, case: Case) -> dict[str, Any]:
    """The row of one backend and case; "ok" tells whether all is well."""
    row: dict[str, Any] = {"backend": backend, **case._asdict()}
    began = time.perf_counter()
    try:
        row["faults"] = check_search(search_with(backend, case), case)
        if backend in backends.KERNELS:
            group_maxima, groups = backends.kernel_module(backend).coarse_pass(case.k)
            row["maxima"] = check_maxima(group_maxima, groups, case)
    except Exception as error:  # a kernel that does not compile must not hide what the others do
        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"
    share = row.get("maxima", {}).get("share_of_allowed", 0.0)
    row["ok"] = "error" not in row and not row["faults"] and share <= 1  # a share of NaN is not
    row["seconds"] = round(time.perf_counter() - began, 1)
    return row


def main(arguments: list[str] | None = None) -> int:
    """Prints a line a row, writes all to --out. -> exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device_check", description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="", help="JSON file for every figure")
    parser.add_argument("--most_codes", type=int, default=CASES[3].k, help="leave larger codebooks out")
    flags = parser.parse_args(arguments)
    out, cases = flags.out, [case for case in CASES if case.k <= flags.most_codes]
    if not cases:
        parser.error(f"--most_codes is {flags.most_codes} but must be at least 1.")
    result: dict[str, Any] = {**timing.provenance(), "rows": [], "left_out": {}}
    for backend in ("blockwise", *backends.KERNELS):
        for case in cases:
            reason = why_not(backend, case)
            if reason is not None:
                result["left_out"].setdefault(f"{backend}: {reason}", []).append(list(case))
                continue
            result["rows"].append(check(backend, case))
            print("ok   " if result["rows"][-1]["ok"] else "WRONG", result["rows"][-1], flush=True)
            if out:
                timing.write_json(out, result)
    for reason, left in result["left_out"].items():
        print(f"left out, {len(left)} of {len(cases)} cases: {reason}.")
    if out:
        timing.write_json(out, result)
    wrong = sum(not row["ok"] for row in result["rows"])
    print(f"{len(result['rows']) - wrong} of {len(result['rows'])} checks passed.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
