"""Exact nearest-code search."""

from simvq_jax.search.nearest import nearest_allowed_code, nearest_code
from simvq_jax.search.placement import check_axes, codebook_shards
from simvq_jax.search.sharded import take_codes

__all__ = ["check_axes", "codebook_shards", "nearest_allowed_code", "nearest_code", "take_codes"]
