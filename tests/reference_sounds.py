"""The official speech tokenizer's reference weights in our networks."""

import detrand
import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.discriminators.waveform import SoundDiscriminator
from simvq_jax.models.seanet import SEANetEncoder
from simvq_jax.models.tokenizer import SoundAutoencoder
from simvq_jax.models.vocos import VocosDecoder
from simvq_jax.official import Link, Trees, counterpart, into_trees
from simvq_jax.quantize import SimVQ

CODEBOOK = "quantize.embedding.weight"


def official_autoencoder(**fields) -> SoundAutoencoder:
    """The small tokenizer of B_audio_small_keys.json; fields: of the decoder."""
    decoder = VocosDecoder(64, 160, 3, **fields)
    return SoundAutoencoder(SEANetEncoder(width=8, latent_channels=32), SimVQ(256, 32), decoder)


def official_links(part: str) -> list[Link]:
    """Every tensor of a part: "params", "codebook" or "discriminator"."""
    links = counterpart(official_autoencoder(), SoundDiscriminator()).links
    return [link for link in links if link.part == part]


def official_trees(described: dict, tag: str, *parts: str) -> Trees:
    """Reference weights of some parts: tag "B.main", or "B.ema" for the averaged ones (which share the frozen codes).

    described: the content of the *_keys.json.
    """

    def value(name: str) -> np.ndarray:
        shape = tuple(described["state_dict"][name][0])
        return detrand.weight_for_key("B.ema" if name == CODEBOOK else tag, name, shape, described["gains"])

    links = [link for part in parts for link in official_links(part)]
    return jax.tree.map(jnp.asarray, into_trees({link.official: value(link.official) for link in links}, links))


def official_variables(described: dict, tag: str) -> dict:
    """ "params" and "codebook" of the tokenizer."""
    trees = official_trees(described, tag, "params", "codebook")
    return {"params": trees.params, "codebook": trees.codebook}
