"""What several networks share."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from simvq_jax.models.layers import gelu


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)])
def test_gelu_is_exact(dtype, rtol):
    """In bfloat16 it is rounded once: 1 + erf, formed there, would be wrong by up to 4% at -2."""
    x = jnp.linspace(-4, 4, 801).astype(dtype)
    wide = np.asarray(x, np.float64)
    expected = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in wide])
    got = gelu(x)
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=rtol, atol=3e-7)
