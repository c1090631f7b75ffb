"""FSQ and LFQ against their papers' definitions, written out in numpy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simvq_jax.quantize import FSQ, LFQ

LEVELS = (4, 3, 2, 5)
K = 120


def made(module, shape=(7, 4), scale=2.0):
    z = np.float32(scale) * np.random.default_rng(0).standard_normal((*shape[:-1], module.dim), np.float32)
    return jax.jit(module.init)(jax.random.key(0), z), z


def fsq_values(z):
    """The nearest of each dimension's levels to tanh, as the paper's appendix has it: (n, 4) -> values in [-1, 1]."""
    values = np.empty_like(z)
    for i, levels in enumerate(LEVELS):
        reach, offset = (levels - 1) * 1.001 / 2, 0.5 if levels % 2 == 0 else 0.0
        shift = np.arctanh(offset / reach) if levels > 2 else 0
        bounded = np.tanh(z[:, i] + shift) * reach - offset
        values[:, i] = np.round(bounded) / (levels // 2)
    return values


def test_fsq_rounds_each_dimension_by_itself():
    module = FSQ(LEVELS, 4)
    variables, z = made(module)
    out = module.apply(variables, z)
    np.testing.assert_allclose(out.z_q, fsq_values(z), atol=1e-6)
    assert module.codebook_size == K and out.loss == 0 and "params" not in variables


def test_fsq_s_codes_are_all_combinations_of_levels():
    module = FSQ(LEVELS, 4)
    variables, _ = made(module)
    codebook = np.asarray(module.apply(variables, method="codebook"))
    assert len(np.unique(codebook, axis=0)) == K
    expected = itertools.product(*[(np.arange(n) - n // 2) / (n // 2) for n in reversed(LEVELS)])
    np.testing.assert_allclose(codebook[:, ::-1], np.array(list(expected)), atol=1e-6)
    # Every code is reached: the codes themselves, stretched to where tanh is near them, come back.
    levels = np.asarray(LEVELS)
    reach, offset = (levels - 1) * 1.001 / 2, np.where(levels % 2 == 0, 0.5, 0)
    shift = np.where(levels > 2, np.arctanh(offset / reach), 0)
    z = np.arctanh((codebook * (levels // 2) + offset) / reach) - shift
    np.testing.assert_array_equal(module.apply(variables, z.astype(np.float32)).indices, np.arange(K))


@pytest.mark.parametrize("levels", [1001, 1024])
def test_fsq_of_many_levels_stays_within_them(levels):
    module = FSQ((levels,), 1)
    z = jnp.array([[12.0], [-12.0]])
    out = module.apply({}, z)
    np.testing.assert_array_equal(out.indices, [levels - 1, 0])
    np.testing.assert_array_equal(out.z_q, module.apply({}, out.indices, method="lookup"))


def test_fsq_of_two_levels_tells_signs():
    module = FSQ((2,) * 8, 8)
    variables, z = made(module, (500, 8), scale=1.0)
    out = module.apply(variables, z)
    np.testing.assert_array_equal(out.indices, (np.asarray(z) > 0) @ 2 ** np.arange(8))
    gradient = jax.grad(lambda z: module.apply(variables, z).z_q.sum())(z)
    assert np.median(gradient) > 0.2


def test_fsq_s_gradient_is_that_of_the_bound():
    module = FSQ((5, 5), 2)
    variables, z = made(module)
    gradient = jax.grad(lambda z: module.apply(variables, z).z_q.sum())(z)
    np.testing.assert_allclose(gradient, (1 - np.tanh(z) ** 2) * 2 * 1.001 / 2, rtol=1e-5)


def entropy(p):
    return -np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0), axis=-1)


def test_lfq_is_the_nearest_vertex_of_a_cube():
    module = LFQ(16, 4)
    variables, z = made(module)
    out = module.apply(variables, z)
    codebook = np.asarray(module.apply(variables, method="codebook"))
    assert codebook.shape == (16, 4) and set(np.unique(codebook)) == {-1, 1} and len(np.unique(codebook, axis=0)) == 16
    np.testing.assert_array_equal(out.indices, ((z[:, None] - codebook) ** 2).sum(-1).argmin(-1))
    np.testing.assert_array_equal(out.z_q, codebook[np.asarray(out.indices)])
    gradient = jax.grad(lambda z: module.apply(variables, z).z_q.sum())(z)
    np.testing.assert_array_equal(gradient, np.ones_like(z))


@pytest.mark.parametrize("temperature", [0.5, 20.0])
def test_lfq_s_entropies_are_those_of_a_softmax_over_every_code(temperature):
    module = LFQ(16, 4, temperature=temperature, diversity=0.7)
    variables, z = made(module, scale=1.0)
    mask = np.arange(7) != 2
    out = module.apply(variables, z, mask)
    codebook = np.asarray(module.apply(variables, method="codebook"), np.float64)
    logits = -((z[:, None] - codebook) ** 2).sum(-1) / temperature
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True))[mask]
    expected = entropy(p).mean() - 0.7 * entropy(p.mean(0))
    np.testing.assert_allclose(out.losses["entropy"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.loss, 0.25 * out.losses["commitment"] + 0.1 * expected, rtol=1e-4)


def test_lfq_s_groups_bound_the_entropy_of_the_mean():
    z = np.random.default_rng(1).standard_normal((50, 6), np.float32)

    def entropy_of(**fields):
        module = LFQ(64, 6, temperature=1.0, **fields)
        return float(module.apply(module.init(jax.random.key(0), z), z).losses["entropy"])

    assert entropy_of(group_bits=3) < entropy_of(group_bits=6)  # the mean's entropy enters with a minus
    assert entropy_of(group_bits=4, diversity=0.0) == pytest.approx(entropy_of(group_bits=6, diversity=0.0))


def test_a_large_lfq_takes_no_array_over_its_codes():
    module = LFQ(2**18, 18)
    z = jnp.zeros((64, 18))
    variables = module.init(jax.random.key(0), z)
    gradient = jax.jit(jax.grad(lambda z: module.apply(variables, z).loss)).lower(z).compile()
    assert gradient.memory_analysis().temp_size_in_bytes < 4 * 2**18 * 4


@pytest.mark.parametrize("module", [FSQ((5, 4, 3), 6), LFQ(32, 6)], ids=["fsq", "lfq"])
def test_the_contract_with_projections(module):
    variables, z = made(module, (2, 3, 6))
    mask = np.ones((2, 3), bool)
    mask[1, 2] = False
    out, changed = module.apply(variables, z, mask, train=True, mutable=["codebook_stats"])
    assert out.z_q.shape == z.shape and out.indices.shape == (2, 3) and out.indices.dtype == jnp.int32
    np.testing.assert_allclose(out.z_q, module.apply(variables, out.indices, method="lookup"), rtol=1e-5, atol=1e-6)
    codebook = module.apply(variables, method="codebook")
    np.testing.assert_allclose(out.z_q, codebook[np.asarray(out.indices)], rtol=1e-5, atol=1e-6)
    assert changed["codebook_stats"]["usage"].sum() == mask.sum()
    assert module.apply(variables, z.astype(jnp.bfloat16)).z_q.dtype == jnp.bfloat16
    gradient = jax.grad(lambda params: module.apply({"params": params}, z).z_q.sum())(variables["params"])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (FSQ((), 3), r"levels is \(\) but must name at least one"),
        (FSQ((4, 1), 2), r"levels is \(4, 1\) but must .* at least 2"),
        (FSQ((2**16, 2**16), 2), r"must be under 2\^31"),
        (LFQ(24, 4), "codebook_size is 24 but must be a power of two"),
        (LFQ(1, 4), "codebook_size is 1 but must be a power of two"),
        (LFQ(16, 4, temperature=0.0), "temperature is 0.0 but must be above 0"),
        (LFQ(16, 4, temperature=math.inf), "temperature is inf but must be above 0 and finite"),
        (LFQ(16, 4, beta=-1.0), "beta is -1.0 but must be at least 0 and finite"),
        (LFQ(16, 4, entropy_weight=math.nan), "entropy_weight is nan but must be at least 0 and finite"),
        (LFQ(16, 4, diversity=-2.0), "diversity is -2.0 but must be at least 0 and finite"),
        (LFQ(16, 4, group_bits=0), r"group_bits is 0 but must lie in \[1, 16\]"),
    ],
)
def test_fields_that_cannot_be(module, sentence):
    with pytest.raises(ValueError, match=sentence):
        module.init(jax.random.key(0), jnp.zeros((2, module.dim)))
