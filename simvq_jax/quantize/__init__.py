"""Quantizers: linen modules with one contract (see base.py)."""

from simvq_jax.quantize.base import Affine, Quantized
from simvq_jax.quantize.simvq import SimVQ
from simvq_jax.quantize.vq import VQ

__all__ = ["VQ", "Affine", "Quantized", "SimVQ"]
