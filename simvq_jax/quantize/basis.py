"""Rows for a codebook: random, from a key or from a seed alone, the same numbers on every platform; of given tokens,
as they are or as a transform maps rows; or of a file."""

import functools
import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.quantize.affine import HIGHEST
from simvq_jax.quantize.kmeans import apart_tokens
from simvq_jax.quantize.measures import mean_and_variance, told_apart

INITS = ("normal", "uniform", "tokens")
LEVELS = 2**16  # different values that a seeded basis has
RIDGE = 0.1  # of rows that are fitted to tokens: .0001 diverged, .003 to .3 differ little (docs/EXPERIMENTS.md)
INVERSE_ERROR = 1e-6  # relative, before rounding


def draw(key, shape, init: str):
    """(K, d) float32 of mean 0 and variance 1 / d. init: "normal" or "uniform"."""
    std = shape[1] ** -0.5
    if init == "normal":
        return jax.random.normal(key, shape, jnp.float32) * std
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0) * (std * 3**0.5)


def of_tokens(key, tokens, weight, count: int):
    """Tokens in random order as (count, d) rows, centred and scaled to mean square length 1, as random rows are.

    tokens: (N, d), N > 0. weight: (N,), 1 = may be taken. Of fewer tokens than rows each is repeated, moved apart. Of
    tokens that are all equal the rows are normal.
    """
    row_key, normal_key = jax.random.split(key)
    rows = apart_tokens(row_key, tokens, weight, count)
    every = jnp.ones(count, jnp.float32)
    centre, variance = mean_and_variance(rows, every)
    scaled = (rows - centre[None]) * jax.lax.rsqrt(variance * rows.shape[1])
    return jnp.where(told_apart(variance, rows, every), scaled, draw(normal_key, rows.shape, "normal"))


def rows_may_restart(*, trainable: bool, drawn: bool, hidden: int) -> bool:
    """Whether rows of C can be replaced in training. A trained C has an optimiser's moments, one from a seed or a file
    (not drawn) is what those give, and `rows_near` finds rows through a linear layer (hidden = 0) alone."""
    return drawn and not trainable and not hidden


def rows_near(tokens, transform):
    """Rows c, (n, basis_dim), that W and b map near tokens (n, d): the least ||c W + b - token||^2 + r ||c||^2.

    r is RIDGE times the mean of W W^T's eigenvalues: a row that is exact in directions which W hardly has would be so
    long that W's next steps threw its code out of the tokens.
    """
    kernel, bias = transform
    gram = jnp.dot(kernel, kernel.T, precision=HIGHEST)
    mean = jnp.maximum(jnp.trace(gram) / len(gram), 1e-30)  # of a W that is 0, rows are 0
    # From few columns, not from all tokens: (basis_dim, d).
    back = _solve(gram / mean + RIDGE * jnp.eye(len(gram), dtype=jnp.float32), kernel / mean)
    gap = tokens if bias is None else tokens - bias[None]
    return jnp.dot(gap, back.T, precision=HIGHEST)


def _solve(matrix, right):
    """A^-1 R of a symmetric A, (n, n), with eigenvalues from RIDGE to n + RIDGE, and R (n, d): by Newton's iteration
    X (2 - A X) for the inverse (Schulz, 1933) and one refinement, which leaves no more than a factorisation's rounding.

    Products alone. LAPACK's factors would need fewer, but its threads go on spinning for a while, and what comes next
    in a training step has to share the cores with them.
    """
    n = len(matrix)
    eye = jnp.eye(n, dtype=jnp.float32)
    rounds = math.ceil(math.log2(math.log(1 / INVERSE_ERROR) * (n + 1) / RIDGE))  # each squares the error

    def improve(_, inverse):
        return jnp.dot(inverse, 2 * eye - jnp.dot(matrix, inverse, precision=HIGHEST), precision=HIGHEST)

    inverse = jax.lax.fori_loop(0, rounds, improve, eye / jnp.linalg.norm(matrix))
    solution = jnp.dot(inverse, right, precision=HIGHEST)
    gap = right - jnp.dot(matrix, solution, precision=HIGHEST)
    return solution + jnp.dot(inverse, gap, precision=HIGHEST)


def draw_from_seed(seed: int, shape, init: str):
    """As `draw`, from integers and a table: a formula in floats would round otherwise on a GPU than on a CPU.

    So the array need not be stored: its seed, shape and init say it all. The table holds LEVELS quantiles of the
    distribution, the middles of equal shares.
    """
    with jax.threefry_partitionable(True):  # a flag of jax that changes the numbers
        levels = jax.random.bits(jax.random.key(seed, impl="threefry2x32"), shape, jnp.uint16)
    table = jnp.asarray(_quantiles(init) * shape[1] ** -0.5, jnp.float32)
    return table[levels.astype(jnp.int32)]


def check_features(path: str, shape) -> None:
    """Raises FileNotFoundError or ValueError unless the file holds finite floats (K, d), as `features` needs."""
    rows = _open_features(path)
    if rows.shape != tuple(shape) or not np.issubdtype(rows.dtype, np.floating):
        raise ValueError(
            f"{path} holds {rows.dtype} {rows.shape} but must hold floats {tuple(shape)}, a row a code: change"
            " quantizer.codebook_size or quantizer.basis_dim, or give another file."
        )
    if rows.size and np.all(rows == rows[:1]):
        raise ValueError(f"{path} holds {len(rows)} equal rows but codes must differ: give other features.")
    bad = int(np.sum(~np.isfinite(rows).all(axis=1)))
    if bad:
        raise ValueError(f"{path} has {bad} rows that are not finite, codes that could never be chosen: replace them.")


def features(path: str, shape):
    """Rows of a .npy file, centred and scaled to mean square length 1, as the random rows are: (K, d) float32.

    The file is read, and checked as by `check_features`, when the array is computed: tracing for shapes alone needs
    none.
    """
    if not isinstance(jnp.zeros(()), jax.core.Tracer):  # at once, for a callback's errors are pages long
        check_features(path, shape)

    def read() -> np.ndarray:
        check_features(path, shape)
        rows = np.asarray(_open_features(path), np.float32)
        rows = rows - rows.mean(axis=0)
        return (rows / np.sqrt(np.mean(np.sum(rows**2, axis=1)))).astype(np.float32)

    return jax.pure_callback(read, jax.ShapeDtypeStruct(tuple(shape), jnp.float32))


def _open_features(path: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: give a .npy file of features, a row a code.") from None
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is no .npy file of numbers ({error}): give features, a row a code.") from error


@functools.cache
def _quantiles(init: str) -> np.ndarray:
    shares = (np.arange(LEVELS) + 0.5) / LEVELS
    if init == "uniform":
        return (2 * shares - 1) * 3**0.5
    return np.array([statistics.NormalDist().inv_cdf(share) for share in shares])
