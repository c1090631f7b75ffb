"""The installed jax computes what it says; versions that do not are excluded in requirements.txt."""

import jax
import jax.numpy as jnp
import numpy as np


def test_sums_of_broadcast_products_are_right():
    """jax 0.10.2 on the CPU returned wrong sums for this shape (jax issue 39103 and its kin)."""
    rng = np.random.default_rng(0)
    u, c = rng.normal(size=(37, 8)).astype(np.float32), rng.normal(size=(64, 8)).astype(np.float32)
    ones = np.ones((1, 2, 1, 1), np.float32)
    got = jax.jit(lambda u, c: jnp.sum(u[:, None, None] * ones * c[None, None], axis=-1))(u, c)
    np.testing.assert_allclose(got, np.broadcast_to((u @ c.T)[:, None], got.shape), atol=1e-5)


def test_a_matrix_by_every_row_is_right():
    """The example of jax issue 39103."""
    x = np.zeros((32_769, 3), np.float32)
    x[:, 0] = np.arange(32_769)
    got = jax.jit(lambda x: jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x))(x)
    np.testing.assert_allclose(got, x[:, 0] ** 2, rtol=1e-6)
