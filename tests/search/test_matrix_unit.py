"""The search on matrix units, its kernels interpreted: the very answers of the search in XLA, and of float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coarse import interpreted, needs_gpu_interpreter

from simvq_jax.search import blockwise, hopper, matrix_unit, tpu
from simvq_jax.search.limbs import ONE_LIMB, TWO_LIMBS, split

N, K = 29, 4099  # no multiples of anything; the codes are two spans of the TPU kernel, five blocks of the Hopper one
BAD_TOKENS, BAD_CODES = [3, 11, 12, N - 1], [0, 5, 64, 333, K - 1]

with_kernels = pytest.mark.parametrize(
    "kernel",
    [pytest.param(tpu, id="tpu"), pytest.param(hopper, id="hopper", marks=needs_gpu_interpreter)],
)
with_problems = pytest.mark.parametrize(
    ("d", "dtype", "transformed"),
    [
        (8, jnp.float32, False),
        (8, jnp.float32, True),
        (8, jnp.bfloat16, False),
        (8, jnp.bfloat16, True),
        (64, jnp.float32, True),
        (130, jnp.bfloat16, True),
    ],
)


@pytest.fixture(autouse=True, scope="module")
def few_tokens_at_once():
    """Scores the tokens again in two batches; in one of the usual size most places would be empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix_unit, "RETRY", 16)
        yield


@functools.cache
def search_with(kernel):
    group_maxima, groups = interpreted(kernel, K)
    platform = "gpu" if kernel is hopper else "cpu"  # a GPU scores some tokens again in any case
    search = functools.partial(matrix_unit.search, group_maxima=group_maxima, groups=groups, platform=platform)
    return jax.jit(search)


@jax.jit
def search_in_xla(*problem):
    sizes = blockwise.choose_sizes(*problem[1].shape, "cpu")
    return blockwise.search(*problem, sizes=sizes, platform="cpu")


def random_problem(d, dtype):
    """Normal tokens (N, d), codes (K, d), W: (d, d), b: (d,)."""
    rng = np.random.default_rng(d)
    tokens, codebook, weight, bias = (rng.normal(size=(*rows, d)).astype(np.float32) for rows in ((N,), (K,), (d,), ()))
    return tokens, jnp.asarray(codebook * d**-0.5, dtype), weight / 2, bias


def with_bad_tokens(z):
    """The last of them is finite, but its squared length is not."""
    z = z.copy()
    z[BAD_TOKENS, [2, 0, 1, 3]] = np.nan, np.inf, -np.inf, 1e20
    return z


def with_bad_codes(c):
    """The last of them is finite, but its squared norm is not."""
    bad = jnp.array([jnp.nan, jnp.inf, -jnp.inf, jnp.nan, 1e30], c.dtype)
    return c.at[jnp.array(BAD_CODES), jnp.arange(5)].set(bad)


def rank_one(weight):
    return np.outer(np.arange(1, len(weight) + 1), np.ones(len(weight))).astype(np.float32) / len(weight)


def ill_conditioned(weight):
    left, _, right = np.linalg.svd(weight)
    return ((left * np.logspace(0, -6, len(weight))) @ right).astype(np.float32)


def scaled(scale):
    return lambda z, c, w, b: (z * np.float32(scale), (c * scale).astype(c.dtype), w, b * np.float32(scale))


