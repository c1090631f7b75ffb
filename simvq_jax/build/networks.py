"""From a config to the networks of both players, and what they take and give."""

import math

import jax.numpy as jnp

from simvq_jax.build.choice import one_of
from simvq_jax.build.quantizers import build_quantizer
from simvq_jax.discriminators.patch import PatchGAN
from simvq_jax.discriminators.waveform import SoundDiscriminator
from simvq_jax.game import Networks
from simvq_jax.models.cnn import Decoder, Encoder
from simvq_jax.models.seanet import SEANetDecoder, SEANetEncoder
from simvq_jax.models.tokenizer import Autoencoder, SoundAutoencoder
from simvq_jax.models.vit import ViTDecoder, ViTEncoder
from simvq_jax.models.vocos import VocosDecoder

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
OF_SOUND = ("seanet_vocos", "seanet")  # kinds of models; all others are of pictures


def compute_dtype(config):
    """The dtype that `dtype` names."""
    return DTYPES[one_of("dtype", config.dtype, DTYPES)]


def of_sound(config) -> bool:
    """Whether the model is of sound; else it is of pictures."""
    return one_of("model.kind", config.model.kind, MODELS) in OF_SOUND


def check_of_kind(config, name: str, *, sound: bool) -> None:
    """Raises ValueError if a flag is of sound and the config's model of pictures, or the other way round."""
    if sound != of_sound(config):
        kinds = ("pictures", "sound") if sound else ("sound", "pictures")
        raise ValueError(f"the run is a tokenizer of {kinds[0]} but {name} is of {kinds[1]}: leave it out.")


def pixels_a_token(config) -> int:
    """f, the pixels a side of a token of pictures."""
    model = config.model
    return model.patch if model.kind == "vit" else 2 ** (len(model.multipliers) - 1)


def samples_a_token(config) -> int:
    """The hop of a model of sound."""
    return math.prod(config.model.ratios)


def example_shape(config) -> tuple[int, ...]:
    """Of what training takes: (size, size, 3), or (samples,)."""
    data = config.data
    return (round(data.clip_seconds * data.sample_rate),) if of_sound(config) else (data.size, data.size, 3)


def tokens_an_example(config) -> int:
    """Tokens of what training takes."""
    if of_sound(config):
        return -(-example_shape(config)[0] // samples_a_token(config))
    return (config.data.size // pixels_a_token(config)) ** 2


def build_autoencoder(config) -> Autoencoder:
    """The tokenizer's network. Raises ValueError on values that cannot be."""
    dtype = compute_dtype(config)
    kind = one_of("model.kind", config.model.kind, MODELS)
    encoder, decoder = MODELS[kind](config.model, config.quantizer.dim, dtype)
    module = SoundAutoencoder if of_sound(config) else Autoencoder
    return module(encoder, build_quantizer(config, dtype), decoder)


def _cnn(model, dim: int, dtype):
    fields = {
        "width": model.width,
        "multipliers": tuple(model.multipliers),
        "residual_blocks": model.residual_blocks,
        "norm_groups": model.norm_groups,
        "remat": model.remat,
        "dtype": dtype,
    }
    return Encoder(latent_channels=dim, **fields), Decoder(**fields)


def _vit(model, dim: int, dtype):
    fields = {
        "patch": model.patch,
        "width": model.width,
        "depth": model.depth,
        "heads": model.heads,
        "remat": model.remat,
        "dtype": dtype,
    }
    return ViTEncoder(latent_channels=dim, **fields), ViTDecoder(**fields)


def _seanet_fields(model, dtype):
    return {
        "width": model.width,
        "ratios": tuple(model.ratios),
        "residual_blocks": model.residual_blocks,
        "lstm_layers": model.lstm_layers,
        "causal": model.causal,
        "dtype": dtype,
    }


def _seanet(model, dim: int, dtype):
    fields = _seanet_fields(model, dtype)
    return SEANetEncoder(latent_channels=dim, **fields), SEANetDecoder(**fields)


def _seanet_vocos(model, dim: int, dtype):
    encoder = SEANetEncoder(latent_channels=dim, **_seanet_fields(model, dtype))
    hop = math.prod(model.ratios)
    decoder = VocosDecoder(
        model.decoder_width, model.decoder_hidden, model.decoder_depth, hop, 4 * hop, model.dropout, dtype
    )
    return encoder, decoder


MODELS = {"cnn": _cnn, "vit": _vit, "seanet_vocos": _seanet_vocos, "seanet": _seanet}


def build_networks(config) -> Networks:
    """Autoencoder, and where the config enables it PatchGAN, or the discriminators of sound."""
    if not config.discriminator.enabled:
        return Networks(build_autoencoder(config), None)
    build = _sound_discriminator if of_sound(config) else _patch_gan
    return Networks(build_autoencoder(config), build(config.discriminator, compute_dtype(config)))


def _patch_gan(adversary, dtype):
    return PatchGAN(adversary.width, adversary.layers, dtype)


def _sound_discriminator(adversary, dtype):
    resolutions = tuple((n_fft, n_fft // 4) for n_fft in adversary.resolutions)
    return SoundDiscriminator(
        tuple(adversary.periods), resolutions, tuple(adversary.band_sizes), adversary.share, dtype
    )
