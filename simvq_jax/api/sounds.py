"""A trained tokenizer of sound."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from simvq_jax.api.base import Tokenizer
from simvq_jax.api.stream import TokenStream
from simvq_jax.build import samples_a_token
from simvq_jax.data.sounds import check_level
from simvq_jax.models.tokenizer import SoundAutoencoder
from simvq_jax.programs import ManyShapes

NO_TOKEN = -1  # behind an item's last token
SMALLEST = 64  # tokens that a program is compiled for; others are for 2, 4, 8, ... times as many


class SoundTokenizer(Tokenizer):
    """Sound to indices and back.

    Sound is (b, samples), float in [-1, 1], at `sample_rate` samples a second; indices int32 (b, tokens), with a last
    axis of stages if the quantizer is compound. A token stands for `hop` samples; the last one may stand for fewer.

    Where items end before the array does, `lengths` (b,) tells their samples: their tokens are those that they have
    alone, and -1 behind them.
    """

    autoencoder: SoundAutoencoder

    def __init__(self, autoencoder: SoundAutoencoder, variables: Any, config: ml_collections.ConfigDict, step: int):
        super().__init__(autoencoder, variables, config, step)
        self.hop, self.sample_rate = samples_a_token(config), config.data.sample_rate
        self._encode = ManyShapes(lambda variables, x, n: autoencoder.apply(variables, x, n, method="encode"))
        self._decode = ManyShapes(lambda variables, i, n: autoencoder.apply(variables, i, n, method="decode"))

    def latents(self, x, lengths=None, *, sample_rate: int | None = None) -> jax.Array:
        """Encoder output: (b, tokens, d), 0 where an item has no token. Arguments as of `encode`."""
        return self._encoded(x, lengths, sample_rate)[0]

    def encode(self, x, lengths=None, *, sample_rate: int | None = None) -> jax.Array:
        """Indices: int32 (b, ceil(samples / hop)).

        sample_rate: of x, to have it checked. Raises ValueError on another rate than the model's, on anything but
        finite floats, on no samples, and on lengths outside of 1 .. samples.
        """
        _, indices, counts = self._encoded(x, lengths, sample_rate)
        return jnp.where(counts.reshape(*counts.shape, *(1,) * (indices.ndim - 2)), indices, NO_TOKEN)

    def decode(self, indices) -> jax.Array:
        """Indices (b, tokens) -> sound (b, hop * tokens) float32, as the decoder gives it, 0 where there is no token.

        Raises ValueError on anything but whole numbers in [0, K), and -1 behind an item's last token.
        """
        self.need_decoder()
        indices = self.checked_indices(indices, ("b", "tokens"), lowest=NO_TOKEN)
        given = indices.reshape(*indices.shape[:2], -1) != NO_TOKEN
        counts = given.any(axis=-1)
        if (counts != given.all(axis=-1)).any():
            raise ValueError("a token is -1 in some stages but not in others: it has an index of every stage, or none.")
        tokens = counts.sum(axis=1)
        if (counts != (np.arange(indices.shape[1])[None] < tokens[:, None])).any() or tokens.min(initial=1) < 1:
            raise ValueError("indices are -1 before an item's last token: -1 may only stand behind the tokens.")
        filled = _filled_up(np.maximum(indices, 0), SMALLEST)
        sound = self._decode(self.variables, filled, tokens.astype(np.int32))
        return sound[:, : self.hop * indices.shape[1]]

    def reconstruct(self, x, lengths=None, *, sample_rate: int | None = None) -> jax.Array:
        """Sound of any length -> its reconstruction, as long, float32. Arguments as of `encode`."""
        x, lengths = self._checked(x, lengths, sample_rate)
        sound = self.decode(self.encode(x, lengths))[:, : x.shape[1]]
        return jnp.where(jnp.arange(x.shape[1])[None] < lengths[:, None], sound, 0.0)

    def stream(self, block: int = 16, *, sample_rate: int | None = None) -> TokenStream:
        """Tokens of one sound that comes in chunks: those of the whole, in bounded memory.

        block: tokens that are computed at once; fewer answer sooner, more cost less. sample_rate: of the chunks, if it
        is to be checked. Raises ValueError if the encoder is not causal, or on another rate than that trained at.
        """
        self._check_rate(sample_rate)
        return TokenStream(self.autoencoder, self.variables, block)

    def _encoded(self, x, lengths, sample_rate):
        """Latents, indices, and which of them count: bool (b, tokens)."""
        x, lengths = self._checked(x, lengths, sample_rate)
        tokens = -(-x.shape[1] // self.hop)
        latents, indices = self._encode(self.variables, _filled_up(x, SMALLEST * self.hop), lengths)
        counts = np.arange(tokens)[None] < -(-lengths // self.hop)[:, None]
        return latents[:, :tokens], indices[:, :tokens], counts

    def _check_rate(self, sample_rate: int | None) -> None:
        if sample_rate is not None and sample_rate != self.sample_rate:
            raise ValueError(
                f"the sound has {sample_rate} samples a second but this tokenizer was trained at {self.sample_rate}:"
                " resample it."
            )

    def _checked(self, x, lengths, sample_rate) -> tuple[np.ndarray, np.ndarray]:
        x = np.asarray(x)
        self._check_rate(sample_rate)
        if x.ndim != 2 or 0 in x.shape:
            raise ValueError(f"sound has shape {x.shape} but must be (batch, samples), neither of them 0.")
        if not np.issubdtype(x.dtype, np.floating):
            raise ValueError(f"sound is {x.dtype} but must be floats in [-1, 1].")
        if not np.isfinite(x).all():
            raise ValueError("sound has samples that are not finite: mend or remove them.")
        check_level(x, "sound")
        lengths = np.full((len(x),), x.shape[1]) if lengths is None else np.asarray(lengths)
        if lengths.shape != (len(x),) or not np.issubdtype(lengths.dtype, np.integer):
            raise ValueError(f"lengths are {lengths.dtype} {lengths.shape} but must be whole numbers ({len(x)},).")
        if not 1 <= lengths.min() <= lengths.max() <= x.shape[1]:
            raise ValueError(
                f"lengths lie in [{lengths.min()}, {lengths.max()}] but must lie in [1, {x.shape[1]}], the samples."
            )
        return x.astype(np.float32), lengths.astype(np.int32)


def filled_size(length: int, smallest: int) -> int:
    """The first of 1, 2, 4, ... times `smallest` that is no less: a program is compiled for each."""
    size = smallest
    while size < length:
        size *= 2
    return size


def _filled_up(x: np.ndarray, smallest: int) -> np.ndarray:
    """x with zeros behind axis 1."""
    size = filled_size(x.shape[1], smallest)
    return np.pad(x, [(0, 0), (0, size - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])
