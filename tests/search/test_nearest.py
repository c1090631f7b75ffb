"""Exactness against float64 brute force, hard inputs, and every way to the answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import brute_force, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from simvq_jax.search import blockwise, nearest, nearest_allowed_code, nearest_code, rerank
from simvq_jax.search.blockwise import Sizes


def assert_exact(z, codebook, transform=None, slack=2e-6):
    """The found code is the nearest, or nearer than rounding can tell."""
    indices, sq_distance = nearest_code(z, codebook, transform)
    distances = brute_force(np.asarray(z), codebook, transform)
    found = distances[np.arange(len(z)), indices]
    size = (np.asarray(z, np.float64) ** 2).sum(-1) + distances.min(1)
    regret = found - distances.min(1)
    assert (regret <= slack * size + 1e-300).all(), regret.max()
    clear = np.sort(distances, 1)[:, 1] - distances.min(1) > slack * size if distances.shape[1] > 1 else None
    if clear is not None:
        np.testing.assert_array_equal(np.asarray(indices)[clear], distances.argmin(1)[clear])
    np.testing.assert_allclose(sq_distance, found, rtol=2e-4, atol=1e-5 * size.max())


WAYS = {"transformed on the way": (0, False), "transformed first": (4 << 20, False), "portable": (0, True)}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Whether small codebooks are transformed before the search, as they are, or not, as large ones; and the search of
    exported programs."""
    fold_bytes, portable = WAYS[request.param]
    monkeypatch.setattr(nearest, "FOLD_BYTES", fold_bytes)
    monkeypatch.setattr(nearest, "is_symbolic_dim", lambda size: portable)


@pytest.mark.parametrize(("k", "d"), [(1, 1), (63, 8), (64, 130), (65, 64), (1000, 512), (9000, 8), (40_000, 16)])
def test_equals_brute_force(k, d, way):
    z, codebook, transform = random_problem(k + d, 37, k, d)
    assert_exact(z, codebook)
    assert_exact(z, codebook, transform)


@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 40), k=st.integers(1, 300), d=st.integers(1, 12), d_basis=st.integers(1, 12))
def test_any_shape(n, k, d, d_basis):
    z, codebook, transform = random_problem(n * k, n, k, d, d_basis)
    assert_exact(z, codebook, transform, slack=1e-5)


def test_any_leading_shape_and_no_bias():
    z, codebook, (weight, _) = random_problem(0, 24, 50, 6)
    flat, _ = nearest_code(z, codebook, (weight, None))
    shaped, sq_distance = nearest_code(z.reshape(2, 3, 4, 6), codebook, (weight, None))
    np.testing.assert_array_equal(shaped.reshape(-1), flat)
    assert shaped.shape == sq_distance.shape == (2, 3, 4) and shaped.dtype == jnp.int32
    single, _ = nearest_code(z[0], codebook, (weight, None))
    assert single.shape == () and single == flat[0]


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_scales(scale, way):
    z, codebook, _ = random_problem(3, 50, 500, 16)
    indices, _ = nearest_code(z * np.float32(scale), codebook * np.float32(scale))
    np.testing.assert_array_equal(indices, brute_force(z, codebook).argmin(1))


@pytest.mark.parametrize("scale", [1e-10, 1e-5, 1, 1e6, 1e15])
def test_scales_of_tokens_at_codes_that_nearly_tie(scale):
    rng = np.random.default_rng(2)
    half = rng.normal(size=(100, 16))
    codebook = (scale * np.concatenate([half, half + 1e-5 * rng.normal(size=half.shape)])).astype(np.float32)
    z = np.concatenate([codebook, codebook + np.float32(1e-6 * scale) * rng.normal(size=codebook.shape)])
    indices, sq_distance = nearest_code(z.astype(np.float32), codebook)
    distances = brute_force(z.astype(np.float32), codebook)
    np.testing.assert_array_equal(indices, distances.argmin(1))
    np.testing.assert_allclose(sq_distance, distances.min(1), rtol=1e-6)


def test_a_shared_offset_is_taken_off_by_the_bias(way):
    z, codebook, (weight, bias) = random_problem(4, 50, 500, 16)
    assert_exact(z + 1000, codebook, (weight, bias + 1000), slack=1e-9)


