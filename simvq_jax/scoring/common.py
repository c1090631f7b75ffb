"""What pictures and sound are scored by alike."""

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.quantize.measures import count_codes


class Scored(NamedTuple):
    """figures: name -> (b,), "mask" among them; counts: a (K,) a stage, of tokens; latents: (b, ..., d) float32;
    reconstruction: like the input, clipped to [-1, 1]. features: of a Frechet distance by its name, (b, n) of the
    originals and of the reconstructions."""

    figures: dict[str, jax.Array]
    counts: list[jax.Array]
    latents: jax.Array
    reconstruction: jax.Array
    features: dict[str, tuple[jax.Array, jax.Array]]


class Scorer(abc.ABC):
    """Scores the reconstructions of one model, a batch at a time.

    counted: the name of what a figure is a mean over. may_lack: figures that some have none of, which are NaN there.
    for_batches: figures that serve `of_batches` alone.
    """

    counted: str
    may_lack: tuple[str, ...] = ()
    for_batches: tuple[str, ...] = ()

    def __init__(self, autoencoder):
        self.autoencoder = autoencoder

    @abc.abstractmethod
    def score(self, variables, batch) -> Scored:
        """Of a batch placed on the mesh."""

    @abc.abstractmethod
    def samples(self, batch, scored: Scored, rows):
        """Originals and reconstructions of those rows, as the report shows them."""

    @abc.abstractmethod
    def tokens(self, batch, scored: Scored) -> np.ndarray:
        """(n, d): the encoder outputs that count."""

    def on_host(self, batch, reconstruction) -> dict[str, np.ndarray]:
        """name -> (b,): what is computed outside of jax, of this process's rows."""
        del batch, reconstruction
        return {}

    def of_batches(self, figures: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """What is of whole batches, from each one's figures."""
        del figures
        return {}


def token_figures(out, mask) -> dict[str, jax.Array]:
    """Means over an item's tokens. mask: bool (b, ...), True where a token counts."""
    latents, z_q = out.latents.astype(jnp.float32), out.quantized.z_q.astype(jnp.float32)
    weight = mask / jnp.maximum(jnp.sum(mask, axis=tuple(range(1, mask.ndim)), keepdims=True), 1)
    over = tuple(range(1, mask.ndim))
    return {
        "commitment": jnp.sum(weight * jnp.mean((latents - z_q) ** 2, axis=-1), axis=over),
        "square_token_scale": jnp.sum(weight * jnp.sum(latents**2, axis=-1), axis=over),
    }


def count_stages(quantizer, indices, mask) -> list[jax.Array]:
    """Tokens of each code, a (K,) a stage. mask: bool (b, ...)."""
    sizes = quantizer.codebook_sizes
    by_stage = indices.reshape(*mask.shape, len(sizes))
    return [count_codes(by_stage[..., i], mask.astype(jnp.float32), size) for i, size in enumerate(sizes)]


def local(array) -> np.ndarray:
    """This process's rows of an array split over its rows, in order."""
    shards = {shard.index[0].start or 0: shard for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])
