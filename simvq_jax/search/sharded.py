"""A codebook split over the devices of mesh axis "codebook": what they tell each other.

Each device searches its own codes. On the wire go two numbers a token to find the winner, and one row a token to read
its code; where the codebook fits on a device, keeping it whole there needs no word at all.
"""

import jax
import jax.numpy as jnp

from simvq_jax.search.placement import CODEBOOK_AXIS, check_divides, codebook_shards, over_shards

NO_CODE = jnp.iinfo(jnp.int32).max


def nearest_of_shards(indices, sq_distance, shard_size: int):
    """Combines each device's nearest code, under shard_map: the lowest index among the least distances.

    The distances are compared after re-ranking, so the answer is that of the undivided codebook.
    indices: int32 (N,) of the device's own codes, sq_distance: (N,); shard_size: codes a device has.
    """
    least = jax.lax.pmin(jnp.where(jnp.isnan(sq_distance), jnp.inf, sq_distance), CODEBOOK_AXIS)
    global_indices = indices + jax.lax.axis_index(CODEBOOK_AXIS) * shard_size
    winner = jax.lax.pmin(jnp.where(sq_distance == least, global_indices, NO_CODE), CODEBOOK_AXIS)
    not_finite = jnp.isnan(sq_distance)  # the token's, so on every device
    return jnp.where(not_finite, 0, winner), jnp.where(not_finite, jnp.nan, least)


def take_codes(codebook, indices):
    """Rows of a codebook that may be split over the mesh: (K, d), int (...) -> (..., d).

    Exact, for every row is the sum of one device's row and of zeros. Gradients reach the codebook.
    """
    if codebook_shards() == 1:
        return codebook[indices]
    check_divides(codebook.shape[0])

    def own_rows(indices, rows, _):
        local = indices - jax.lax.axis_index(CODEBOOK_AXIS) * rows.shape[0]
        mine = (local >= 0) & (local < rows.shape[0])
        found = jnp.where(mine[:, None], rows[jnp.where(mine, local, 0)], 0)
        return jax.lax.psum(found, CODEBOOK_AXIS)

    return over_shards(own_rows, indices.reshape(-1), codebook, ()).reshape(*indices.shape, codebook.shape[1])
