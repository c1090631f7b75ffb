"""Checkpoints of the official PyTorch code (youngsheen/SimVQ): names, layouts, and the architecture they are of."""

from simvq_jax.official.architecture import Architecture, architecture_of
from simvq_jax.official.links import Link, Trees, from_trees, into_trees, official_shapes
from simvq_jax.official.reading import Official, read_official
from simvq_jax.official.tokenizers import Counterpart, counterpart

__all__ = [
    "Architecture",
    "Counterpart",
    "Link",
    "Official",
    "Trees",
    "architecture_of",
    "counterpart",
    "from_trees",
    "into_trees",
    "official_shapes",
    "read_official",
]
