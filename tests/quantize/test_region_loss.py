"""The region loss of SimVQ: which codes it pulls, where to, and by which gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_simvq import D, apply, make, tokens, trained, with_params

from simvq_jax.mesh import batch_sharding, make_mesh
from simvq_jax.quantize import SimVQ, simvq


@pytest.fixture
def everything_in_use():
    """A region SimVQ all of whose codes were selected lately, and tokens that spread unevenly over them."""
    module, variables = make(codebook_size=4, codebook_loss="region")
    stats = {**variables["codebook_stats"], "usage": jnp.full(4, 1000.0)}
    return module, {**variables, "codebook_stats": stats}, tokens(10)


def test_region_loss_weighs_selected_codes_alike(everything_in_use):
    """Same gradient as the mean over selected codes of ||q_k - mean of its tokens||^2 / d, formed by hand."""
    module, variables, z = everything_in_use
    indices = np.asarray(apply(module, variables, z).indices)
    selected = np.unique(indices)
    assert 1 < len(selected) < len(indices)
    means = np.stack([z[indices == code].mean(axis=0) for code in selected])
    rows = np.asarray(variables["codebook"]["basis"])[selected]

    def by_hand(params):
        transform = params["transform"]
        gap = rows @ transform["kernel"] + transform["bias"][None] - means
        return jnp.mean(jnp.sum(gap**2, axis=-1)) / D

    def region(params):
        return trained(module, with_params(variables, params), z)[0].losses["codebook"]

    expected, got = (jax.jit(jax.grad(loss))(variables["params"]) for loss in (by_hand, region))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)


def test_region_loss_is_the_token_loss_where_codes_have_equally_many_tokens(everything_in_use):
    module, variables, _ = everything_in_use
    codes = apply(module, variables, np.array([0, 0, 1, 1, 2, 2]), method="lookup")
    z = codes + 0.01 * tokens(6)
    region = trained(module, variables, z)[0].losses["codebook"]
    np.testing.assert_allclose(region, apply(module, variables, z).losses["codebook"], rtol=1e-4)


def test_an_unused_code_is_pulled_to_the_tokens_that_lend_themselves_and_to_the_nearest():
    """Two codes on a line: one takes every token; the other is out of use, and both tokens are nearest to no other
    such code, so it is pulled to their mean, and then to the nearer one."""
    module = SimVQ(2, 1, codebook_loss="region", region_sources=8)
    variables = {
        "params": {"transform": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}},
        "codebook": {"basis": jnp.array([[0.0], [10.0]])},
        "codebook_stats": {"age": jnp.array([0, 100]), "usage": jnp.zeros(2)},
    }
    z = jnp.array([[1.0], [2.0]])
    out, _ = trained(module, variables, z)
    selected, unused, nearer = (1 + 4) / 2, (81 + 64) / 2, 64
    np.testing.assert_allclose(out.losses["codebook"], (selected + unused + nearer) / 3, rtol=1e-6)
    np.testing.assert_allclose(out.losses["commitment"], 2.5, rtol=1e-6)


def test_a_selected_code_that_is_hardly_used_has_all_three_pulls():
    """To the mean of its tokens, to the tokens that lend themselves, and to the nearest of them."""
    module = SimVQ(2, 1, codebook_loss="region", region_sources=8)
    variables = {
        "params": {"transform": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}},
        "codebook": {"basis": jnp.array([[0.0], [10.0]])},
        "codebook_stats": {"age": jnp.array([0, 0]), "usage": jnp.array([0.0, 100.0])},
    }
    out, _ = trained(module, variables, jnp.array([[1.0], [2.0]]))
    selected = lent = (1 + 4) / 2
    np.testing.assert_allclose(out.losses["codebook"], (selected + lent + 1) / 3, rtol=1e-6)


def codes_used_after_training(codebook_loss):
    """Codes of 64 in use after a hundred steps of Adam on W and b alone, on tokens far from almost every code."""
    module, variables = make(codebook_size=64, codebook_loss=codebook_loss, region_sources=32)
    z = tokens(256, scale=0.3) + np.array([[2.0, 0, 0, 0, 0, 0]], np.float32)
    optimizer = optax.adam(0.1)

    def step(carry, key):
        params, stats, state = carry

        def loss(params):
            out, changed = trained(module, {**variables, "params": params, "codebook_stats": stats}, z, key=key)
            return out.loss, changed

        grads, stats = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), stats, state), None

    start = (variables["params"], variables["codebook_stats"], optimizer.init(variables["params"]))
    (params, _, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, jnp.arange(100)))(start)
    return len(np.unique(apply(module, with_params(variables, params), z).indices))


def test_region_loss_brings_codes_into_use_that_the_token_loss_leaves_dead():
    assert codes_used_after_training("token") < 32 < 40 < codes_used_after_training("region")


def test_region_loss_is_fixed_by_its_key():
    module, variables = make(codebook_loss="region", region_sources=2)
    z = tokens(40)
    first, again, other = (trained(module, variables, z, key=key)[0].losses["codebook"] for key in (0, 0, 1))
    assert first == again and first != other


def test_evaluation_uses_the_token_loss_and_no_randomness():
    region, variables = make(codebook_loss="region")
    token, _ = make()
    z = tokens(12)
    jax.tree.map(np.testing.assert_array_equal, apply(region, variables, z), apply(token, variables, z))


@pytest.mark.parametrize(
    ("restart_after", "changed"), [(0.0, {}), (8.0, {"copy", "dynamic-update-slice", "fusion", "scatter"})]
)
def test_the_codebook_is_not_formed_for_it(restart_after, changed):
    """The gradient's program at K = 262,144 makes no array of codes by dimensions, but for a changed basis where rows
    restart, and keeps within 256 MB."""
    k, d = 262_144, 128
    module = SimVQ(k, d, codebook_loss="region", region_sources=2048, restart_after=restart_after)
    z = jax.ShapeDtypeStruct((4096, d), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), z)

    def loss(params, variables, z, key):
        variables = {**variables, "params": params}
        out, changed = module.apply(
            variables, z, train=True, mutable=["codebook_stats"], rngs={"quantizer": jax.random.key(key)}
        )
        return out.loss, changed

    program = (
        jax.jit(jax.grad(loss, argnums=(0, 2), has_aux=True)).lower(variables["params"], variables, z, 0).compile()
    )
    made_of = re.findall(rf"f32\[{k},{d}\]\S* (\S+)\(", program.as_text())
    assert made_of and set(made_of) <= {"parameter", "get-tuple-element", *changed}
    assert made_of.count("copy") <= 1
    assert program.memory_analysis().temp_size_in_bytes < 256 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{}, {"codebook": 4}])
def test_of_a_large_codebook_devices_pull_the_same_codes_as_one(monkeypatch, axes):
    """Of one larger than REGION_CODES, whose codes out of use are gathered from all over the devices."""
    monkeypatch.setattr(simvq, "REGION_CODES", 16)
    module = SimVQ(64, D, codebook_loss="region", region_sources=16)
    z = tokens(128)
    variables = jax.jit(module.init)(jax.random.key(0), z)

    def step(params, z):
        out, stats = trained.__wrapped__(module, with_params(variables, params), z)
        return out.losses["codebook"], stats

    run = jax.value_and_grad(step, has_aux=True)
    alone = jax.jit(run)(variables["params"], z)
    mesh = make_mesh(**axes)
    with jax.set_mesh(mesh):
        shared = jax.jit(run)(variables["params"], jax.device_put(z, batch_sharding(mesh)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), shared, alone)


def test_a_far_code_is_pulled_to_the_nearest_token_though_no_token_is_nearest_to_it():
    """By hand: the pulls of a code beyond another that is out of use too. Tokens that do not count pull nothing."""
    module = SimVQ(3, 1, codebook_loss="region", region_sources=8)
    variables = {
        "params": {"transform": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}},
        "codebook": {"basis": jnp.array([[0.0], [10.0], [20.0]])},
        "codebook_stats": {"age": jnp.array([0, 100, 100]), "usage": jnp.array([9.0, 0, 0])},
    }
    z, mask = jnp.array([[1.0], [2.0], [15.0]]), jnp.array([True, True, False])
    out, _ = trained(module, variables, z, mask=mask)
    selected, nearest_idle, to_nearest = (1 + 4) / 2, (81 + 64) / 2, (64, 18**2)
    np.testing.assert_allclose(out.losses["codebook"], (selected + nearest_idle + sum(to_nearest)) / 4, rtol=1e-6)
