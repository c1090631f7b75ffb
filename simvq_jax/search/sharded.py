"""A codebook split over the devices of mesh axis "codebook": what they tell each other.

Each device searches its own codes. On the wire go two numbers a token to find the winner, and one row a token to read
its code, and of codes that are compared with tokens as they lie (no transform, or one that is folded) a few rows,
however many tokens there are; where the codebook fits on a device, keeping it whole there needs no word at all.
"""

import jax
import jax.numpy as jnp

from simvq_jax.search.placement import CODEBOOK_AXIS, check_axes, check_divides, codebook_shards, over_shards
from simvq_jax.search.rerank import NO_CODE, Found


def nearest_of_shards(found: Found, shard_size: int) -> Found:
    """Combines each device's nearest code, under shard_map: the lowest index among the least in order.

    The order is compared after re-ranking, so the answer is that of the undivided codebook. shard_size: codes a device
    has.
    """
    not_finite = jnp.isnan(found.order)  # the token's, so on every device
    least = jax.lax.pmin(jnp.where(not_finite, jnp.inf, found.order), CODEBOOK_AXIS)
    global_indices = found.indices + jax.lax.axis_index(CODEBOOK_AXIS) * shard_size
    winner = jax.lax.pmin(jnp.where(found.order == least, global_indices, NO_CODE), CODEBOOK_AXIS)
    return found._replace(indices=jnp.where(not_finite, 0, winner), order=jnp.where(not_finite, jnp.nan, least))


def take_codes(codebook, indices):
    """Rows of a codebook that may be split over the mesh: (K, d), int (...) -> (..., d).

    Exact, for every row is the sum of one device's row and of zeros. Gradients reach the codebook.
    """
    check_axes(codebook, indices)
    if codebook_shards() == 1:
        return codebook[indices]
    check_divides(codebook.shape[0])

    found = over_shards(lambda indices, rows, _: _rows_of_shards(rows, indices), indices.reshape(-1), codebook, ())
    return found.reshape(*indices.shape, codebook.shape[1])


def some_codes(rows, shards: int, count: int):
    """About `count` codes from all over the codebook, the same on every device: under shard_map (k, d) -> (n, d)."""
    k = rows.shape[0] * shards
    indices = jnp.arange(0, k, max(k // count, 1), dtype=jnp.int32)
    return rows[indices] if shards == 1 else _rows_of_shards(rows, indices)


def _rows_of_shards(rows, indices):
    """Under shard_map, codes of the whole codebook: (k, d) of the device's own, int (n,) -> (n, d)."""
    local = indices - jax.lax.axis_index(CODEBOOK_AXIS) * rows.shape[0]
    mine = (local >= 0) & (local < rows.shape[0])
    found = jnp.where(mine[:, None], rows[jnp.where(mine, local, 0)], 0)
    return jax.lax.psum(found, CODEBOOK_AXIS)
