"""Random search problems, and their distances in float64."""

import numpy as np


def random_problem(seed, n, k, d, d_basis=None):
    """Tokens, codes and transform; numpy float32."""
    rng = np.random.default_rng(seed)
    d_basis = d_basis or d
    z = rng.normal(size=(n, d)).astype(np.float32)
    codebook = (rng.normal(size=(k, d_basis)) * d_basis**-0.5).astype(np.float32)
    weight = (rng.normal(size=(d_basis, d)) * 0.5).astype(np.float32)
    bias = rng.normal(size=(d,)).astype(np.float32)
    return z, codebook, (weight, bias)


def brute_force(z, codebook, transform=None):
    """Squared distances in float64: (N, K)."""
    q = codebook.astype(np.float64)
    if transform is not None:
        q = q @ transform[0].astype(np.float64) + transform[1].astype(np.float64)
    return np.stack([((token - q) ** 2).sum(-1) for token in z.astype(np.float64)])
