"""Run by test_device_checks.py: a codebook split over eight devices against the whole one, and against half the tokens.

Sizes lie on both sides of a batch of `in_equal_batches`, of one device and of all. Prints the problems that disagree.
"""

import os
import sys
from collections.abc import Iterator

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np

from simvq_jax.mesh import make_mesh
from simvq_jax.search import nearest, nearest_code

N, K, D = 700, 4096, 64


def problems() -> Iterator[tuple[str, tuple]]:
    rng = np.random.default_rng(0)
    tokens, codes = (rng.normal(size=(n, D)).astype(np.float32) for n in (N, K))
    twice = np.concatenate([codes[: K // 2], codes[: K // 2] * (1 + 1e-6 * rng.normal(size=(K // 2, 1)))])
    twice = twice.astype(np.float32)
    far = 2 * np.linalg.norm(twice, axis=1).max() / np.linalg.norm(tokens, axis=1, keepdims=True)
    lengths = 10.0 ** -rng.integers(0, 6, (K, 1))
    transform = rng.normal(size=(D, D)).astype(np.float32), rng.normal(size=D).astype(np.float32)
    yield "near ties far away", ((tokens * far).astype(np.float32), twice, None)
    yield "near ties at the codes", ((twice[:N] + 1e-3 * tokens).astype(np.float32), twice, None)
    yield "long tokens, codes of unlike lengths", (30 * tokens, (codes * lengths).astype(np.float32), None)
    yield "a transform", (1000 * tokens, codes, transform)


def differ(some, others) -> int:
    return sum(int((np.asarray(a) != np.asarray(b)).sum()) for a, b in zip(some, others, strict=True))


def main() -> int:
    nearest.FOLD_BYTES = 0
    wrong = 0
    for name, (tokens, *codes) in problems():
        expected = [np.asarray(a) for a in nearest_code(tokens, *codes)]
        of_half = differ(nearest_code(tokens[: N // 2], *codes), [a[: N // 2] for a in expected])
        with jax.set_mesh(make_mesh(data=2, codebook=4)):
            of_shards = differ(jax.jit(nearest_code)(tokens, *codes), expected)
        print(f"{name}: {of_half} of half the tokens, {of_shards} of shards differ")
        wrong += of_half + of_shards
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
