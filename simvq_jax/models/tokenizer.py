"""Encoder, quantizer and decoder as one module: of pictures, and of sound."""

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from simvq_jax.dsp import before
from simvq_jax.models.conv1d import clear, shorter
from simvq_jax.quantize import Quantized
from simvq_jax.quantize.base import Quantizer


@flax.struct.dataclass
class Tokenized:
    """reconstruction: like the input, float32; latents: (..., d) encoder output; quantized; features: activations
    before the last layer of a decoder of pictures, else None."""

    reconstruction: jax.Array
    latents: jax.Array
    quantized: Quantized
    features: jax.Array | None


class Autoencoder(nn.Module):
    """A tokenizer of pictures: `decoder(quantizer(encoder(x)))`."""

    encoder: nn.Module  # `Encoder` or `ViTEncoder`
    quantizer: Quantizer
    decoder: nn.Module  # with `features`, and `to_pixels` by a layer `conv_out`

    def __call__(self, x, mask=None, train: bool = False) -> Tokenized:
        """x: (b, h, w, 3) in [-1, 1]; mask: bool over the tokens, or None."""
        latents = self.encoder(x)
        quantized = self.quantizer(latents, mask=mask, train=train)
        features = self.decoder.features(quantized.z_q)
        reconstruction = self.decoder.to_pixels(features).astype(jnp.float32)
        return Tokenized(reconstruction, latents, quantized, features)

    def encode(self, x):
        """x -> latents (..., d) and indices int32 (...)."""
        latents = self.encoder(x)
        return latents, self.quantizer(latents).indices

    def decode(self, indices):
        """indices int32 (...) -> reconstruction, float32. The codes are looked up with W applied."""
        z_q = self.quantizer.lookup(indices).astype(self.encoder.dtype or jnp.float32)
        return self.decoder(z_q).astype(jnp.float32)

    def codebook(self):
        """The effective codebook (K, d)."""
        return self.quantizer.codebook()


class SoundAutoencoder(Autoencoder):
    """A tokenizer of sound.

    encoder: `SEANetEncoder`; decoder: `VocosDecoder` or `SEANetDecoder`. In training a decoder with dropout needs
    `rngs={"dropout": key}`. lengths: int32 (b,), samples that count, or None for all; a batch of unequal lengths gives
    what its items give alone.
    """

    @property
    def hop(self) -> int:
        """Samples a token."""
        return math.prod(self.encoder.ratios)

    def __call__(self, x, mask=None, train: bool = False, lengths=None) -> Tokenized:
        """x: (b, samples) in [-1, 1]; mask: bool over the tokens, by default those of `lengths`."""
        tokens = shorter(lengths, self.hop)
        latents = self.encoder(x, lengths)
        if mask is None and tokens is not None:
            mask = before(tokens, latents.shape[1])
        quantized = self.quantizer(latents, mask=mask, train=train)
        sound = self.decoder(quantized.z_q, tokens, train)[:, : x.shape[1]]
        if lengths is not None:
            sound = jnp.where(before(lengths, x.shape[1]), sound, 0.0)
        return Tokenized(sound, latents, quantized, None)

    def encode(self, x, lengths=None):
        """x -> latents (b, tokens, d) and indices int32 (b, tokens)."""
        latents = self.encoder(x, lengths)
        return latents, self.quantizer(latents).indices

    def decode(self, indices, lengths=None):
        """indices int32 (b, tokens) -> sound float32 (b, hop * tokens); lengths: in tokens."""
        z_q = self.quantizer.lookup(indices).astype(self.encoder.dtype or jnp.float32)
        return self.decoder(clear(z_q, lengths), lengths)


def as_float(x):
    """What a tokenizer takes: uint8 -> float32 in [-1, 1]; floats pass."""
    return x.astype(jnp.float32) / 127.5 - 1.0 if x.dtype == jnp.uint8 else x.astype(jnp.float32)
