"""Search problems of stated kinds, and what a float64 search over every code says of an answer to one."""

from typing import NamedTuple

import ml_dtypes
import numpy as np

CODES_A_BLOCK = 16_384  # (512, block) float64 distances take 64 MiB
TIE = 2e-6  # share of ||z - b||^2 + ||z - q||^2 that a float32 distance does not resolve
NEAR_NOISE = 0.1  # of tokens near codes, whose elements have about unit scale


class Problem(NamedTuple):
    """Arrays of one kind throughout: numpy, jax or torch; float32.

    tokens: (N, d), rows: (K, d_basis), transform: None or (W: (d_basis, d), b: (d,)); the codes are rows W + b.
    cotangent: (N, d) gradient that arrives at the quantized tokens.
    """

    tokens: np.ndarray
    rows: np.ndarray
    transform: tuple[np.ndarray, np.ndarray] | None
    cotangent: np.ndarray


def random_problem(kind: str, n: int, k: int, d: int, *, transform: bool, bfloat16_codes=False, seed=0) -> Problem:
    """kind "normal": tokens and codes both about N(0, 1); "near": every token lies near a code.

    bfloat16_codes: rows are numbers that bfloat16 holds, as float32 all the same.
    """
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((k, d), np.float32)
    affine = None
    if transform:
        rows *= np.float32(d**-0.5)
        affine = (rng.standard_normal((d, d), np.float32), rng.standard_normal(d, np.float32))
    if bfloat16_codes:
        rows = rows.astype(ml_dtypes.bfloat16).astype(np.float32)
    tokens = rng.standard_normal((n, d), np.float32)
    if kind == "near":
        chosen = rows[rng.integers(0, k, n)]
        tokens = np.float32(NEAR_NOISE) * tokens + (chosen if affine is None else chosen @ affine[0] + affine[1])
    elif kind != "normal":
        raise ValueError(f"data is {kind!r} but must be 'normal' or 'near'.")
    elif affine is not None:
        tokens += affine[1]
    return Problem(tokens, rows, affine, rng.standard_normal((n, d), np.float32) / np.float32(n * d))


class Reference:
    """The nearest codes of the first `count` tokens, in float64.

    indices: (count,), the lowest of equals; sq_distance: (count,); resolution: (count,), what float32 cannot tell.
    """

    def __init__(self, problem: Problem, count: int):
        self.problem = problem
        self.tokens = problem.tokens[:count].astype(np.float64)
        self.bias = np.zeros(self.tokens.shape[1]) if problem.transform is None else problem.transform[1]
        self.size = ((self.tokens - self.bias) ** 2).sum(-1)
        self.indices = self._search()
        self.sq_distance = self.distance_to(self.indices)
        self.resolution = TIE * (self.size + self.sq_distance)

    def errors(self, indices) -> dict[str, int]:
        """Counts of wrong indices, whose code is farther than float32 could take for a tie, and of all that differ."""
        found = np.asarray(indices)[: len(self.tokens)]
        regret = self.distance_to(found) - self.sq_distance
        return {
            "checked_tokens": len(found),
            "wrong_indices": int((regret > self.resolution).sum()),
            "different_indices": int((found != self.indices).sum()),
        }

    def distance_to(self, indices) -> np.ndarray:
        """Squared distance of each token to its code of `indices`: float64 (count,)."""
        return ((self.tokens - self.bias - self._centred(indices)) ** 2).sum(-1)

    def _centred(self, chosen) -> np.ndarray:
        """Codes without the common bias: float64 (..., d)."""
        rows = self.problem.rows[chosen].astype(np.float64)
        return rows if self.problem.transform is None else rows @ self.problem.transform[0].astype(np.float64)

    def _search(self) -> np.ndarray:
        centred_tokens = self.tokens - self.bias
        best = np.full(len(self.tokens), np.inf)
        indices = np.zeros(len(self.tokens), np.int64)
        for start in range(0, len(self.problem.rows), CODES_A_BLOCK):
            codes = self._centred(slice(start, start + CODES_A_BLOCK))
            distances = self.size[:, None] - 2 * centred_tokens @ codes.T + (codes**2).sum(-1)
            # Equal codes differ in their last bits by their place in the matrix product.
            slack = 1e-12 * (self.size + (codes**2).sum(-1).max())
            nearest = distances.min(-1)
            lowest = (distances <= (nearest + slack)[:, None]).argmax(-1)
            better = nearest < best - slack
            indices[better] = start + lowest[better]
            best[better] = nearest[better]
        return indices
