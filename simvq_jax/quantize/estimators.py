"""How the gradient passes the choice of a code, which has none: three estimators.

Each returns the code itself as forward value (not z + (q - z), which rounds) and passes a gradient to z alone.
z, q: (..., d), tokens and the codes chosen for them.
"""

import jax
import jax.numpy as jnp

ESTIMATORS = ("straight_through", "rotation", "dynamic")
SMALLEST_NORM = 1e-12  # of a vector whose direction is taken
SMALLEST_HALF = 1e-4  # of the sum of two directions that are not opposite


def estimate(kind: str, z, q, indices, weight, codebook_size: int):
    """The forward value q with the gradient that `kind` gives z. indices: int (...), weight: (...), 1 = counts.

    Raises ValueError for an unknown kind.
    """
    if kind == "straight_through":
        return straight_through(z, q)
    if kind == "rotation":
        return rotation(z, q)
    if kind == "dynamic":
        return dynamic(z, q, indices, weight, codebook_size)
    raise ValueError(f"estimator is {kind!r} but must be one of {', '.join(ESTIMATORS)}.")


def straight_through(z, q):
    """The gradient of q passed to z unchanged (van den Oord et al., 2017, 1711.00937)."""
    return jax.lax.stop_gradient(q) + (z - jax.lax.stop_gradient(z))


def rotation(z, q):
    """The gradient turned and scaled as z is to become q (Fifty et al., "rotation trick", 2024, 2410.06424, eq. 4).

    The map, held constant: z -> |q| / |z| (z - 2 r r^T z + 2 q^ z^^T z), r the direction halfway between those of z and
    q, z^ and q^ theirs. Where z or q is 0, or they point in opposite directions, the gradient passes unchanged.
    """
    constant = jax.lax.stop_gradient
    z_norm, q_norm = _norm(constant(z)), _norm(constant(q))
    z_way, q_way = constant(z) / jnp.maximum(z_norm, SMALLEST_NORM), constant(q) / jnp.maximum(q_norm, SMALLEST_NORM)
    half = z_way + q_way
    half_norm = _norm(half)
    half = half / jnp.maximum(half_norm, SMALLEST_NORM)
    turned = z - 2 * half * _dot(half, z) + 2 * q_way * _dot(z_way, z)
    turned = turned * (q_norm / jnp.maximum(z_norm, SMALLEST_NORM))
    defined = (jnp.minimum(z_norm, q_norm) > SMALLEST_NORM) & (half_norm > SMALLEST_HALF)
    passed = jnp.where(defined, turned, z)
    return constant(q) + (passed - constant(passed))


def dynamic(z, q, indices, weight, codebook_size: int):
    """The gradient scaled, token by token, by how near the token is to its code (StableVQ, 2609.26774).

    The scale is the least squared distance of the tokens with the same code in the batch, over the token's own: 1 for
    the nearest, less for the others, so that far tokens do not move by gradients that are not theirs.
    """
    distance = jax.lax.stop_gradient(jnp.sum((z - q) ** 2, axis=-1))
    counted = jnp.where(weight > 0, distance, jnp.inf).reshape(-1)
    least = jnp.full((codebook_size,), jnp.inf, z.dtype).at[indices.reshape(-1)].min(counted)[indices]
    scale = jnp.where(distance > least, least / jnp.where(distance > 0, distance, 1.0), 1.0)
    return jax.lax.stop_gradient(q) + scale[..., None] * (z - jax.lax.stop_gradient(z))


def _norm(x):
    return jnp.linalg.norm(x, axis=-1, keepdims=True)


def _dot(a, b):
    return jnp.sum(a * b, axis=-1, keepdims=True)
