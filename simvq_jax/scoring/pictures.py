"""Scores of pictures: PSNR and SSIM; LPIPS and Frechet distances where their weights are given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.data.images import to_uint8
from simvq_jax.losses.perceptual import lpips
from simvq_jax.metrics.frechet import VARIANTS
from simvq_jax.metrics.frechet import features as inception_features
from simvq_jax.metrics.image import decibels, official_square_error, official_ssim, psnr, ssim
from simvq_jax.models.tokenizer import as_float
from simvq_jax.scoring.common import Scored, Scorer, count_stages, local, token_figures

SSIM_WINDOW = 11


class PictureScorer(Scorer):
    """Of pictures; a batch is {"image": uint8 (b, h, w, 3), "mask": bool (b,)}."""

    counted = "pictures"
    for_batches = ("official_square_error",)

    def __init__(self, autoencoder, nets):
        """nets: name -> parameters of "lpips", "lpips_alex" and "inception", as far as there are any."""
        super().__init__(autoencoder)
        self._nets = nets

        @jax.jit
        def score(variables, nets, images, mask):
            return _score(autoencoder, variables, nets, images, mask)

        self._score = score

    def score(self, variables, batch) -> Scored:
        return self._score(variables, self._nets, batch["image"], batch["mask"])

    def of_batches(self, figures: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """The official PSNR is of a whole batch's mean error, and its mean is over the batches."""
        errors = [of_batch["official_square_error"][of_batch["mask"]] for of_batch in figures]
        psnrs = [float(decibels(error.mean(dtype=np.float64))) for error in errors if len(error)]
        return {"psnr_official": float(np.mean(psnrs))}

    def samples(self, batch, scored: Scored, rows) -> tuple[np.ndarray, np.ndarray]:
        return batch["image"][rows], to_uint8(local(scored.reconstruction)[rows])

    def tokens(self, batch, scored: Scored) -> np.ndarray:
        latents = local(scored.latents)[batch["mask"]]
        return latents.reshape(-1, latents.shape[-1])


def _score(autoencoder, variables, nets, images, mask) -> Scored:
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
        "official_square_error": official_square_error(images, reconstruction),
    }
    if min(x.shape[1:3]) >= SSIM_WINDOW:
        figures["ssim"] = ssim(x, reconstruction, window=SSIM_WINDOW)
        figures["ssim_official"] = official_ssim(images, reconstruction)
    with jax.default_matmul_precision("highest"):  # a figure is float32 on every device, as it is published
        figures |= {name: lpips(nets[name], x, reconstruction) for name in ("lpips", "lpips_alex") if name in nets}
    variants = VARIANTS if "inception" in nets else ()
    inception = functools.partial(inception_features, nets.get("inception"))
    features = {name: (inception(x, name), inception(reconstruction, name)) for name in variants}
    counts = count_stages(autoencoder.quantizer, out.quantized.indices, token_mask)
    return Scored(figures, counts, out.latents.astype(jnp.float32), reconstruction, features)
