"""The official image tokenizer's reference weights in our networks, and back under their official names."""

import functools

import detrand
import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.discriminators.patch import PatchGAN
from simvq_jax.models.cnn import Decoder, Encoder
from simvq_jax.models.tokenizer import Autoencoder
from simvq_jax.official import Link, Trees, counterpart, from_trees, into_trees
from simvq_jax.quantize import SimVQ

# jit for programs that run once or twice, on which the compiler's usual effort would be most of a test's time.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)

CODEBOOK = "quantize.embedding.weight"


def official_links(described: dict) -> list[Link]:
    """Every tensor of the networks of a *_keys.json."""
    return counterpart(official_autoencoder(described), official_discriminator(described)).links


def network_names(described: dict) -> list[str]:
    """Their official names."""
    return [link.official for link in official_links(described)]


def official_variables(described: dict, tag: str) -> Trees:
    """The reference weights: tag "A.main", or "A.ema" for the averaged ones (which share the frozen codes)."""

    def value(name: str) -> np.ndarray:
        shape = tuple(described["state_dict"][name][0])
        return detrand.weight_for_key("A.ema" if name == CODEBOOK else tag, name, shape, described["gains"])

    links = official_links(described)
    return jax.tree.map(jnp.asarray, into_trees({link.official: value(link.official) for link in links}, links))


def by_official_name(described: dict, trees: Trees) -> dict[str, np.ndarray]:
    """Leaves of our trees under their official names and in official layout; empty trees are left out."""
    links = [link for link in official_links(described) if getattr(trees, link.part)]
    return from_trees(trees, links)


def official_autoencoder(described: dict, **fields) -> Autoencoder:
    """The tokenizer of a *_keys.json; fields: of encoder and decoder alike, as dtype or remat."""
    model, quantizer = described["ddconfig"], described["quantconfig"]
    shared = {
        "width": model["ch"],
        "multipliers": tuple(model["ch_mult"]),
        "residual_blocks": model["num_res_blocks"],
        **fields,
    }
    codes = SimVQ(quantizer["n_e"], quantizer["e_dim"], beta=quantizer["beta"], legacy=quantizer["legacy"])
    return Autoencoder(Encoder(latent_channels=model["z_channels"], **shared), codes, Decoder(**shared))


def official_discriminator(described: dict) -> PatchGAN:
    """The PatchGAN of a *_keys.json."""
    return PatchGAN(described["lossconfig"]["disc_ndf"])


def checks(value) -> np.ndarray:
    """What the reference files keep of a large tensor: [mean, deviation, l2 norm, first 8 values, zero padded]."""
    flat = np.asarray(value, np.float64).ravel()
    first = np.zeros(8)
    first[: flat.size] = flat[:8]
    return np.array([flat.mean(), flat.std(), np.linalg.norm(flat), *first])


def nhwc(pictures: np.ndarray) -> np.ndarray:
    """Official feature maps and pictures in our layout."""
    return pictures.transpose(0, 2, 3, 1)
