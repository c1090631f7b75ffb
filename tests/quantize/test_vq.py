"""VQ keeps the quantizers' contract, and its gradient reaches selected codes alone; Affine's parameters."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvq_jax.quantize import VQ, Affine

K, D = 12, 4
LEADING = st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple)


@functools.cache
def make(**fields):
    """A small VQ and its initial variables."""
    module = VQ(**{"codebook_size": K, "dim": D, "codebook_init": "normal", **fields})
    init = functools.partial(module.init, method="codebook")  # needs no search to compile
    return module, jax.jit(init)(jax.random.key(0))


def tokens(*shape, seed=1, scale=1.0):
    return np.float32(scale) * np.random.default_rng(seed).standard_normal((*shape, D), np.float32)


@functools.partial(jax.jit, static_argnames=("module", "method"))
def apply(module, variables, *arguments, method="__call__", **masks):
    """`module.apply` as one program, which compiles faster than its parts."""
    return module.apply(variables, *arguments, method=method, **masks)


@functools.partial(jax.jit, static_argnames="module")
def trained(module, variables, z, mask=None):
    """(result, new statistics) of one training call."""
    out, changed = module.apply(variables, z, mask, train=True, mutable=["codebook_stats"])
    return out, changed["codebook_stats"]


@settings(max_examples=3, deadline=None)
@given(LEADING)
def test_any_leading_shape_gives_the_nearest_codes(leading):
    module, variables = make()
    z = tokens(*leading)
    out, rows = apply(module, variables, z), np.asarray(variables["params"]["codebook"])
    distance = ((np.asarray(z, np.float64)[..., None, :] - rows) ** 2).sum(-1)
    assert out.indices.shape == leading and out.indices.dtype == jnp.int32
    np.testing.assert_array_equal(out.indices, distance.argmin(-1))
    np.testing.assert_array_equal(out.z_q, rows[np.asarray(out.indices)])
    np.testing.assert_array_equal(out.z_q, apply(module, variables, out.indices, method="lookup"))
    np.testing.assert_array_equal(apply(module, variables, method="codebook"), rows)
    np.testing.assert_allclose(out.losses["codebook"], distance.min(-1).mean() / D, rtol=1e-5)


def test_every_code_is_a_parameter_and_there_is_no_transform():
    _, variables = make()
    assert set(variables) == {"params", "codebook_stats"}
    assert {name: leaf.shape for name, leaf in variables["params"].items()} == {"codebook": (K, D)}


def test_the_gradient_reaches_selected_codes_alone():
    """2 (count q_k - sum of its tokens) / (N d) for a selected code, exactly 0 for the rest."""
    module, variables = make()
    z = tokens(6)
    out = apply(module, variables, z)
    grads = jax.jit(jax.grad(lambda params: module.apply({"params": params}, z).loss))(variables["params"])
    expected = np.zeros((K, D), np.float32)
    np.add.at(expected, np.asarray(out.indices), np.asarray(out.z_q - z) * 2 / z.size)
    np.testing.assert_allclose(grads["codebook"], expected, rtol=1e-5, atol=1e-7)
    unused = np.setdiff1d(np.arange(K), out.indices)
    assert len(unused) >= K - 6 and not np.any(np.asarray(grads["codebook"])[unused])


def test_the_gradient_passes_to_the_tokens_unchanged_and_not_to_the_codes():
    module, variables = make()
    z, cotangent = tokens(3, 4), tokens(3, 4, seed=7)

    @jax.jit
    def pulled(params, z, cotangent):
        return jax.vjp(lambda params, z: module.apply({"params": params}, z).z_q, params, z)[1](cotangent)

    to_codes, to_tokens = pulled(variables["params"], z, cotangent)
    np.testing.assert_array_equal(to_tokens, cotangent)
    assert not np.any(to_codes["codebook"])


@pytest.mark.parametrize("legacy", [False, True])
def test_beta_lies_on_the_commitment_or_in_legacy_on_the_codebook(legacy):
    module, variables = make(beta=0.1, legacy=legacy)
    z = tokens(8)
    gradient = jax.jit(jax.grad(lambda params, z: module.apply({"params": params}, z).loss, argnums=(0, 1)))
    to_codes, to_tokens = gradient(variables["params"], z)
    gap = np.asarray(z - apply(module, variables, z).z_q) * 2 / z.size
    on_commitment, on_codebook = (1.0, 0.1) if legacy else (0.1, 1.0)
    np.testing.assert_allclose(to_tokens, on_commitment * gap, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(to_codes["codebook"].sum(0), -on_codebook * gap.sum(0), rtol=1e-4, atol=1e-6)


def test_masked_tokens_change_neither_losses_statistics_nor_gradients():
    module, variables = make()
    z = tokens(10, scale=3.0)

    def run(params, z, mask):
        out, stats = trained(module, {**variables, "params": params}, z, mask)
        return out.loss, (out.losses, stats)

    run = jax.jit(jax.value_and_grad(run, has_aux=True))
    padded = run(variables["params"], z, np.arange(10) < 6)
    alone = run(variables["params"], z[:6], np.ones(6, bool))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), padded, alone)


def test_statistics_advance_in_training_alone():
    module, variables = make()
    z = np.asarray(variables["params"]["codebook"])[[2, 2, 9]]
    out, stats = trained(module, variables, z)
    np.testing.assert_array_equal(out.indices, [2, 2, 9])
    assert stats["age"][2] == 0 and stats["age"][9] == 0 and stats["age"][0] > 10**9
    assert stats["usage"][2] == 2 and stats["usage"][9] == 1 and stats["usage"][0] == 0
    _, changed = jax.jit(functools.partial(module.apply, mutable=["codebook_stats"]))(variables, z)
    jax.tree.map(np.testing.assert_array_equal, changed["codebook_stats"], variables["codebook_stats"])


def test_bfloat16_tokens_are_compared_in_float32():
    module, variables = make()
    z = tokens(40).astype(jnp.bfloat16)
    out, exact = apply(module, variables, z), apply(module, variables, z.astype(jnp.float32))
    np.testing.assert_array_equal(out.indices, exact.indices)
    assert out.z_q.dtype == jnp.bfloat16 and out.loss.dtype == jnp.float32


@pytest.mark.parametrize(("codebook_init", "std"), [("uniform", 3**-0.5 / 2000), ("normal", 0.5)])
def test_the_codebook_starts_as_said(codebook_init, std):
    """U(-1/K, 1/K), or N(0, 1/d)."""
    _, variables = make(codebook_size=2000, codebook_init=codebook_init)
    rows = np.asarray(variables["params"]["codebook"])
    np.testing.assert_allclose(rows.std(), std, rtol=0.05)
    assert codebook_init == "normal" or np.abs(rows).max() <= 1 / 2000


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"codebook_size": 0}, "codebook_size is 0 but must be at least 1"),
        ({"dim": -1}, "dim is -1 but must be at least 1"),
        ({"dim": 5}, r"z has shape .*4\) but must be \(\.\.\., 5\)"),
        ({"codebook_init": "zeros"}, "codebook_init is 'zeros' but must be 'uniform', 'normal' or 'kmeans'"),
    ],
)
def test_impossible_fields_get_one_sentence(fields, sentence):
    module = VQ(**{"codebook_size": K, "dim": D, **fields})
    with pytest.raises(ValueError, match=sentence) as caught:
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((2, D)))
    assert "\n" not in str(caught.value)


def test_a_wrong_mask_and_frozen_statistics_are_refused():
    module, variables = make()
    with pytest.raises(ValueError, match=r"mask has shape \(4,\) but the tokens have \(3,\)"):
        module.apply(variables, tokens(3), mask=jnp.ones(4, bool))
    with pytest.raises(ValueError, match="pass mutable="):
        jax.eval_shape(lambda z: module.apply(variables, z, train=True), tokens(3))


def test_vmap_and_shapes_alone_work():
    module, variables = make()
    z = tokens(3, 5)
    mapped = jax.jit(jax.vmap(module.apply, in_axes=(None, 0)))(variables, z)
    np.testing.assert_array_equal(mapped.indices, apply(module, variables, z).indices)
    shapes = jax.eval_shape(VQ(2**20, 256).init, jax.random.key(0), jnp.zeros((1, 256)))
    assert shapes["params"]["codebook"].shape == (2**20, 256)


# Affine


@pytest.mark.parametrize("use_bias", [True, False])
def test_affine_starts_as_a_torch_linear(use_bias):
    """U(+-1/sqrt(in)) for kernel and bias, whatever the number of outputs."""
    module = Affine(16, 1000, use_bias)
    params = module.init(jax.random.key(0), jnp.zeros((1, 16)))["params"]
    assert {name: leaf.shape for name, leaf in params.items()} == (
        {"kernel": (16, 1000), "bias": (1000,)} if use_bias else {"kernel": (16, 1000)}
    )
    for leaf in params.values():
        assert 0.98 / 4 < np.abs(leaf).max() <= 1 / 4
        np.testing.assert_allclose(np.std(leaf), 1 / 4 / 3**0.5, rtol=0.06)


def test_affine_is_x_kernel_plus_bias():
    module = Affine(5, 3)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 5)))
    x = jax.random.normal(jax.random.key(1), (2, 4, 5))
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    np.testing.assert_allclose(module.apply(variables, x), np.asarray(x) @ kernel + bias, rtol=1e-5, atol=1e-6)


class Reader(nn.Module):
    """Reads an Affine's kernel without ever calling it, as the search does."""

    def setup(self):
        self.transform = Affine(3, 2)

    def __call__(self):
        return self.transform.weights()[0]


def test_affine_declares_its_parameters_before_a_call():
    kernel, variables = Reader().init_with_output(jax.random.key(0))
    np.testing.assert_array_equal(kernel, variables["params"]["transform"]["kernel"])
    assert set(variables["params"]["transform"]) == {"kernel", "bias"}
