"""Scores of pictures: PSNR, SSIM, and LPIPS where its weights are given."""

import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.data.images import to_uint8
from simvq_jax.losses.perceptual import lpips
from simvq_jax.metrics.image import psnr, ssim
from simvq_jax.scoring.common import Scored, count_stages, local, token_figures
from simvq_jax.step import as_float

SSIM_WINDOW = 11


class PictureScorer:
    """See the package. Of pictures; a batch is {"image": uint8 (b, h, w, 3), "mask": bool (b,)}."""

    counted, may_lack = "pictures", ()

    def __init__(self, autoencoder, perceptual):
        self._perceptual = perceptual

        @jax.jit
        def score(variables, perceptual, images, mask):
            return _score(autoencoder, variables, perceptual, images, mask)

        self._score = score

    def score(self, variables, batch) -> Scored:
        return self._score(variables, self._perceptual, batch["image"], batch["mask"])

    def on_host(self, batch, reconstruction) -> dict[str, np.ndarray]:
        del batch, reconstruction
        return {}

    def samples(self, batch, scored: Scored, rows) -> tuple[np.ndarray, np.ndarray]:
        return batch["image"][rows], to_uint8(local(scored.reconstruction)[rows])

    def tokens(self, batch, scored: Scored) -> np.ndarray:
        latents = local(scored.latents)[batch["mask"]]
        return latents.reshape(-1, latents.shape[-1])


def _score(autoencoder, variables, perceptual, images, mask) -> Scored:
    x = as_float(images)
    shape = jax.eval_shape(lambda x: autoencoder.apply(variables, x).latents, x).shape
    token_mask = jnp.broadcast_to(mask.reshape(-1, 1, 1), shape[:-1])
    out = autoencoder.apply(variables, x, mask=token_mask)
    reconstruction = jnp.clip(out.reconstruction, -1.0, 1.0)
    figures = token_figures(out, token_mask) | {
        "mask": mask,
        "psnr": psnr(x, reconstruction),
        "l1": jnp.mean(jnp.abs(x - reconstruction), axis=(1, 2, 3)),
        "l2": jnp.mean((x - reconstruction) ** 2, axis=(1, 2, 3)),
    }
    if min(x.shape[1:3]) >= SSIM_WINDOW:
        figures["ssim"] = ssim(x, reconstruction, window=SSIM_WINDOW)
    if perceptual:
        figures["lpips"] = lpips(perceptual, x, reconstruction)
    counts = count_stages(autoencoder.quantizer, out.quantized.indices, token_mask)
    return Scored(figures, counts, out.latents.astype(jnp.float32), reconstruction)
