"""EMAVQ's codes are running means of their tokens; FactorizedVQ compares directions in a small space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from simvq_jax.mesh import make_mesh
from simvq_jax.quantize import EMAVQ, FactorizedVQ

K, D = 8, 4


def tokens(n=40, seed=0):
    return np.random.default_rng(seed).standard_normal((n, D), np.float32)


def made(**fields):
    module = EMAVQ(K, D, **fields)
    return module, jax.jit(module.init)(jax.random.key(0), tokens())


def trained(module, variables, z, mask=None, key=0):
    rngs = {"quantizer": jax.random.key(key)}
    out, changed = jax.jit(module.apply, static_argnames=("train", "mutable"))(
        variables, z, mask, train=True, mutable=("codebook_stats",), rngs=rngs
    )
    return out, {**variables, **changed}


def test_a_code_is_the_discounted_mean_of_its_tokens():
    module, variables = made(decay=0.9, smoothing=1e-9)
    start = np.asarray(variables["codebook_stats"]["codebook"], np.float64)
    sums, sizes = start.copy(), np.ones(K)
    for seed in range(3):
        z = tokens(seed=seed)
        out, variables = trained(module, variables, z)
        for k in range(K):
            mine = z[np.asarray(out.indices) == k]
            sums[k], sizes[k] = 0.9 * sums[k] + 0.1 * mine.sum(0), 0.9 * sizes[k] + 0.1 * len(mine)
        np.testing.assert_allclose(variables["codebook_stats"]["codebook"], sums / sizes[:, None], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(module.apply(variables, method="codebook"), variables["codebook_stats"]["codebook"])


@pytest.mark.parametrize("codebook_init", ["normal", "kmeans"])
def test_variables_made_without_jit_can_be_donated(codebook_init):
    module = EMAVQ(K, D, codebook_init=codebook_init)
    variables = module.init(jax.random.key(0), tokens())
    moved = jax.jit(lambda v: jax.tree.map(lambda a: a + 1, v), donate_argnums=0)(variables)
    assert np.all(np.isfinite(moved["codebook_stats"]["sums"]))


def test_only_the_commitment_has_a_gradient():
    module, variables = made()
    assert "params" not in variables
    z = tokens()
    gradient = jax.grad(lambda z: module.apply(variables, z).loss)(z)
    gap = z - np.asarray(module.apply(variables, z).z_q)
    np.testing.assert_allclose(gradient, 0.25 * 2 * gap / z.size, rtol=1e-4, atol=1e-8)


def test_masked_tokens_move_no_code():
    module, variables = made()
    z = tokens()
    _, masked = trained(module, variables, z, np.arange(40) < 25)
    _, alone = trained(module, variables, z[:25])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), masked, alone)


def test_codes_passed_by_restart_at_tokens_of_the_batch():
    module, variables = made(restart_after=30 / K)
    far = variables["codebook_stats"]["codebook"].at[:4].add(100.0)  # four codes that no token chooses
    variables["codebook_stats"] |= {"codebook": far, "sums": far, "age": jnp.zeros(K, jnp.int32)}
    variables["codebook_stats"] |= {"waiting": jnp.full(K, 3)}
    z = tokens()
    mask = np.arange(40) < 35
    out, after = trained(module, variables, z, mask)
    rows = np.asarray(after["codebook_stats"]["codebook"])
    for row in rows[:4]:
        assert (np.abs(z[:35] - row).max(1) < 1e-6).any()
    np.testing.assert_array_equal(after["codebook_stats"]["age"][:4], 35)  # moved, but chosen by no token
    np.testing.assert_array_equal(after["codebook_stats"]["waiting"][:4], 0)
    assert not np.isin(np.asarray(out.indices), [0, 1, 2, 3]).any()
    _, never = trained(*made()[:1], variables, z, mask)
    np.testing.assert_allclose(never["codebook_stats"]["codebook"][:4], far[:4], rtol=1e-4)


def test_sums_are_over_all_devices():
    module, variables = made()
    z = tokens(64)
    _, alone = trained(module, variables, z)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        split = jax.device_put(z, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
        _, shared = trained(module, variables, split)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), shared, alone)


def test_directions_alone_are_compared():
    module = FactorizedVQ(K, D, code_dim=3)
    z = tokens()
    variables = jax.jit(module.init)(jax.random.key(0), z)
    assert variables["params"]["codebook"].shape == (K, 3)
    out = module.apply(variables, z)
    projection = jax.tree.map(np.asarray, variables["params"]["project_in"])
    inner = z @ projection["kernel"] + projection["bias"]
    inner /= np.linalg.norm(inner, axis=1, keepdims=True)
    codes = np.asarray(variables["params"]["codebook"])
    codes = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    np.testing.assert_array_equal(out.indices, (inner @ codes.T).argmax(1))
    expected = ((inner - codes[np.asarray(out.indices)]) ** 2).mean()
    np.testing.assert_allclose(out.loss, 1.25 * expected, rtol=1e-4)
    np.testing.assert_allclose(out.z_q, module.apply(variables, out.indices, method="lookup"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(module.apply(variables, method="codebook")[out.indices], out.z_q, rtol=1e-5, atol=1e-6)
    grads = jax.grad(lambda params: module.apply({"params": params}, z).loss)(variables["params"])
    assert np.any(grads["codebook"]) and np.any(grads["project_in"]["kernel"])


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (EMAVQ(K, D, decay=1.0), r"decay is 1.0 but must lie in \[0, 1\)"),
        (EMAVQ(K, D, smoothing=0.0), "smoothing is 0.0 but must be above 0 and finite"),
        (EMAVQ(K, D, restart_after=-1), "restart_after is -1 but must be at least 0"),
        (EMAVQ(K, D, codebook_init="zero"), "codebook_init is 'zero'"),
        (FactorizedVQ(K, D, code_dim=0), "code_dim is 0 but must be at least 1"),
    ],
)
def test_fields_that_cannot_be(module, sentence):
    with pytest.raises(ValueError, match=sentence):
        module.init(jax.random.key(0), tokens())
