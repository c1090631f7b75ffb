"""The estimators: the code itself as forward value, and the gradients that their papers define."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simvq_jax.quantize import VQ, SimVQ
from simvq_jax.quantize.estimators import ESTIMATORS, dynamic, estimate, rotation, straight_through

N, D, K = 12, 5, 3


def problem(seed=0):
    """Tokens, their codes, indices and a cotangent."""
    rng = np.random.default_rng(seed)
    z, codes, cotangent = (rng.normal(size=size).astype(np.float32) for size in ((N, D), (K, D), (N, D)))
    indices = rng.integers(0, K, N).astype(np.int32)
    return z, codes[indices], indices, cotangent


def pulled(estimator, z, q, cotangent):
    """Forward value, and what of the cotangent reaches tokens and codes."""
    value, pull = jax.vjp(jax.jit(estimator), z, q)
    return value, *pull(cotangent)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_value_is_the_code_and_the_codes_get_no_gradient(kind):
    z, q, indices, cotangent = problem()
    weight = np.ones(N, np.float32)
    value, _, to_codes = pulled(lambda z, q: estimate(kind, z, q, indices, weight, K), z, q, cotangent)
    np.testing.assert_array_equal(value, q)
    assert not np.any(to_codes)


def test_straight_through_passes_the_gradient_unchanged():
    z, q, _, cotangent = problem()
    _, to_tokens, _ = pulled(straight_through, z, q, cotangent)
    np.testing.assert_array_equal(to_tokens, cotangent)


def test_rotation_turns_the_token_into_its_code():
    """Its linear map, applied to the token, gives the code; it is a rotation times |q| / |z|."""
    z, q, _, _ = problem()
    for token, code in zip(z, q, strict=True):
        value, pull = jax.vjp(lambda z, q=code: rotation(z, q), token)
        transposed = np.stack([pull(row)[0] for row in np.eye(D, dtype=np.float32)])  # rows: of the map
        np.testing.assert_allclose(transposed @ token, value, rtol=1e-4, atol=1e-5)
        ratio = (code @ code) / (token @ token)
        np.testing.assert_allclose(transposed @ transposed.T, ratio * np.eye(D), rtol=1e-4, atol=1e-4 * ratio)
        # In the plane that token and code span, and nothing beside it.
        normal = np.linalg.svd(np.stack([token, code]))[2][2:]
        np.testing.assert_allclose(normal @ transposed.T, np.sqrt(ratio) * normal, atol=1e-4 * max(ratio, 1))


@pytest.mark.parametrize(
    ("token", "code"),
    [([0.0, 0, 0], [1, 2, 3]), ([1.0, 2, 3], [0, 0, 0]), ([1.0, 2, 3], [-2, -4, -6]), ([0.0, 0, 0], [0, 0, 0])],
)
def test_rotation_passes_unchanged_where_there_is_none(token, code):
    token, code, cotangent = (np.asarray(a, np.float32) for a in (token, code, [3, -1, 2]))
    value, to_token, _ = pulled(rotation, token, code, cotangent)
    np.testing.assert_array_equal(value, code)
    np.testing.assert_allclose(to_token, cotangent, rtol=1e-6)


def test_dynamic_scales_by_the_least_distance_of_the_code_s_tokens():
    z, q, indices, cotangent = problem()
    weight = np.ones(N, np.float32)
    weight[4] = 0  # its distance counts for no other
    _, to_tokens, _ = pulled(lambda z, q: dynamic(z, q, indices, weight, K), z, q, cotangent)
    distance = ((z - q) ** 2).sum(1)
    for n in np.flatnonzero(weight):
        least = distance[(indices == indices[n]) & (weight > 0)].min()
        np.testing.assert_allclose(to_tokens[n], cotangent[n] * least / distance[n], rtol=1e-5)


def test_dynamic_with_tokens_on_their_codes():
    """A token on its code keeps its whole gradient, and the others of that code have none."""
    z = np.float32([[1, 0], [2, 0], [5, 5]])
    q, indices = np.float32([[1, 0], [1, 0], [5, 5]]), np.int32([0, 0, 1])
    cotangent = np.float32([[1, 2], [3, 4], [5, 6]])
    _, to_tokens, _ = pulled(lambda z, q: dynamic(z, q, indices, jnp.ones(3), 2), z, q, cotangent)
    np.testing.assert_array_equal(to_tokens, [[1, 2], [0, 0], [5, 6]])


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_quantizer_takes_its_estimator(kind):
    module = VQ(8, 4, codebook_init="normal", estimator=kind)
    z = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    variables = module.init(jax.random.key(0), z)
    value, pull = jax.vjp(lambda z: module.apply(variables, z).z_q, z)
    out = module.apply(variables, z)
    expected = jax.vjp(lambda z: estimate(kind, z, out.z_q, out.indices, jnp.ones(6), 8), z)[1](np.ones_like(z))
    np.testing.assert_array_equal(value, module.apply(variables, out.indices, method="lookup"))
    np.testing.assert_allclose(pull(np.ones_like(z))[0], expected[0], rtol=1e-5)


def test_an_unknown_estimator():
    with pytest.raises(ValueError, match=r"'rotate' but must be one of straight_through, rotation, dynamic"):
        SimVQ(8, 4, estimator="rotate").init(jax.random.key(0), jnp.zeros((2, 4)))
