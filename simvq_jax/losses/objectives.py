"""What a network is trained to do, as the step asks for it: the losses of pictures, and those of sound.

An objective has
    reconstruction(reconstruction, target, perceptual) -> loss (), {name: ()} of its terms;
    adversarial(real, fake) -> the same, the generator's, of what the discriminator gives of target and reconstruction;
    discriminator(real, fake) -> the same, the discriminator's;
    logits(judgement) -> all logits of what the discriminator gives;
    compares: whether `adversarial` looks at `real`, which is None otherwise.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from simvq_jax.losses import sound
from simvq_jax.losses.adversarial import DISCRIMINATOR_LOSSES, GENERATOR_LOSSES
from simvq_jax.losses.means import mean_by_rows
from simvq_jax.losses.perceptual import lpips


@dataclass(frozen=True)
class ImageObjective:
    """Weights of the terms, and names of the adversarial losses. Images: (b, h, w, 3); judgements are logits."""

    l1: float
    l2: float
    lpips: float
    generator_loss: str = "non_saturating"
    discriminator_loss: str = "hinge"
    compares: ClassVar[bool] = False

    def reconstruction(self, reconstruction, target, perceptual):
        difference = reconstruction - target
        terms = {"l1": mean_by_rows(jnp.abs(difference)), "l2": mean_by_rows(difference**2)}
        loss = self.l1 * terms["l1"] + self.l2 * terms["l2"]
        if self.lpips > 0 and perceptual:
            terms["lpips"] = jnp.mean(lpips(perceptual, target, reconstruction))
            loss += self.lpips * terms["lpips"]
        return loss, terms

    def adversarial(self, real, fake):
        del real
        return GENERATOR_LOSSES[self.generator_loss](fake), {}

    def discriminator(self, real, fake):
        return DISCRIMINATOR_LOSSES[self.discriminator_loss](real, fake), {}

    def logits(self, judgement):
        return judgement


@dataclass(frozen=True)
class SoundObjective:
    """Weights of the terms. Sound: (b, samples); judgements as of `SoundDiscriminator`.

    mel: of the mean difference of log-mel magnitudes; multiscale_mel: of that over seven resolutions; l1: of samples;
    resolution: of the resolution discriminators' terms.
    """

    sample_rate: int
    mel: float
    multiscale_mel: float = 0.0
    l1: float = 0.0
    resolution: float = 1.0
    compares: ClassVar[bool] = True

    def reconstruction(self, reconstruction, target, perceptual):
        del perceptual
        terms = {
            "mel": sound.mel_loss(reconstruction, target, self.sample_rate),
            "l1": mean_by_rows(jnp.abs(reconstruction - target)),
        }
        loss = self.mel * terms["mel"] + self.l1 * terms["l1"]
        if self.multiscale_mel > 0:
            terms["multiscale_mel"] = sound.multiscale_mel_loss(reconstruction, target, self.sample_rate)
            loss += self.multiscale_mel * terms["multiscale_mel"]
        return loss, terms

    def adversarial(self, real, fake):
        return sound.sound_generator_loss(real, fake, self.resolution)

    def discriminator(self, real, fake):
        return sound.sound_discriminator_loss(real, fake, self.resolution)

    def logits(self, judgement):
        judgements = jax.tree.leaves(judgement, is_leaf=lambda node: hasattr(node, "logits"))
        return jnp.concatenate([j.logits.ravel() for j in judgements])


Objective = ImageObjective | SoundObjective
