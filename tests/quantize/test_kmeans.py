"""k-means starts VQ's and EMAVQ's codes at the tokens, and dead codes are moved to tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simvq_jax.quantize import EMAVQ, VQ
from simvq_jax.quantize import kmeans as kmeans_module
from simvq_jax.quantize.base import NEVER
from simvq_jax.quantize.kmeans import apart_tokens, kmeans, random_tokens

CENTRES = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)
K, D = 8, 4


def clusters(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return CENTRES[np.arange(n) % 4] + 0.1 * rng.standard_normal((n, 2), np.float32)


def tokens(n=64, seed=0):
    return 3 + np.random.default_rng(seed).standard_normal((n, D), np.float32)


def trained(module, variables, z, key=0):
    apply = jax.jit(
        lambda v, z, key: module.apply(v, z, train=True, mutable=["codebook_stats"], rngs={"quantizer": key})
    )
    out, changed = apply(variables, z, jax.random.key(key))
    return out, {**variables, **changed}


def test_centres_are_the_means_of_their_tokens():
    z = clusters()
    found = np.asarray(jax.jit(kmeans, static_argnums=3)(jax.random.key(3), z, jnp.ones(len(z)), 12))
    nearest = ((z[:, None] - found[None]) ** 2).sum(-1).argmin(1)
    for centre in set(nearest.tolist()):
        np.testing.assert_allclose(found[centre], z[nearest == centre].mean(0), rtol=1e-3, atol=1e-3)
    assert {tuple(np.round(mean / 10)) for mean in found} == {(0, 0), (1, 0), (0, 1), (1, 1)}


def test_tokens_that_do_not_count_are_not_seen():
    z = np.concatenate([clusters(40), np.full((10, 2), 1e3, np.float32)])
    found = jax.jit(kmeans, static_argnums=3)(jax.random.key(0), z, jnp.arange(50) < 40, 20)
    assert np.max(found) < 12


def test_centres_of_few_tokens_are_these_and_others_near_them(monkeypatch):
    """No search is needed, nor are any alike, which a search would have to compare one by one."""
    monkeypatch.setattr(kmeans_module, "nearest_code", None)
    z = clusters(8)
    found = np.asarray(kmeans(jax.random.key(0), z, jnp.ones(8), 20))
    np.testing.assert_array_equal(np.unique(found[:8], axis=0), np.unique(z, axis=0))
    assert len(np.unique(found, axis=0)) == 20
    assert np.abs(found - 5).max() < 30


@pytest.mark.parametrize("quantizer", [VQ, EMAVQ])
@pytest.mark.parametrize("z", [np.zeros((2, D), np.float32), np.ones((9, D), np.float32), np.zeros((0, D), np.float32)])
def test_of_tokens_that_do_not_differ_codes_stay_as_drawn(quantizer, z):
    module = quantizer(K, D, codebook_init="kmeans")
    variables = module.init(jax.random.key(0), z)
    codes = np.asarray(module.apply(variables, method="codebook"))
    assert len(np.unique(codes, axis=0)) == K and np.all(np.isfinite(codes))


def test_random_tokens_come_once_each_before_any_comes_twice():
    z = np.arange(7, dtype=np.float32)[:, None]
    drawn = np.asarray(random_tokens(jax.random.key(1), z, jnp.array([1, 1, 0, 1, 1, 1, 0.0]), 12))[:, 0]
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == [0, 1, 3, 4, 5]
    assert set(drawn.tolist()) == {0, 1, 3, 4, 5}


def test_rows_of_equal_tokens_are_moved_apart_wherever_they_stand():
    """Eight tokens, of which three are 1, 0 and -0, and the others repeat them."""
    z = np.float32([[1, 0], [1, -0.0], [2, 0], [1, 0], [3, 5], [2, 0], [3, 5], [1, 0]])
    rows = np.asarray(jax.jit(apart_tokens, static_argnums=3)(jax.random.key(0), z, jnp.ones(8), 8))
    assert len(np.unique(rows, axis=0)) == 8
    for token in np.unique(z, axis=0):  # the first of each stays
        assert np.any(np.all(rows == token, axis=1))
    centres = kmeans(jax.random.key(0), np.repeat(z, 4, axis=0), jnp.ones(32), 8)
    assert len(np.unique(centres, axis=0)) == 8


@pytest.mark.parametrize("module", [VQ(K, D, codebook_init="kmeans"), EMAVQ(K, D, codebook_init="kmeans")])
def test_a_kmeans_start_puts_every_code_among_the_tokens(module):
    z = tokens()
    variables = jax.jit(module.init)(jax.random.key(0), z)
    assert module.start_tokens == 4 * K
    out = module.apply(variables, z)
    assert len(np.unique(out.indices)) == K
    assert float(out.losses["commitment"]) < z.var(0).mean()
    _, after = trained(module, variables, z)
    assert len(np.unique(module.apply(after, z).indices)) == K


@pytest.mark.parametrize("kind", [VQ, EMAVQ])
def test_a_code_is_moved_once_enough_tokens_passed_it_by(kind):
    """To a token of its own, and not before: nor does a move count as being chosen."""
    module = kind(K, D, codebook_init="uniform", restart_after=100 / K)  # all near 0, and the tokens near 3
    z = tokens()
    variables = jax.jit(module.init)(jax.random.key(0), z)
    out, variables = trained(module, variables, z)
    used = np.unique(out.indices)
    idle = np.setdiff1d(np.arange(K), used)
    assert len(idle) >= K - 3
    before = np.asarray(module.apply(variables, method="codebook"))
    assert np.abs(before[idle]).max() < 1  # 64 tokens are too few
    out, variables = trained(module, variables, z, key=1)
    after = np.asarray(module.apply(variables, method="codebook"))
    gaps = np.abs(z[None] - after[idle][:, None]).sum(-1)
    assert np.all(gaps.min(1) < 1e-5) and len(set(gaps.argmin(1).tolist())) == len(idle)
    assert np.all(np.asarray(variables["codebook_stats"]["age"])[idle] >= NEVER)
    out = module.apply(variables, z)
    assert set(idle) <= set(np.unique(out.indices).tolist())
    np.testing.assert_array_equal(out.z_q, module.apply(variables, out.indices, method="lookup"))


def test_no_more_codes_are_moved_than_there_are_tokens():
    module = VQ(K, D, codebook_init="uniform", restart_after=3 / K)
    z = tokens(3)
    variables = jax.jit(module.init)(jax.random.key(0), z)
    _, variables = trained(module, variables, z)
    codes = np.asarray(module.apply(variables, method="codebook"))
    assert np.sum(np.abs(codes).max(1) > 1) == 3 and len(np.unique(codes, axis=0)) == K


def test_a_moved_code_of_vq_trains_from_its_new_place():
    module = VQ(K, D, codebook_init="uniform", restart_after=64 / K)
    z = tokens()
    _, variables = trained(module, jax.jit(module.init)(jax.random.key(0), z), z)
    grads = jax.grad(lambda params: module.apply({**variables, "params": params}, z).loss)(variables["params"])
    used = np.unique(module.apply(variables, z).indices)
    assert np.all(np.any(np.asarray(grads["codebook"])[used] != 0, axis=1))


def test_restarts_need_a_number_from_0_on():
    with pytest.raises(ValueError, match="restart_after is -1 but must be at least 0"):
        VQ(K, D, restart_after=-1).init(jax.random.key(0), tokens())
