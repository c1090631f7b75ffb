"""Quantizers: linen modules with one contract (see base.py)."""

from simvq_jax.quantize.affine import Affine
from simvq_jax.quantize.base import Quantized, Quantizer
from simvq_jax.quantize.compound import ProductQuantizer, ResidualQuantizer
from simvq_jax.quantize.moments import MomentVQ
from simvq_jax.quantize.scalar import FSQ, LFQ
from simvq_jax.quantize.simvq import SimVQ
from simvq_jax.quantize.vq import EMAVQ, VQ, FactorizedVQ

__all__ = [
    "EMAVQ",
    "FSQ",
    "LFQ",
    "VQ",
    "Affine",
    "FactorizedVQ",
    "MomentVQ",
    "ProductQuantizer",
    "Quantized",
    "Quantizer",
    "ResidualQuantizer",
    "SimVQ",
]
