"""A trained tokenizer in the user's hands: `load`, and what it gives."""

from simvq_jax.api.base import Tokenizer
from simvq_jax.api.images import ImageTokenizer
from simvq_jax.api.loading import load
from simvq_jax.api.sounds import SoundTokenizer
from simvq_jax.api.stream import TokenStream

__all__ = ["ImageTokenizer", "SoundTokenizer", "TokenStream", "Tokenizer", "load"]
