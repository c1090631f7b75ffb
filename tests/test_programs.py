"""Programs of many shapes do not pile up, and give the same."""

import jax.numpy as jnp
import numpy as np

from simvq_jax import programs


def test_no_more_programs_are_kept_than_said(monkeypatch):
    monkeypatch.setattr(programs, "KEPT", 3)
    double = programs.ManyShapes(lambda by, x, y: by * x + jnp.sum(y))
    counts = []
    for n, kind in [(1, "f4"), (2, "f4"), (3, "f4"), (1, "f4"), (4, "f4"), (4, "f4"), (4, "u1"), (1, "f4"), (4, "f2")]:
        np.testing.assert_array_equal(double(2.0, np.ones(n, kind), np.ones((2, n), np.float32)), 2.0 + 2 * n)
        counts.append(double._function._cache_size())
    assert counts == [1, 2, 3, 3, 1, 1, 2, 3, 1]
