"""Where the basis comes from: its statistics, its type, and a seed that says it all."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_simvq import apply, make, tokens, trained

from simvq_jax.quantize import ProductQuantizer, ResidualQuantizer, SimVQ
from simvq_jax.quantize.basis import LEVELS, check_features, draw, draw_from_seed, of_tokens
from simvq_jax.search import nearest_code

SHAPE = (4096, 64)


@pytest.mark.parametrize("init", ["normal", "uniform"])
@pytest.mark.parametrize("source", [lambda *a: draw(jax.random.key(3), *a), lambda *a: draw_from_seed(3, *a)])
def test_a_basis_has_mean_0_and_variance_one_over_its_dimension(init, source):
    scaled = np.asarray(source(SHAPE, init), np.float64) * SHAPE[1] ** 0.5
    assert abs(scaled.mean()) < 0.01 and abs(scaled.var() - 1) < 0.01
    fourth = {"normal": 3.0, "uniform": 1.8}[init]
    assert abs((scaled**4).mean() - fourth) < 0.06
    assert np.abs(scaled).max() <= {"normal": 6.0, "uniform": 3**0.5 + 1e-6}[init]
    assert abs(np.corrcoef(scaled[:, 0], scaled[:, 1])[0, 1]) < 0.06


@pytest.mark.parametrize(("init", "expected"), [("normal", "29392ad2a671a9a6"), ("uniform", "988cea3fb454b822")])
def test_a_seed_gives_these_very_numbers(init, expected):
    """Stored runs depend on them: whoever changes them makes those runs unreadable."""
    rows = np.asarray(draw_from_seed(7, (96, 8), init))
    assert hashlib.sha256(rows.tobytes()).hexdigest()[:16] == expected
    with jax.threefry_partitionable(False):  # jax's other way to draw
        np.testing.assert_array_equal(draw_from_seed(7, (96, 8), init), rows)


def test_a_seeded_basis_has_many_different_values():
    values = np.unique(np.asarray(draw_from_seed(0, SHAPE, "normal")))
    assert 0.9 * LEVELS < len(values) <= LEVELS


def test_the_seed_alone_decides():
    module, variables = make(basis_seed=5)
    for key in (0, 1):
        again = module.init(jax.random.key(key), method="codebook")
        np.testing.assert_array_equal(again["codebook"]["basis"], variables["codebook"]["basis"])
    np.testing.assert_array_equal(module.seeded_basis(), variables["codebook"]["basis"])
    other, _ = make(basis_seed=6)
    assert not np.array_equal(other.seeded_basis(), module.seeded_basis())
    _, unseeded = make()
    assert not np.array_equal(unseeded["codebook"]["basis"], variables["codebook"]["basis"])


def unit(rows):
    """Centred, and of mean square length 1."""
    centred = np.asarray(rows, np.float64) - np.mean(rows, axis=0)
    return centred / np.sqrt(np.mean(np.sum(centred**2, axis=1)))


def sorted_rows(rows):
    return rows[np.lexsort(np.round(rows, 4).T)]


def test_a_basis_of_tokens_is_those_that_count_each_once():
    z = 3 + 2 * tokens(40)
    counts = np.arange(40) % 2 == 0
    rows = np.asarray(of_tokens(jax.random.key(1), z, jnp.asarray(counts, jnp.float32), 20))
    np.testing.assert_allclose(sorted_rows(rows), sorted_rows(unit(z[counts])), atol=1e-5)


def test_where_tokens_are_fewer_than_rows_these_differ_and_keep_the_shape_of_the_cloud():
    z = tokens(50) * np.array([[4.0, 2.0, 1.0, 0.5, 0.25, 0.1]])
    rows = np.asarray(of_tokens(jax.random.key(1), z, jnp.ones(50), 2000))
    assert len(np.unique(rows, axis=0)) == 2000
    spread, expected = (np.std(x, axis=0) for x in (rows, unit(z)))
    np.testing.assert_allclose(spread / expected, 1.0, atol=0.1)


@pytest.mark.parametrize("stages", [ResidualQuantizer, ProductQuantizer])
def test_every_stage_has_a_basis_of_what_reaches_it(stages):
    dim = 6 if stages is ResidualQuantizer else 3
    module = stages([SimVQ(20, dim, basis_init="tokens", basis_dtype="bfloat16", hidden=8) for _ in range(2)])
    z, mask = tokens(5, 8), jnp.arange(8) < 6
    z = jnp.where(mask[None, :, None], z, jnp.nan)
    variables = jax.jit(module.init)(jax.random.key(0), z, jnp.broadcast_to(mask[None], (5, 8)))
    first, second = (np.asarray(basis, np.float32) for basis in jax.tree.leaves(variables["codebook"]))
    assert np.isfinite(first).all() and np.isfinite(second).all()
    assert len(np.unique(first, axis=0)) == 20 and not np.array_equal(first, second)


@pytest.mark.parametrize("z", [jnp.zeros((0, 6)), jnp.full((5, 6), 1e3)])
def test_without_tokens_that_differ_the_basis_is_random(z):
    rows = np.asarray(SimVQ(500, 6, basis_init="tokens").init(jax.random.key(1), z)["codebook"]["basis"])
    assert len(np.unique(rows, axis=0)) == 500
    assert abs(np.mean(np.sum(rows**2, axis=1)) - 1) < 0.1


def test_init_takes_the_basis_from_its_tokens_and_the_codes_match_them():
    module = SimVQ(32, 6, basis_init="tokens", start_scale=1.0)
    z = 5 + tokens(4, 8)
    variables = module.init(jax.random.key(0), z)
    np.testing.assert_allclose(
        sorted_rows(np.asarray(variables["codebook"]["basis"])), sorted_rows(unit(z.reshape(-1, 6))), atol=1e-5
    )
    codes = apply(module, variables, method="codebook")
    np.testing.assert_allclose(np.mean(codes, axis=0), np.mean(z, axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(np.var(codes, axis=0).sum(), np.var(z, axis=(0, 1)).sum(), rtol=1e-3)
    assert SimVQ(9000, 6, basis_init="tokens").start_tokens == 9000


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"trainable_basis": True}, "basis_init is 'tokens' but trainable_basis True"),
        ({"basis_seed": 3}, "trainable_basis False, basis_seed 3, basis_file None"),
        ({"basis_file": "f.npy"}, "basis_file 'f.npy', basis_dim None"),
        ({"basis_dim": 7}, "as wide as those, so leave these at their defaults"),
    ],
)
def test_a_basis_of_tokens_refuses_what_would_make_it_another(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(SimVQ(8, 6, basis_init="tokens", **fields).init, jax.random.key(0), jnp.zeros((2, 6)))


@pytest.mark.parametrize("seed", [None, 5])
def test_a_bfloat16_basis_is_searched_and_looked_up_as_the_numbers_it_holds(seed):
    module, variables = make(basis_dtype="bfloat16", basis_seed=seed)
    basis = variables["codebook"]["basis"]
    assert basis.dtype == jnp.bfloat16 and variables["params"]["transform"]["kernel"].dtype == jnp.float32
    z = tokens(3, 40)
    out, _ = trained(module, variables, z)
    in_float32 = {**variables, "codebook": {"basis": basis.astype(jnp.float32)}}
    expected, _ = trained(module, in_float32, z)
    np.testing.assert_array_equal(out.indices, expected.indices)
    np.testing.assert_array_equal(out.z_q, expected.z_q)
    assert out.z_q.dtype == out.loss.dtype == jnp.float32
    codebook = apply(module, variables, method="codebook")
    assert codebook.dtype == jnp.float32
    np.testing.assert_array_equal(nearest_code(z, codebook)[0], out.indices)


# Features from a file


def feature_file(tmp_path, rows):
    path = tmp_path / "features.npy"
    np.save(path, rows)
    return str(path)


def test_features_are_the_basis_centred_and_scaled(tmp_path):
    rows = 5 + np.random.default_rng(0).standard_normal((12, 7))
    module = SimVQ(12, 3, basis_dim=7, basis_file=feature_file(tmp_path, rows))
    variables = jax.jit(module.init)(jax.random.key(0), jnp.ones((2, 3)))
    basis = np.asarray(variables["codebook"]["basis"])
    assert basis.dtype == np.float32 and variables["params"]["transform"]["kernel"].shape == (7, 3)
    np.testing.assert_allclose(basis.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(np.mean(np.sum(basis**2, 1)), 1, rtol=1e-5)
    np.testing.assert_allclose(np.corrcoef(basis.ravel(), (rows - rows.mean(0)).ravel())[0, 1], 1, rtol=1e-6)


def test_shapes_alone_need_no_file():
    module = SimVQ(12, 3, basis_dim=7, basis_file="/nowhere.npy")
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((2, 3)))
    assert shapes["codebook"]["basis"].shape == (12, 7)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (np.ones((12, 6)), r"holds float64 \(12, 6\) but must hold floats \(12, 7\)"),
        (np.ones((12, 7), int), r"holds int64 \(12, 7\) but must hold floats"),
        (np.where(np.arange(12)[:, None] < 3, np.nan, np.ones((12, 7))), "has 3 rows that are not finite"),
    ],
)
def test_unsound_features_get_one_sentence(tmp_path, rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_features(feature_file(tmp_path, rows), (12, 7))


def test_a_file_that_is_missing_or_no_array_gets_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not exist: give a .npy file of features"):
        check_features(str(tmp_path / "none.npy"), (12, 7))
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(ValueError, match=r"is no .npy file of numbers"):
        check_features(str(tmp_path / "text.npy"), (12, 7))


@pytest.mark.parametrize("rows", [None, np.where(np.arange(12)[:, None] < 3, np.nan, np.ones((12, 7)))])
def test_features_are_checked_where_a_quantizer_is_made_by_hand(tmp_path, rows):
    path = str(tmp_path / "none.npy") if rows is None else feature_file(tmp_path, rows)
    with pytest.raises((FileNotFoundError, ValueError), match=r"does not exist: give|has 3 rows that are not finite"):
        SimVQ(12, 3, basis_dim=7, basis_file=path).init(jax.random.key(0), jnp.ones((2, 3)))


def test_features_are_neither_trained_nor_seeded():
    for fields in ({"trainable_basis": True}, {"basis_seed": 3}):
        with pytest.raises(ValueError, match="features are frozen and not drawn"):
            SimVQ(12, 3, basis_file="a.npy", **fields).init(jax.random.key(0), jnp.ones((2, 3)))
