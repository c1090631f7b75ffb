"""SimVQ's codes restart at tokens by other rows of C, and the drawing of codes out of use."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from small_simvq import D, K, apply, make, tokens, trained

from simvq_jax.mesh import CODES, make_mesh
from simvq_jax.quantize import SimVQ, idle
from simvq_jax.quantize.basis import RIDGE, rows_near

AFTER = 100  # tokens


def lost(**fields):
    """A SimVQ of which no token is near the codes 5 to K - 1, which have waited for long, and 40 tokens."""
    module, variables = make(restart_after=AFTER / K, **fields)
    stats = variables["codebook_stats"]
    far = stats["basis"].at[5:].add(100.0)
    stats = {**stats, "basis": far, "waiting": jnp.full(K, AFTER).at[:5].set(0)}
    return module, {**variables, "codebook_stats": stats}, tokens(40)


def after(module, variables, stats):
    return np.asarray(apply(module, {**variables, "codebook_stats": stats}, method="codebook"))


def test_the_basis_is_then_among_what_training_changes():
    _, variables = make(restart_after=AFTER / K)
    assert "codebook" not in variables and variables["codebook_stats"]["basis"].shape == (K, D)
    assert {"basis", "waiting"} <= set(variables["codebook_stats"]) and "basis" in CODES


def test_codes_long_passed_by_start_anew_each_at_a_token_of_its_own():
    """W being a rotation, a row c is (t - b) W^T / (1 + RIDGE), so the code lies that share of the way from b to t."""
    module, variables, z = lost()
    rotation, _ = np.linalg.qr(tokens(D, seed=3))
    bias = tokens(seed=4)
    variables = {**variables, "params": {"transform": {"kernel": jnp.asarray(rotation), "bias": jnp.asarray(bias)}}}
    out, stats = trained(module, variables, z)
    before, codes = after(module, variables, variables["codebook_stats"]), after(module, variables, stats)
    np.testing.assert_array_equal(codes[:5], before[:5])
    gaps = np.abs((bias + (z - bias) / (1 + RIDGE))[None] - codes[5:, None]).max(-1)
    assert np.all(gaps.min(1) < 1e-5) and len(set(gaps.argmin(1).tolist())) == K - 5
    np.testing.assert_array_equal(stats["waiting"][5:], 0)
    assert float(stats["restart_pace"]) == pytest.approx((K - 5) / K * AFTER / 40)  # 40 tokens of the AFTER
    assert np.all(np.asarray(stats["age"])[5:] > 10**9)  # moved, but chosen by no token
    np.testing.assert_array_equal(out.z_q, before[np.asarray(out.indices)])  # of the codes as they were
    again = apply(module, {**variables, "codebook_stats": stats}, z)
    assert len(np.unique(again.indices)) > 10 > 5 >= len(np.unique(out.indices))


def test_not_before_and_never_at_tokens_that_do_not_count():
    module, variables, z = lost()
    variables["codebook_stats"]["waiting"] = jnp.zeros(K, jnp.int32)
    mask = np.arange(40) < 34
    for _ in range(2):  # 68 tokens
        _, stats = trained(module, variables, z, mask)
        np.testing.assert_array_equal(stats["basis"], variables["codebook_stats"]["basis"])
        variables["codebook_stats"]["waiting"] = stats["waiting"]
    _, stats = trained(module, variables, z, mask)
    kernel, bias = (variables["params"]["transform"][name] for name in ("kernel", "bias"))
    gaps = np.abs(rows_near(jnp.asarray(z), (kernel, bias))[None] - stats["basis"][5:][:, None]).max(-1)
    assert np.all(gaps[:, :34].min(1) < 1e-4) and np.all(gaps[:, 34:] > 1e-4)


def test_a_step_moves_so_many_and_no_more_than_there_are_tokens(monkeypatch):
    module, variables, z = lost()

    def moved(count):
        _, stats = trained(module, variables, z[:count])
        return int(np.sum(np.any(stats["basis"] != variables["codebook_stats"]["basis"], axis=1)))

    assert moved(3) == 3
    monkeypatch.setattr(idle, "MOVES", 4)
    assert moved(39) == 4


def test_no_tokens_move_no_code():
    module, variables, z = lost(codebook_loss="region")
    out, stats = trained(module, variables, z[:0])
    assert float(out.loss) == 0
    jax.tree.map(np.testing.assert_array_equal, stats, variables["codebook_stats"])


def test_rows_near_tokens_are_the_ridge_regression():
    rng = np.random.default_rng(0)
    for basis_dim in (3, D, 9):
        kernel, bias = rng.standard_normal((basis_dim, D)), rng.standard_normal(D)
        z = rng.standard_normal((4, D))
        ridge = RIDGE * np.mean(np.linalg.eigvalsh(kernel @ kernel.T))
        stacked = np.concatenate([kernel.T, np.sqrt(ridge) * np.eye(basis_dim)])
        expected = [np.linalg.lstsq(stacked, np.concatenate([t - bias, np.zeros(basis_dim)]))[0] for t in z]
        found = rows_near(jnp.asarray(z, jnp.float32), (jnp.asarray(kernel, jnp.float32), jnp.asarray(bias)))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    without = rows_near(jnp.asarray(z - bias, jnp.float32), (jnp.asarray(kernel, jnp.float32), None))
    np.testing.assert_allclose(without, expected, rtol=1e-3, atol=1e-4)
    assert not np.any(rows_near(jnp.ones((2, D)), (jnp.zeros((3, D)), None)))  # of a W that is 0


def test_rows_near_tokens_do_not_grow_where_w_has_no_direction():
    """Of a W of one direction, a row has that direction alone, to within rounding."""
    z, left, right = np.split(np.random.default_rng(0).standard_normal((8, 128)).astype(np.float32), (6, 7))
    rows = rows_near(jnp.asarray(z), (jnp.asarray(left.T * right), None))
    expected = z @ right.T * left / (np.sum(left**2) * np.sum(right**2) * (1 + RIDGE / 128))
    np.testing.assert_allclose(rows, expected, atol=1e-3 * np.abs(expected).max())


def test_a_step_calls_no_lapack():
    """Its threads spin on after each call and slow what follows."""
    module, variables, z = lost(codebook_loss="region")
    step = jax.jit(trained.__wrapped__, static_argnums=0).lower(module, variables, z)
    assert "lapack" not in step.as_text()


def test_a_bfloat16_basis_stays_one():
    module, variables, z = lost(basis_dtype="bfloat16")
    _, stats = trained(module, variables, z)
    assert stats["basis"].dtype == jnp.bfloat16
    assert np.all(np.any(stats["basis"] != variables["codebook_stats"]["basis"], axis=1)[5:])


def test_devices_move_the_same_codes_as_one_and_exchange_no_codebook():
    """Of K = 4,096 codes over two shards 300, that were passed by and are spread over both."""
    module = SimVQ(4096, D, restart_after=5000 / 4096)
    z = tokens(1024)
    variables = jax.jit(lambda key: module.init(key, method="codebook"))(jax.random.key(0))
    waiting = jnp.zeros(4096, jnp.int32).at[1900:2200].set(5000)
    far = variables["codebook_stats"]["basis"].at[1900:2200].add(100.0)
    variables["codebook_stats"] |= {"waiting": waiting, "basis": far}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(idle, "MOVES", 512)
        _, alone = jax.jit(trained.__wrapped__, static_argnums=0)(module, variables, z)
        mesh = make_mesh(codebook=2)
        rows, batch = (NamedSharding(mesh, PartitionSpec(axes)) for axes in ("codebook", ("data", "fsdp")))
        with jax.set_mesh(mesh):
            split = jax.device_put(variables["codebook_stats"]["basis"], rows)
            shared = {**variables, "codebook_stats": {**variables["codebook_stats"], "basis": split}}
            step = jax.jit(trained.__wrapped__, static_argnums=0)
            compiled = step.lower(module, shared, jax.device_put(z, batch)).compile()
            _, together = compiled(shared, jax.device_put(z, batch))
    changed = np.any(alone["basis"] != far, axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(1900, 2200))
    np.testing.assert_allclose(together["basis"], alone["basis"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(together["waiting"], alone["waiting"])
    assert not re.search(rf"f32\[4096,{D}\]\S* (all-gather|all-reduce)", compiled.as_text())


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"trainable_basis": True},
            "trainable_basis is True, basis_seed None, basis_file None and hidden 0, but",
        ),
        ({"basis_seed": 3}, "trainable_basis is False, basis_seed 3, basis_file None"),
        ({"basis_file": "a.npy"}, "basis_file 'a.npy' and hidden 0, but restart_after is 9"),
        ({"hidden": 8}, "basis_file None and hidden 8, but restart_after is 9, as in the recipe: a row that"),
        ({"restart_after": 65_536}, "restart_after is 65536 but must be at least 0 and at most 1024: it counts tokens"),
        ({"restart_after": math.nan}, "restart_after is nan but must be at least 0"),
    ],
)
def test_rows_that_cannot_be_replaced_are_refused(fields, sentence):
    module = SimVQ(K, D, **{"restart_after": 9, **fields})
    with pytest.raises(ValueError, match=sentence) as caught:
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((2, D)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("unused", [[], [3], [0, 19], list(range(5, 17)), list(range(19))])
def test_a_step_pulls_a_random_few_of_many_codes_out_of_use(unused):
    """Every one of them where they are few; each in turn over many steps; never one that is in use."""
    out_of_use = jnp.zeros(20, bool).at[jnp.array(unused, int)].set(True)
    seen = []
    for key in jax.random.split(jax.random.key(0), 40):
        found, is_idle = (np.asarray(a) for a in idle.idle_codes(key, out_of_use, 6))
        assert found.shape == is_idle.shape == (6,)
        drawn = found[is_idle].tolist()
        assert len(set(drawn)) == len(drawn) == min(len(unused), 6)
        seen += drawn
    assert set(seen) == set(unused)