# What makes (tokens, codebook, weight, bias) hard.
HARD = {
    "every code ten times": lambda z, c, w, b: (z, jnp.resize(c[: K // 10], c.shape), w, b),
    "all codes equal": lambda z, c, w, b: (z, jnp.broadcast_to(c[:1], c.shape), w, b),
    "codes close together": lambda z, c, w, b: (z, (c * 1e-2 + 1).astype(c.dtype), w, b),
    "scale 1e-15": scaled(1e-15),
    "scale 1e15": scaled(1e15),
    "tokens that are not finite": lambda z, c, w, b: (with_bad_tokens(z), c, w, b),
    "codes that are not finite": lambda z, c, w, b: (z, with_bad_codes(c), w, b),
}
HARD_TRANSFORMS = {
    "W of rank one": lambda z, c, w, b: (z, c, rank_one(w), b),
    "ill-conditioned W": lambda z, c, w, b: (z, c, ill_conditioned(w), b),
    "a shared offset, taken off by the bias": lambda z, c, w, b: (z + 1000, c, w, b + 1000),
}


def float64_distances(tokens, codebook, weight=None, bias=None, allowed=True):
    """Squared distances (N, K), infinite where a code must not win, and what float32 cannot tell of them, (N,)."""
    v, q = np.asarray(tokens, np.float64), np.asarray(codebook, np.float64)
    if weight is not None:
        v, q = v - np.asarray(bias, np.float64), q @ np.asarray(weight, np.float64)
    square = (q**2).sum(1)
    with np.errstate(invalid="ignore"):
        distances = (v**2).sum(1)[:, None] - 2 * v @ q.T + square
        may_win = (square < np.finfo(np.float32).max) & allowed
    distances = np.where(may_win, np.maximum(distances, 0), np.inf)
    return distances, 2e-6 * ((v**2).sum(1) + distances.min(1))


def assert_exact(found, *problem):
    """No code is nearer than the found one by more than float32 can tell, and no equal one comes before it."""
    indices, sq_distance, codebook = np.asarray(found.indices), np.asarray(found.sq_distance), np.asarray(problem[1])
    good = (np.abs(problem[0]) < 1e19).all(1)
    np.testing.assert_array_equal(indices[~good], 0)
    np.testing.assert_array_equal(sq_distance[~good], np.nan)
    distances, rounding = float64_distances(problem[0][good], *problem[1:])
    chosen = np.take_along_axis(distances, indices[good, None], 1)[:, 0]
    assert (chosen - distances.min(1) <= rounding).all()
    np.testing.assert_allclose(sq_distance[good], chosen, rtol=2e-4, atol=5 * rounding.max())
    first_equal = (codebook == codebook[indices[good], None]).all(2).argmax(1)
    np.testing.assert_array_equal(indices[good], first_equal)


@with_kernels
@with_problems
def test_hard_problems(kernel, d, dtype, transformed):
    for name, harden in (HARD | (HARD_TRANSFORMS if transformed else {})).items():
        problem = harden(*random_problem(d, dtype))[: 4 if transformed else 2]
        found = search_with(kernel)(*problem)
        expected = search_in_xla(*problem)
        np.testing.assert_array_equal(found.indices, expected.indices, err_msg=name)
        assert_exact(found, *problem)


@with_kernels
@with_problems
def test_normal_data_needs_no_scan_of_every_code(kernel, d, dtype, transformed):
    problem = random_problem(d, dtype)[: 4 if transformed else 2]
    found = search_with(kernel)(*problem)
    assert found.scanned == 0
    assert_exact(found, *problem)
    all_equal = HARD["all codes equal"](*random_problem(d, dtype))[: 4 if transformed else 2]
    assert search_with(kernel)(*all_equal).scanned == N


@with_kernels
def test_only_allowed_codes_win(kernel):
    """Of some groups none is allowed."""
    problem = random_problem(8, jnp.float32)
    allowed = (np.random.default_rng(0).random(K) < 0.1) & (np.arange(K) % kernel.LANES > 9)
    assert_exact(search_with(kernel)(*problem, allowed), *problem, allowed)
    none = search_with(kernel)(*problem, np.zeros(K, bool))
    np.testing.assert_array_equal(none.indices, 0)
    assert np.isposinf(none.sq_distance).all()


@with_kernels
def test_codes_of_which_limbs_leave_over_the_most(kernel):
    """Scores from limbs put the nearest code behind the other by all the error that limbs can make."""
    half_ulp, rest = 2.0**-8, 2.0**-17 + 2.0**-22  # of the first limb of numbers from 1 on; beyond the second one
    token = np.array([[1 + half_ulp - 2.0**-16, 0]], np.float32)
    codebook = np.array([[1 + half_ulp - rest, 0], [1 + half_ulp + rest, 1.5e-3]], np.float32)
    found = search_with(kernel)(token, codebook)
    assert_exact(found, token, codebook)
    np.testing.assert_array_equal(found.indices, 0)


@pytest.mark.parametrize("exponent", [-100, -50, 0, 50, 127])
def test_limbs_add_up_to_the_number(exponent):
    normal = np.random.default_rng(0).uniform(0.5, 1.99, 1000)
    worst = 1 + 2.0**-8 * np.array([1, 1 - 2.0**-14, 1 + 2.0**-14, 1 - 2.0**-9, 1 + 2.0**-9])
    x = (np.concatenate([normal, -normal, worst, [0]]) * 2.0**exponent).astype(np.float32)
    for count, lost in ((1, ONE_LIMB), (2, TWO_LIMBS), (3, 0)):
        limbs = jax.jit(split, static_argnums=1)(x, count)
        assert len(limbs) == count and all(limb.dtype == jnp.bfloat16 for limb in limbs)
        rest = x - sum(np.asarray(limb, np.float64) for limb in limbs)
        assert (abs(rest) <= lost * abs(x)).all(), count


def test_limbs_of_the_smallest_numbers():
    """What would be left over below the smallest normal number may be flushed to zero."""
    x = (np.random.default_rng(0).uniform(1, 2, 1000) * 2.0**-126).astype(np.float32)
    limbs = split(x, 3)
    np.testing.assert_allclose(sum(np.asarray(limb, np.float64) for limb in limbs), x, rtol=0, atol=2.0**-126)
