"""Exact nearest-code search."""

from simvq_jax.search.nearest import nearest_allowed_code, nearest_code

__all__ = ["nearest_allowed_code", "nearest_code"]
