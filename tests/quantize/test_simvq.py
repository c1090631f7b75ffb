"""SimVQ's contract: shapes, gradients, frozen basis, masks, types, inference, errors."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_simvq import D, K, apply, make, tokens, trained, with_params

from simvq_jax.optim import label_groups
from simvq_jax.quantize import SimVQ

LEADING = st.lists(st.integers(1, 5), min_size=0, max_size=3).map(tuple)


def numpy_result(codebook, z):
    """Nearest codes and mean square error by brute force in float64."""
    q, flat = np.asarray(codebook, np.float64), np.asarray(z, np.float64).reshape(-1, D)
    indices = np.argmin(((flat[:, None] - q[None]) ** 2).sum(-1), axis=1)
    return indices.reshape(z.shape[:-1]), np.mean((flat - q[indices]) ** 2)


def assert_alike(result, expected):
    np.testing.assert_array_equal(result.indices, expected.indices)
    np.testing.assert_allclose(result.z_q, expected.z_q, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(jnp.mean(result.loss), expected.loss, rtol=1e-5)


# Shapes and values


@settings(max_examples=4, deadline=None)
@given(LEADING)
def test_any_leading_shape_gives_codes_and_indices_of_that_shape(leading):
    """A single vector (no leading axis), audio's (batch, time) and pictures' (batch, height, width) among them."""
    module, variables = make()
    z = tokens(*leading)
    out = apply(module, variables, z)
    assert out.z_q.shape == z.shape and out.indices.shape == leading and out.indices.dtype == jnp.int32
    codebook = apply(module, variables, method="codebook")
    expected, error = numpy_result(codebook, z)
    np.testing.assert_array_equal(out.indices, expected)
    np.testing.assert_array_equal(out.z_q, apply(module, variables, out.indices, method="lookup"))
    np.testing.assert_allclose(out.z_q, np.asarray(codebook)[out.indices], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(out.losses["commitment"], error, rtol=1e-5)


def test_no_tokens_give_no_codes_and_no_loss():
    module, variables = make()
    out = apply(module, variables, jnp.zeros((3, 0, D)))
    assert out.z_q.shape == (3, 0, D) and out.indices.shape == (3, 0) and float(out.loss) == 0


def test_the_codebook_is_basis_times_kernel_plus_bias():
    module, variables = make()
    basis, transform = variables["codebook"]["basis"], variables["params"]["transform"]
    expected = np.asarray(basis, np.float64) @ np.asarray(transform["kernel"]) + np.asarray(transform["bias"])
    np.testing.assert_allclose(apply(module, variables, method="codebook"), expected, rtol=1e-5, atol=1e-6)


def test_the_value_is_the_code_itself_where_tokens_are_large():
    """z + (q - z) would round at the size of z."""
    module, variables = make()
    out = apply(module, variables, tokens(50, scale=1e4))
    np.testing.assert_array_equal(out.z_q, apply(module, variables, out.indices, method="lookup"))


@pytest.mark.parametrize("fields", [{"basis_dim": 3}, {"basis_dim": 9}, {"use_bias": False}, {"basis_init": "uniform"}])
def test_other_bases_and_transforms_keep_the_contract(fields):
    module, variables = make(**fields)
    basis_dim = fields.get("basis_dim", D)
    assert variables["codebook"]["basis"].shape == (K, basis_dim)
    assert variables["params"]["transform"]["kernel"].shape == (basis_dim, D)
    assert ("bias" in variables["params"]["transform"]) == fields.get("use_bias", True)
    z = tokens(2, 5)
    out, codebook = apply(module, variables, z), apply(module, variables, method="codebook")
    np.testing.assert_array_equal(out.indices, numpy_result(codebook, z)[0])
    np.testing.assert_allclose(out.z_q, np.asarray(codebook)[out.indices], rtol=1e-6, atol=1e-7)


# Gradients


def test_the_gradient_passes_to_the_tokens_unchanged():
    module, variables = make()
    z, cotangent = tokens(3, 4), tokens(3, 4, seed=7)
    got = jax.jit(lambda z, cotangent: jax.vjp(lambda z: module.apply(variables, z).z_q, z)[1](cotangent)[0])
    np.testing.assert_array_equal(got(z, cotangent), cotangent)


def test_the_transform_learns_from_the_codebook_loss_alone():
    """Neither z_q nor the commitment loss reaches W or b; the codebook loss reaches both, and no token."""
    module, variables = make()
    z, pull = tokens(12), tokens(12, seed=7)

    def gradients(of):
        def scalar(params, z):
            return of(apply(module, with_params(variables, params), z))

        return jax.jit(jax.grad(scalar, argnums=(0, 1)))(variables["params"], z)

    for silent in (lambda out: jnp.sum(out.z_q * pull), lambda out: out.losses["commitment"]):
        params, to_tokens = gradients(silent)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(params)) and np.any(to_tokens)
    params, to_tokens = gradients(lambda out: out.losses["codebook"])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(params)) and not np.any(to_tokens)


def test_the_gradients_are_those_derived_by_hand():
    """dL/dW = 2 C_k^T (q - z) / (N d), dL/db = 2 sum(q - z) / (N d), dL/dz = 2 beta (z - q) / (N d)."""
    module, variables = make(beta=0.3)
    z = tokens(12)

    def loss(params, z):
        return apply(module, with_params(variables, params), z).loss

    params, to_tokens = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], z)
    out = apply(module, variables, z)
    gap = np.asarray(out.z_q - z) * 2 / z.size
    rows = np.asarray(variables["codebook"]["basis"])[out.indices]
    np.testing.assert_allclose(params["transform"]["kernel"], rows.T @ gap, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(params["transform"]["bias"], gap.sum(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(to_tokens, -0.3 * gap, rtol=1e-4, atol=1e-7)


def test_the_basis_is_frozen_outside_the_parameters():
    _, variables = make()
    assert set(variables["codebook"]) == {"basis"}
    assert set(variables["params"]) == {"transform"}
    assert set(variables["codebook_stats"]) == {"age", "usage", "spread_ratio"}


def test_a_trainable_basis_is_a_parameter_with_a_gradient():
    module, variables = make(trainable_basis=True)
    assert "codebook" not in variables and set(variables["params"]) == {"basis", "transform"}
    z = tokens(12)
    grads = jax.jit(jax.grad(lambda params: module.apply(with_params(variables, params), z).loss))(variables["params"])
    moved = np.any(np.asarray(grads["basis"]) != 0, axis=1)
    used = np.zeros(K, bool)
    used[np.asarray(apply(module, variables, z).indices)] = True
    np.testing.assert_array_equal(moved, used)
    assert np.any(grads["transform"]["kernel"])


@pytest.mark.parametrize("beta", [0.25, 2.0])
def test_legacy_puts_beta_on_the_other_term(beta):
    z = tokens(12)
    current, variables = make(beta=beta)
    legacy, _ = make(beta=beta, legacy=True)
    old, new = apply(legacy, variables, z), apply(current, variables, z)
    commitment, codebook = new.losses["commitment"], new.losses["codebook"]
    np.testing.assert_allclose(new.loss, beta * commitment + codebook, rtol=1e-6)
    np.testing.assert_allclose(old.loss, commitment + beta * codebook, rtol=1e-6)


@pytest.mark.parametrize(("legacy", "on_codebook"), [(False, 1.0), (True, 0.1)])
def test_the_weight_on_the_codebook_loss_scales_the_transform_s_gradient(legacy, on_codebook):
    module, variables = make(beta=0.1, legacy=legacy)
    z = tokens(12)

    @functools.partial(jax.jit, static_argnums=1)
    def gradient(params, name):
        def scalar(params):
            out = module.apply(with_params(variables, params), z)
            return out.loss if name == "loss" else out.losses[name]

        return jax.grad(scalar)(params)

    whole, codebook = (gradient(variables["params"], name) for name in ("loss", "codebook"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, on_codebook * b, rtol=1e-5, atol=1e-8), whole, codebook)


# Masks


@pytest.mark.parametrize("codebook_loss", ["token", "region"])
def test_masked_tokens_change_neither_losses_statistics_nor_gradients(codebook_loss):
    """Six tokens, and the same six with garbage masked away behind them."""
    module, variables = make(codebook_loss=codebook_loss, region_sources=100)
    real, garbage = tokens(6), tokens(4, seed=9, scale=100.0)
    mask = np.arange(10) < 6

    def run(params, z, mask):
        out, stats = trained(module, with_params(variables, params), z, mask=mask)
        return out.loss, (out.losses, stats)

    run = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
    alone = run(variables["params"], real, np.ones(6, bool))
    padded = run(variables["params"], np.concatenate([real, garbage]), mask)
    to_padded_tokens = padded[1][1]
    assert not np.any(to_padded_tokens[6:])
    padded = (padded[0], (padded[1][0], to_padded_tokens[:6]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), padded, alone)


def test_padding_that_is_not_finite_counts_for_nothing():
    module, variables = make()
    z = tokens(6)
    z[4], z[5] = np.nan, np.inf
    mask = np.arange(6) < 4

    def loss(params, z, mask):
        return apply(module, with_params(variables, params), z, mask=mask).loss

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    value, (params, to_tokens) = run(variables["params"], z, mask)
    expected, (expected_params, expected_tokens) = run(variables["params"], z[:4], mask[:4])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), params, expected_params)
    np.testing.assert_allclose(to_tokens[:4], expected_tokens, rtol=1e-5)
    assert not np.any(to_tokens[4:])


def test_a_mask_that_keeps_nothing_gives_no_loss_and_ages_nothing():
    module, variables = make()
    out, stats = trained(module, variables, tokens(6), mask=np.zeros(6, bool))
    assert float(out.loss) == 0
    jax.tree.map(np.testing.assert_array_equal, stats, variables["codebook_stats"])


# Types


def test_bfloat16_tokens_are_compared_and_measured_in_float32():
    module, variables = make()
    z = tokens(40).astype(jnp.bfloat16)
    out, exact = apply(module, variables, z), apply(module, variables, z.astype(jnp.float32))
    np.testing.assert_array_equal(out.indices, exact.indices)
    assert out.z_q.dtype == jnp.bfloat16 and exact.z_q.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((out.losses, out.loss))} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(out.loss, exact.loss)
    np.testing.assert_array_equal(out.z_q, np.asarray(exact.z_q).astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_is_that_of_the_code_whatever_the_tokens_have(dtype):
    module, variables = make(dtype=dtype)
    for given_dtype in (jnp.float32, jnp.bfloat16):
        shape = jax.eval_shape(lambda z: module.apply(variables, z).z_q, tokens(4).astype(given_dtype))
        assert shape.dtype == dtype


# Inference


def test_nothing_changes_without_train():
    module, variables = make()
    out, changed = module.apply(variables, tokens(12), mutable=["codebook_stats"])  # and not jitted, for once
    assert_alike(out, apply(module, variables, tokens(12)))
    jax.tree.map(np.testing.assert_array_equal, changed["codebook_stats"], variables["codebook_stats"])


def test_inference_needs_no_statistics():
    module, variables = make()
    kept = {name: variables[name] for name in ("params", "codebook")}
    np.testing.assert_array_equal(apply(module, kept, tokens(12)).indices, apply(module, variables, tokens(12)).indices)


# Errors


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"codebook_size": 0}, "codebook_size is 0 but must be at least 1"),
        ({"dim": 0}, "dim is 0 but must be at least 1"),
        ({"dim": D + 1}, r"z has shape .*6\) but must be \(\.\.\., 7\)"),
        ({"basis_init": "zeros"}, "basis_init is 'zeros' but must be one of normal, uniform"),
        ({"basis_dtype": "float16"}, "basis_dtype is 'float16' but must be 'float32' or 'bfloat16'"),
        ({"basis_seed": -1}, r"basis_seed is -1 but must lie in \[0, 2\^32\), or be left out"),
        ({"trainable_basis": True, "basis_seed": 3}, "trainable_basis has basis_dtype 'float32' and basis_seed 3"),
        ({"trainable_basis": True, "basis_dtype": "bfloat16"}, "trainable_basis has basis_dtype 'bfloat16'"),
        ({"codebook_loss": "regional"}, "codebook_loss is 'regional' but must be 'token' or 'region'"),
        ({"region_sources": 0}, "region_sources is 0 but must be at least 1"),
    ],
)
def test_impossible_fields_get_one_sentence(fields, sentence):
    module = SimVQ(**{"codebook_size": K, "dim": D, **fields})
    with pytest.raises(ValueError, match=sentence) as caught:
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((2, D)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 6), (3, 2), ()])
def test_a_mask_of_another_shape_is_refused(shape):
    module, variables = make()
    with pytest.raises(ValueError, match=r"mask has shape .* but the tokens have \(2, 3\)"):
        module.apply(variables, tokens(2, 3), mask=jnp.ones(shape, bool))


def test_training_asks_for_mutable_statistics():
    module, variables = make()
    with pytest.raises(ValueError, match=r"pass mutable=\['codebook_stats'\] to apply") as caught:
        jax.eval_shape(lambda z: module.apply(variables, z, train=True), tokens(4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("drawing", [{"codebook_loss": "region", "region_sources": 8}, {"restart_after": 2}])
def test_what_draws_in_training_asks_for_a_key(drawing):
    module, variables = make(**drawing)
    with pytest.raises(ValueError, match=r'draws tokens and codes at random: pass rngs=\{"quantizer": key\} to apply'):
        jax.eval_shape(lambda z: module.apply(variables, z, train=True, mutable=["codebook_stats"]), tokens(4))


# Transformations


def test_vmap_gives_what_the_plain_call_gives():
    module, variables = make()
    mapped = jax.jit(jax.vmap(module.apply, in_axes=(None, 0)))(variables, tokens(3, 4))
    assert_alike(mapped, apply(module, variables, tokens(3, 4)))


def test_rematerialised_gradients_are_the_same():
    module, variables = make(codebook_loss="region")
    again = nn.remat(SimVQ, static_argnums=(3,))(K, D, codebook_loss="region")
    z = tokens(12)

    def gradient(module):
        def loss(params):
            arguments = (with_params(variables, params), z, None, True)
            rngs = {"quantizer": jax.random.key(3)}
            return module.apply(*arguments, mutable=["codebook_stats"], rngs=rngs)[0].loss

        return jax.jit(jax.grad(loss))(variables["params"])

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), gradient(again), gradient(module))


@pytest.mark.parametrize("train", [False, True])
def test_init_by_a_call_gives_the_same_variables(train):
    """In training too, without a key for the quantizer, and it advances no statistics."""
    module, variables = make(codebook_loss="region")
    called = jax.jit(functools.partial(module.init, train=train))(jax.random.key(0), tokens(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), called, variables)


def test_init_runs_on_shapes_alone():
    module = SimVQ(2**20, 256, codebook_loss="region")
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 256)))
    assert shapes["codebook"]["basis"].shape == (2**20, 256)
    assert shapes["codebook_stats"]["age"].shape == (2**20,)
    assert shapes["params"]["transform"]["kernel"].shape == (256, 256)


def test_a_hidden_layer_makes_the_transform_an_mlp():
    module, variables = make(hidden=7)
    z = tokens(9)
    params, basis = variables["params"], np.asarray(variables["codebook"]["basis"])
    first, last = (jax.tree.map(np.asarray, params[name]) for name in ("transform_hidden", "transform"))
    features = np.asarray(jax.nn.gelu(basis @ first["kernel"] + first["bias"]))
    codebook = features @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(apply(module, variables, method="codebook"), codebook, rtol=1e-5, atol=1e-6)
    out = apply(module, variables, z)
    np.testing.assert_array_equal(out.indices, ((z[:, None] - codebook) ** 2).sum(-1).argmin(-1))
    np.testing.assert_array_equal(out.z_q, apply(module, variables, out.indices, method="lookup"))
    grads = jax.jit(jax.grad(lambda p: module.apply(with_params(variables, p), z).loss))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))
    assert set(jax.tree.leaves(label_groups(params))) == {"transform"}


def test_a_hidden_layer_of_no_possible_width():
    with pytest.raises(ValueError, match="hidden is -1 but must be 0"):
        SimVQ(8, 4, hidden=-1).init(jax.random.key(0), jnp.zeros((2, 4)))
