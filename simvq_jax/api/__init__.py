"""A trained tokenizer in the user's hands: `load`, and what it gives."""

from simvq_jax.api.base import Tokenizer
from simvq_jax.api.images import ImageTokenizer
from simvq_jax.api.loading import Restored, load, restored_state
from simvq_jax.api.sounds import SoundTokenizer
from simvq_jax.api.stream import TokenStream

__all__ = ["ImageTokenizer", "Restored", "SoundTokenizer", "TokenStream", "Tokenizer", "load", "restored_state"]