def test_codes_close_together_far_from_zero(way):
    """As of a codebook that has nearly collapsed: differences a thousandth of the codes' length decide."""
    rng = np.random.default_rng(8)
    middle = rng.normal(size=16) * 3
    codebook = (middle + 0.01 * rng.normal(size=(500, 16))).astype(np.float32)
    z = (middle + 0.01 * rng.normal(size=(2000, 16))).astype(np.float32)
    indices, _ = nearest_code(z, codebook)
    distances = brute_force(z, codebook)
    assert (distances[np.arange(len(z)), indices] <= distances.min(1) * (1 + 1e-5)).all()


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize(("offset", "spread"), [(3, 1e-3), (3, 1e-4), (1000, 1.0), (1000, 0.1)])
def test_codes_and_tokens_that_share_an_offset(way, offset, spread, transformed):
    """Far more codes are as close as float32 tells apart there than are compared
    directly. A code that is not finite and one that is elsewhere change nothing."""
    if transformed and nearest.FOLD_BYTES == 0 and not nearest.is_symbolic_dim(None):
        pytest.skip("W is applied on the way, and nothing taken off")
    rng = np.random.default_rng(9)
    middle = offset * rng.normal(size=64)
    codebook = (middle + spread * rng.normal(size=(1024, 64))).astype(np.float32)
    codebook[0], codebook[65] = np.nan, 0
    z = (middle + spread * rng.normal(size=(300, 64))).astype(np.float32)
    indices, sq_distance = nearest_code(z, codebook, (np.eye(64, dtype=np.float32), None) if transformed else None)
    distances = brute_force(z, np.where(np.isnan(codebook), 1e9, codebook))
    chosen = distances[np.arange(len(z)), indices]
    assert (chosen <= distances.min(1) * (1 + 1e-4)).all()
    np.testing.assert_allclose(sq_distance, chosen, rtol=1e-2)


def test_the_lowest_index_wins_ties(way):
    z, codebook, transform = random_problem(5, 64, 40, 8)
    copies = np.tile(codebook, (25, 1))  # 1,000 codes, each 25 times, far more groups than are re-ranked
    indices, _ = nearest_code(z, copies, transform)
    np.testing.assert_array_equal(indices, brute_force(z, codebook, transform).argmin(1))


def test_all_codes_equal(way):
    indices, _ = nearest_code(np.ones((20, 4), np.float32), np.full((700, 4), 0.3, np.float32))
    np.testing.assert_array_equal(indices, 0)


def test_a_transform_of_rank_one(way):
    z, codebook, _ = random_problem(6, 64, 2000, 8)
    weight = np.outer(np.arange(1, 9), np.ones(8)).astype(np.float32) / 8
    assert_exact(z, codebook, (weight, np.zeros(8, np.float32)))


def test_a_transform_that_cancels_nearly_all_of_the_codes(way):
    """Scores in the basis are differences of large numbers; the tokens lie where the codes end up."""
    rng, d = np.random.default_rng(1), 16
    direction = np.arange(1, d + 1, dtype=np.float32)
    codebook = rng.normal(size=(5000, d)).astype(np.float32)
    codebook -= np.outer(codebook @ direction / (direction @ direction), direction)
    codebook = (codebook + 1e-3 * rng.normal(size=(5000, 1))).astype(np.float32)
    z = (0.3 * rng.normal(size=(50, 1)) + 0.01 * rng.normal(size=(50, d))).astype(np.float32)
    assert_exact(z, codebook, (np.outer(direction, np.ones(d, np.float32)), np.zeros(d, np.float32)))


def test_an_ill_conditioned_transform(way):
    z, codebook, _ = random_problem(16, 64, 2000, 8)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    weight = (rotation * np.logspace(0, -6, 8)).astype(np.float32)
    assert_exact(z, codebook, (weight, np.zeros(8, np.float32)))
    near = (codebook[:64] @ weight + 1e-7).astype(np.float32)
    assert_exact(near, codebook, (weight, np.zeros(8, np.float32)))


def test_the_order_of_the_codes_does_not_change_the_nearest(way):
    z, codebook, transform = random_problem(17, 60, 3000, 16)
    expected, sq_distance = nearest_code(z, codebook, transform)
    order = np.random.default_rng(0).permutation(3000)
    indices, permuted = nearest_code(z, codebook[order], transform)
    np.testing.assert_array_equal(order[indices], expected)
    np.testing.assert_array_equal(permuted, sq_distance)


