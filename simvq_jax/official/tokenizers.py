"""Which of the official tokenizers a tokenizer of ours is."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn

from simvq_jax.discriminators.patch import PatchGAN
from simvq_jax.discriminators.waveform import SoundDiscriminator
from simvq_jax.models.cnn import Decoder, Encoder
from simvq_jax.models.seanet import SEANetEncoder
from simvq_jax.models.tokenizer import Autoencoder
from simvq_jax.models.vocos import VocosDecoder
from simvq_jax.official import pictures, sounds
from simvq_jax.official.links import Link
from simvq_jax.quantize import SimVQ


class Counterpart(NamedTuple):
    """links: every tensor by its official name. left_out: pattern of other official names -> why they have no link."""

    links: list[Link]
    left_out: Mapping[str, str]


def counterpart(autoencoder: Autoencoder, discriminator: nn.Module | None) -> Counterpart:
    """The official tokenizer with these networks; without a discriminator its names are left out.

    Raises ValueError where there is none.
    """
    encoder, decoder, quantizer = autoencoder.encoder, autoencoder.decoder, autoencoder.quantizer
    if not isinstance(quantizer, SimVQ) or quantizer.hidden or quantizer.trainable_basis:
        raise ValueError(
            f"the quantizer is {quantizer.__class__.__name__}, or a SimVQ with a hidden layer or a trained basis, but"
            " the official tokenizers have a SimVQ with one linear layer over a basis without gradient: only such runs"
            " convert."
        )
    absent = {r"loss\..*": "discriminators, which the config leaves out"} if discriminator is None else {}
    if isinstance(encoder, Encoder) and isinstance(decoder, Decoder):
        assert discriminator is None or isinstance(discriminator, PatchGAN)
        links = pictures.picture_links(encoder, decoder, quantizer.use_bias, discriminator)
        return Counterpart(links, pictures.LEFT_OUT | absent)
    if isinstance(encoder, SEANetEncoder) and isinstance(decoder, VocosDecoder):
        assert discriminator is None or isinstance(discriminator, SoundDiscriminator)
        links = sounds.sound_links(encoder, decoder, quantizer.use_bias, discriminator)
        return Counterpart(links, sounds.LEFT_OUT | absent)
    raise ValueError(
        f"encoder and decoder are {encoder.__class__.__name__} and {decoder.__class__.__name__} but the official"
        " tokenizers are of model.kind cnn or seanet_vocos: only such runs convert."
    )
