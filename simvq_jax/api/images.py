"""A trained tokenizer of pictures."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from simvq_jax.api.base import Tokenizer
from simvq_jax.build import pixels_a_token
from simvq_jax.models.tokenizer import Autoencoder, as_float
from simvq_jax.programs import ManyShapes

BRIGHTEST = 8.0  # of floats: beyond it are levels up to 255, or no pictures


class ImageTokenizer(Tokenizer):
    """Images to indices and back.

    Images are (b, h, w, 3), float in [-1, 1] or uint8; indices int32 (b, h / f, w / f), with a last axis of stages if
    the quantizer is compound. `factor` is f. All methods may be called under jit, where values cannot be checked.
    """

    def __init__(self, autoencoder: Autoencoder, variables: Any, config: ml_collections.ConfigDict, step: int):
        super().__init__(autoencoder, variables, config, step)
        self.factor = pixels_a_token(config)
        self._encode = ManyShapes(lambda variables, x: autoencoder.apply(variables, as_float(x), method="encode"))
        self._decode = ManyShapes(lambda variables, indices: autoencoder.apply(variables, indices, method="decode"))
        self._cut = ManyShapes(lambda _, decoded, x: decoded[:, : x.shape[1], : x.shape[2]])

    def latents(self, x) -> jax.Array:
        """Encoder output: (b, h / f, w / f, d)."""
        return self._encode(self.variables, self._checked(x))[0]

    def encode(self, x) -> jax.Array:
        """Indices: int32 (b, h / f, w / f). Raises ValueError unless sides are multiples of f, and floats finite
        and about in [-1, 1]."""
        return self._encode(self.variables, self._checked(x))[1]

    def decode(self, indices) -> jax.Array:
        """Indices (b, h / f, w / f) -> images (b, h, w, 3) float32, as the decoder gives them: files and figures clip.

        Raises ValueError on anything but whole numbers in [0, K).
        """
        self.need_decoder()
        return self._decode(self.variables, self.checked_indices(indices, ("b", "h", "w")))

    def reconstruct(self, x) -> jax.Array:
        """Images of any size -> their reconstructions, same size, float32; `decode(encode(x))`.

        Sides that are no multiple of f are extended by repeating the edge, and cut back.
        """
        x = _image_array(x)
        height, width = x.shape[1:3]
        padding = ((0, 0), (0, -height % self.factor), (0, -width % self.factor), (0, 0))
        pad = jnp.pad if isinstance(x, jax.core.Tracer) else np.pad  # which compiles nothing
        return self._cut(None, self.decode(self.encode(pad(x, padding, mode="edge"))), x)

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
    if x.dtype != np.uint8 and not isinstance(x, jax.core.Tracer):
        peak = float(abs(x).max())  # where it lies; of NaN itself
        if not np.isfinite(peak):
            raise ValueError("images have values that are not finite: mend or remove them.")
        if peak > BRIGHTEST:
            raise ValueError(
                f"images have values up to {peak:g} but floats must lie in [-1, 1]: give uint8, or x / 127.5 - 1."
            )
    return x
