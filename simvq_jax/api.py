"""A trained tokenizer in the user's hands: `load` and `Tokenizer`."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from simvq_jax.build import (
    build_networks,
    build_optimizers,
    build_state,
    pixels_a_token,
    read_config,
    seeded_codebook,
)
from simvq_jax.checkpoint import Checkpointer
from simvq_jax.models.tokenizer import Autoencoder
from simvq_jax.state import inference_variables
from simvq_jax.step import as_float


class Tokenizer:
    """Images to indices and back.

    Images are (b, h, w, 3), float in [-1, 1] or uint8; indices int32 (b, h / f, w / f), with a last axis of stages if
    the quantizer is compound.

    Attributes:
        autoencoder: the linen module. variables: its weights, as `inference_variables` (EMA of the parameters).
        config: the resolved config. step: training step of the weights.
    """

    def __init__(self, autoencoder: Autoencoder, variables: Any, config: ml_collections.ConfigDict, step: int):
        self.autoencoder = autoencoder
        self.variables = variables
        self.config = config
        self.step = step
        self.factor = pixels_a_token(config)  # f
        self._encode = jax.jit(lambda variables, x: autoencoder.apply(variables, as_float(x), method="encode"))
        self._decode = jax.jit(lambda variables, indices: autoencoder.apply(variables, indices, method="decode"))

    def latents(self, x) -> jax.Array:
        """Encoder output: (b, h / f, w / f, d)."""
        return self._encode(self.variables, self._checked(x))[0]

    def encode(self, x) -> jax.Array:
        """Indices: int32 (b, h / f, w / f). Raises ValueError unless both sides are multiples of f."""
        return self._encode(self.variables, self._checked(x))[1]

    def decode(self, indices) -> jax.Array:
        """Indices (b, h / f, w / f) -> images (b, h, w, 3) float32, clipped to [-1, 1].

        Raises ValueError on anything but whole numbers in [0, K).
        """
        indices = np.asarray(indices)
        size, stages = self.config.quantizer.codebook_size, self.config.quantizer.stages
        last, wanted = ((), "(b, h, w)") if stages == 1 else ((stages,), f"(b, h, w, {stages})")
        right = indices.ndim == 3 + len(last) and indices.shape[3:] == last
        if not right or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(f"indices are {indices.dtype} {indices.shape} but must be whole numbers {wanted}.")
        if indices.size and not 0 <= indices.min() <= indices.max() < size:
            raise ValueError(
                f"indices lie in [{indices.min()}, {indices.max()}] but the codebook has {size} codes:"
                f" give values in [0, {size - 1}]."
            )
        return jnp.clip(self._decode(self.variables, indices.astype(np.int32)), -1.0, 1.0)

    def reconstruct(self, x) -> jax.Array:
        """Images of any size -> their reconstructions, same size, float32 in [-1, 1].

        Sides that are no multiple of f are extended by repeating the edge, and cut back.
        """
        x = _image_array(x)
        height, width = x.shape[1:3]
        padding = ((0, 0), (0, -height % self.factor), (0, -width % self.factor), (0, 0))
        return self.decode(self.encode(np.pad(x, padding, mode="edge")))[:, :height, :width]

    def codebook(self) -> Any:
        """The effective codebook Q = C W + b: (K, d) float32; of a compound quantizer a tuple, one a stage."""
        return self.autoencoder.apply(self.variables, method="codebook")

    def _checked(self, x):
        x = _image_array(x)
        height, width = x.shape[1:3]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"images are {height}x{width} but this tokenizer needs multiples of {self.factor}: pad or crop them"
                " (`reconstruct` does so by itself)."
            )
        return x


def _image_array(x):
    x = np.asarray(x) if not isinstance(x, jax.Array) else x
    if x.ndim != 4 or x.shape[-1] != 3 or 0 in x.shape:
        raise ValueError(f"images have shape {x.shape} but must be (batch, height, width, 3), none of them 0.")
    if x.dtype != np.uint8 and not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"images are {x.dtype} but must be uint8, or floats in [-1, 1].")
    return x


def load(run: str | Path) -> Tokenizer:
    """The tokenizer of a run folder: EMA weights of its newest sound checkpoint.

    Raises FileNotFoundError if there is no run or no checkpoint, CheckpointError if all are damaged.
    """
    run = Path(run)
    config = read_config(run)
    networks, optimizers = build_networks(config), build_optimizers(config)
    shapes = jax.eval_shape(lambda key: build_state(config, networks, optimizers, key), jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    template = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes)
    with Checkpointer(run, read_only=True, redraw=seeded_codebook(config)) as checkpoints:
        state = checkpoints.restore(template)
    if state is None:
        raise FileNotFoundError(f"{run / 'checkpoints'} holds no checkpoint yet: train until the first is saved.")
    return Tokenizer(networks.autoencoder, inference_variables(state), config, int(state.step))