def test_tokens_that_are_not_finite_get_index_zero_and_disturb_no_other(way):
    z, codebook, transform = random_problem(7, 30, 3000, 8)
    expected, _ = nearest_code(z, codebook, transform)
    broken = z.copy()
    broken[3, 2], broken[11, 0], broken[12, 1] = np.nan, np.inf, -np.inf
    broken[13] = 1e20  # finite, but its squared length is not
    indices, sq_distance = nearest_code(broken, codebook, transform)
    bad = [3, 11, 12, 13]
    np.testing.assert_array_equal(np.asarray(indices)[bad], 0)
    assert np.isnan(np.asarray(sq_distance)[bad]).all()
    np.testing.assert_array_equal(np.delete(indices, bad), np.delete(expected, bad))


@pytest.mark.parametrize("groups", [1, 2, 3, 1000, 2**15, 2**15 + 1, 70_000])
def test_candidates_are_counted(groups):
    """The count may be too large where there are many, but it is 1 for one candidate alone."""
    marked = np.zeros((6, groups), bool)
    marked[1, -1] = marked[2, 0] = marked[3] = marked[4, : -(-groups // 2)] = marked[5, groups // 2] = True
    count, place = rerank._count_and_place(jnp.asarray(marked))
    alone = marked.sum(1) == 1
    np.testing.assert_array_equal(np.asarray(count) == 1, alone)
    np.testing.assert_array_equal(np.asarray(place)[alone], marked.argmax(1)[alone])
    exact = marked.sum(1) <= max(2**31 // 4 // groups**2, 1)
    np.testing.assert_array_equal(np.asarray(count)[exact], marked.sum(1)[exact])
    assert (count >= marked.sum(1)).all() and (np.asarray(place) < groups).all()


@pytest.mark.parametrize(
    ("few", "typical", "platform"), [(1, 1, "cpu"), (2, 2, "cpu"), (8, 4, "cpu"), (2, 2, "gpu"), (8, 8, "gpu")]
)
def test_the_way_to_the_answer_does_not_change_it(monkeypatch, few, typical, platform):
    """With a bound that admits every group, all tokens are scored against a few groups more, or every code; a GPU
    scores the first two of a tile without asking."""
    z, codebook, transform = random_problem(8, 50, 600, 8)
    sizes = Sizes(tile=32, block=320, group=80, retry=4)  # 8 groups
    search = functools.partial(blockwise.search, z, codebook, *transform, sizes=sizes, platform=platform)
    expected = search()
    assert expected.scanned == 0
    bounds = rerank._bounds
    monkeypatch.setattr(rerank, "_bounds", lambda *a, **k: (bounds(*a, **k)[0], jnp.full((len(a[0]), 1), -jnp.inf)))
    monkeypatch.setattr(rerank, "FEW_GROUPS", few)
    monkeypatch.setattr(rerank, "TYPICAL_GROUPS", typical)
    got = search()
    assert got.scanned == (0 if few == 8 else 50)
    for a, b in zip(got[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "sizes", [(1, 8, 8, 1), (8, 64, 1, 3), (32, 256, 64, 16), (999, 512, 16, 512), (1024, 3000, 8, 16)], ids=str
)
def test_sizes_do_not_change_the_answer(sizes):
    z, codebook, transform = random_problem(9, 300, 3000, 16)
    expected = nearest_code(z, codebook, transform)
    got = nearest_code(z, codebook, transform, backend="blockwise", sizes=Sizes(*sizes))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_groups_do_not_change_the_answer_between_codes_of_unlike_lengths():
    """Of three codes that nearly tie the second by score is short, so its margin is small; the third's is not."""
    rng = np.random.default_rng(0)
    n, d = 400, 8
    v = rng.normal(size=(n, 1, d))
    away = rng.normal(size=(n, 4, d))
    long = v + np.linalg.norm(v, axis=-1, keepdims=True) * away / np.linalg.norm(away, axis=-1, keepdims=True)
    short = rng.normal(size=(n, 12, d)) * 10.0 ** rng.uniform(-8.5, -6.5, (n, 12, 1))
    codes = np.concatenate([long, short], axis=1)
    order = rng.permuted(np.tile(np.arange(16), (n, 1)), axis=1)
    codes = np.take_along_axis(codes, order[:, :, None], axis=1).astype(np.float32)
    z = v.astype(np.float32)
    by_one, by_all = (
        jax.vmap(functools.partial(nearest_code, backend="blockwise", sizes=Sizes(8, 16, group, 8)))(z, codes)[0]
        for group in (1, 16)
    )
    np.testing.assert_array_equal(by_one, by_all)


def test_long_tokens_beside_a_code_at_zero(monkeypatch):
    """The bound of what W cancels must not overflow where nothing else does."""
    monkeypatch.setattr(nearest, "FOLD_BYTES", 0)
    rng = np.random.default_rng(0)
    d, scale = 64, 3e18
    weight = np.linalg.qr(rng.normal(size=(d, d)))[0].astype(np.float32)
    codebook = (scale / 8 * rng.normal(size=(2048, d))).astype(np.float32)
    codebook[7] = 0
    z = rng.normal(size=(64, d))
    z = (scale * z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    indices, _ = nearest_code(z, codebook, (weight, None))
    np.testing.assert_array_equal(indices, brute_force(z, codebook, (weight, np.zeros(d))).argmin(1))


def test_hard_codebooks_whatever_the_size_of_groups():
    """Also of groups of one code each, which are not scored again."""
    z, codebook, _ = random_problem(19, 60, 400, 8)
    z[7, 0] = np.nan
    bad = codebook.copy()
    bad[[0, 5, 399], 0] = np.nan, np.inf, 1e30
    hard = [bad, np.tile(codebook[:40], (10, 1)), np.full_like(codebook, 0.3), codebook / 100 + 1, bad * np.nan]
    search = jax.jit(functools.partial(nearest_code, backend="blockwise"), static_argnames="sizes")
    for codes in hard:
        expected = search(z, codes, sizes=Sizes(32, 128, 16, 8))
        for sizes in (Sizes(64, 400, 1, 8), Sizes(16, 100, 1, 4)):
            for a, b in zip(search(z, codes, sizes=sizes), expected, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("k", "d_basis", "d"), [(256, 64, 64), (300, 5, 40), (300, 40, 5)])
def test_a_small_codebook_is_transformed_before_the_search(k, d_basis, d):
    z, codebook, transform = random_problem(20, 50, k, d, d_basis)
    folded = jax.jit(nearest_code).lower(z, codebook, transform).as_text()
    assert f"tensor<50x{d_basis}xf32>" not in folded or d_basis == d, "u was formed"
    assert_exact(z, codebook, transform)


def test_only_allowed_codes_win(way):
    z, codebook, transform = random_problem(10, 40, 500, 8)
    allowed = np.random.default_rng(0).random(500) < 0.1
    indices, _ = nearest_allowed_code(z, codebook, allowed, transform)
    distances = np.where(allowed, brute_force(z, codebook, transform), np.inf)
    np.testing.assert_array_equal(indices, distances.argmin(1))
    none, _ = nearest_allowed_code(z, codebook, np.zeros(500, bool), transform)
    np.testing.assert_array_equal(none, 0)
    with pytest.raises(ValueError, match=r"allowed has shape \(7,\) but must be \(500,\)"):
        nearest_allowed_code(z, codebook, allowed[:7], transform)


def test_bfloat16_tokens_are_compared_in_float32():
    z, codebook, transform = random_problem(12, 40, 500, 8)
    z = jnp.asarray(z, jnp.bfloat16)
    indices, _ = nearest_code(z, codebook, transform)
    expected = brute_force(np.asarray(z, np.float32), codebook, transform).argmin(1)
    np.testing.assert_array_equal(indices, expected)


def test_codes_that_are_not_finite_never_win(way):
    z, codebook, transform = random_problem(15, 60, 700, 8)
    broken = codebook.copy()
    bad = [0, 5, 64, 333, 699]
    broken[bad, [0, 1, 2, 3, 4]] = [np.nan, np.inf, -np.inf, np.nan, 1e30]  # the last: its squared norm overflows
    indices, _ = nearest_code(z, broken, transform)
    distances = brute_force(z, codebook, transform)
    distances[:, bad] = np.inf
    np.testing.assert_array_equal(indices, distances.argmin(1))
    indices, sq_distance = nearest_code(z, np.full_like(codebook, np.nan))
    np.testing.assert_array_equal(indices, 0)
    assert np.isposinf(sq_distance).all()


@pytest.mark.parametrize("n", [1000, 1537, 1900, 4096])
def test_the_places_of_the_largest_are_those_of_all(n):
    values = np.full((3, n), -np.inf, np.float32)
    values[0] = np.random.default_rng(0).standard_normal(n)
    values[1, -1] = values[2, n // 2] = 1.0
    places = np.asarray(rerank._places_of_largest(jnp.asarray(values), 12))
    assert places.min() >= 0 and places.max() < n
    assert set(places[0]) == set(np.argsort(values[0])[-12:])
    assert places[1, 0] == n - 1 and places[2, 0] == n // 2
