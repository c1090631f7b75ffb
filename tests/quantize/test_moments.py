"""MomentVQ's codes have the tokens' running mean and covariance, whatever their scale."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simvq_jax.quantize import MomentVQ

K, D = 4096, 3
MIX = np.float32([[1, 0, 0], [2, 0.5, 0], [0, 0.3, 0.1]])


def tokens(n=2000, seed=0, scale=1.0):
    return np.float32(scale) * (np.random.default_rng(seed).standard_normal((n, D), np.float32) @ MIX + 5)


@functools.cache
def made(**fields):
    module = MomentVQ(K, D, **fields)
    return module, jax.jit(functools.partial(module.init, method="codebook"))(jax.random.key(0))


@functools.partial(jax.jit, static_argnames="module")
def trained(module, variables, z, mask=None):
    out, changed = module.apply(variables, z, mask, train=True, mutable=["codebook_stats"])
    return out, {**variables, **changed}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_after_one_step_the_codes_are_spread_as_the_tokens(scale):
    module, variables = made()
    z = tokens(scale=scale)
    out, variables = trained(module, variables, z)
    codes = np.asarray(module.apply(variables, method="codebook"), np.float64)
    np.testing.assert_allclose(codes.mean(0), z.mean(0), atol=0.1 * scale)
    np.testing.assert_allclose(np.cov(codes.T), np.cov(z.T), atol=0.15 * np.cov(z.T).max())
    assert len(np.unique(out.indices)) > 900, "of 2,000 tokens"


def test_moments_are_those_of_all_batches_with_forgetting():
    module, variables = made(decay=0.8)
    batches = [tokens(50, seed, scale) for seed, scale in ((1, 1), (2, 3), (3, 0.5))]
    for z in batches:
        _, variables = trained(module, variables, z)
    share = 0.8 ** np.arange(3)[::-1]
    share = np.repeat(share / share.sum() / 50, 50)
    z = np.concatenate(batches).astype(np.float64)
    mean = share @ z
    stats = variables["codebook_stats"]
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(stats["covariance"], (share[:, None] * (z - mean)).T @ (z - mean), rtol=1e-4, atol=1e-4)


def test_masked_tokens_and_empty_batches_change_no_moment():
    module, variables = made()
    z = tokens(30)
    spoiled = z.copy()
    spoiled[20:] = 1e6
    _, masked = trained(module, variables, spoiled, np.arange(30) < 20)
    _, alone = trained(module, variables, z[:20])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), masked, alone)
    _, empty = trained(module, variables, z, np.zeros(30, bool))
    for name in ("mean", "covariance", "mass"):
        np.testing.assert_array_equal(empty["codebook_stats"][name], variables["codebook_stats"][name])


def test_tokens_of_one_dimension_or_all_equal_are_no_trouble():
    module, variables = made()
    line = np.outer(np.arange(1, 50), [1, 2, 3]).astype(np.float32)
    for z in (line, np.full((20, D), 7, np.float32), np.zeros((20, D), np.float32)):
        out, after = trained(module, variables, z)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((out.z_q, out.loss, after)))


@pytest.mark.parametrize("dim", [64, 512])
@pytest.mark.parametrize("falling", [0.0, 0.5])
def test_tokens_of_few_dimensions_among_many_are_no_trouble(dim, falling):
    """Two of them, or ever narrower ones: what float32 rounds there is more than their variance."""
    module = MomentVQ(256, dim)
    variables = jax.jit(functools.partial(module.init, method="codebook"))(jax.random.key(0))
    rng = np.random.default_rng(0)
    spreads = falling ** np.arange(dim) if falling else np.arange(dim) < 2
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    z = (100 * rng.standard_normal((500, dim)) * spreads @ turn + 3).astype(np.float32)
    out, after = trained(module, variables, z)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((out.z_q, out.loss, after)))
    codes = np.asarray(module.apply(after, method="codebook"), np.float64)
    scale = np.cov(z.T).max()
    np.testing.assert_allclose(np.cov(codes.T) / scale, np.cov(z.T) / scale, atol=0.5)
    assert np.trace(np.cov(codes.T)) < 1.3 * np.trace(np.cov(z.T))
    without_tokens = turn[16:].T  # directions in which tokens have none of their spread, or a 2^-32nd
    assert np.trace(np.cov((codes @ without_tokens).T)) < 0.005 * np.trace(np.cov(z.T))


def test_only_the_commitment_is_trained():
    module, variables = made()
    z = tokens(20)
    assert "params" not in variables
    gradient = jax.grad(lambda z: module.apply(variables, z).loss)(z)
    gap = z - np.asarray(module.apply(variables, z).z_q)
    np.testing.assert_allclose(gradient, 0.25 * 2 * gap / z.size, rtol=1e-4)
    _, pull = jax.vjp(lambda z: trained(module, variables, z)[0].z_q, jnp.asarray(z))
    np.testing.assert_array_equal(pull(jnp.ones_like(z))[0], np.ones_like(z))


def test_a_decay_that_cannot_be():
    with pytest.raises(ValueError, match=r"decay is 1.0 but must lie in \[0, 1\)"):
        MomentVQ(8, D, decay=1.0).init(jax.random.key(0), tokens(2))
