"""What tokenizers of pictures and of sound have in common."""

import abc
import hashlib
from typing import Any

import jax
import ml_collections
import numpy as np

from simvq_jax.models.tokenizer import Autoencoder


class Tokenizer(abc.ABC):
    """Pictures or sound to indices and back; see `ImageTokenizer` and `SoundTokenizer`.

    Attributes:
        autoencoder: the linen module. variables: its weights, as `inference_variables` (EMA of the parameters).
        config: the resolved config. step: training step of the weights.
    """

    def __init__(self, autoencoder: Autoencoder, variables: Any, config: ml_collections.ConfigDict, step: int):
        self.autoencoder = autoencoder
        self.variables = variables
        self.config = config
        self.step = step

    @abc.abstractmethod
    def latents(self, x) -> jax.Array:
        """Encoder output: (..., d), float32 or what the model computes in."""

    @abc.abstractmethod
    def encode(self, x) -> jax.Array:
        """Indices: int32 (...)."""

    @abc.abstractmethod
    def decode(self, indices) -> jax.Array:
        """Indices -> pictures or sound, float32, as the decoder gives them: values may lie outside of [-1, 1]."""

    @abc.abstractmethod
    def reconstruct(self, x) -> jax.Array:
        """What is decoded of x's indices, of x's size: `decode(encode(x))`."""

    def codebook(self) -> Any:
        """The effective codebook Q = C W + b: (K, d) float32; of a compound quantizer a tuple, one a stage."""
        return self.autoencoder.apply(self.variables, method="codebook")

    def need_decoder(self) -> None:
        """Raises ValueError where the decoder's weights were not loaded."""
        if "decoder" not in self.variables["params"]:
            raise ValueError("this tokenizer was loaded with decoder=False and only encodes: load it with its decoder.")

    def fingerprint(self, decoder: bool = False) -> str:
        """SHA-256 of the names, types, shapes and bytes of the weights that encode; decoder: of the decoder's too."""
        digest = hashlib.sha256()
        params = {name: part for name, part in self.variables["params"].items() if decoder or name != "decoder"}
        leaves = jax.tree_util.tree_leaves_with_path({**self.variables, "params": params})
        for path, leaf in leaves:
            array = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def checked_indices(self, indices, axes: tuple[str, ...], lowest: int = 0):
        """Indices as int32. axes: what an index is of, as ("b", "h", "w"); stages come behind them.

        Raises ValueError on another shape, and on anything but whole numbers in [lowest, K), of which under jit only
        the type can be looked at.
        """
        traced = isinstance(indices, jax.core.Tracer)
        indices = indices if traced else np.asarray(indices)
        size, stages = self.config.quantizer.codebook_size, self.config.quantizer.stages
        last = () if stages == 1 else (stages,)
        wanted = ", ".join([*axes, *map(str, last)])
        right = indices.ndim == len(axes) + len(last) and indices.shape[len(axes) :] == last
        if not right or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(f"indices are {indices.dtype} {indices.shape} but must be whole numbers ({wanted}).")
        if not traced and indices.size and not lowest <= indices.min() <= indices.max() < size:
            raise ValueError(
                f"indices lie in [{indices.min()}, {indices.max()}] but the codebook has {size} codes:"
                f" give values in [0, {size - 1}]."
            )
        return indices.astype(np.int32)
