"""Encoder, quantizer and decoder as one module."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from simvq_jax.quantize import Quantized
from simvq_jax.quantize.base import Quantizer


@flax.struct.dataclass
class Tokenized:
    """reconstruction: like the input, float32; latents: (..., d) encoder output; quantized; features: decoder
    activations before its last layer."""

    reconstruction: jax.Array
    latents: jax.Array
    quantized: Quantized
    features: jax.Array


class Autoencoder(nn.Module):
    """A tokenizer's network: `decoder(quantizer(encoder(x)))`."""

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
