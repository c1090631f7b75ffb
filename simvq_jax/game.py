"""What the two players of the adversarial game minimise, and the gradients of it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from simvq_jax.losses.adversarial import lecam_penalty, lecam_update
from simvq_jax.losses.objectives import Objective
from simvq_jax.metrics.codebook import scale, spread
from simvq_jax.models.tokenizer import Autoencoder
from simvq_jax.state import TrainState

ADAPTIVE_LIMIT = 1e4  # VQGAN's clamp of the ratio of gradient norms


class LossWeights(NamedTuple):
    """How the quantizer's loss and the adversarial game are weighed against the objective's reconstruction loss.

    discriminator_start: first step of the game. adaptive: see VQGAN (Esser et al., 2021, 2012.09841), eq. 7.
    """

    quantizer: float
    adversarial: float = 0.0
    adaptive: bool = False
    discriminator_start: int = 0
    lecam: float = 0.0


class Networks(NamedTuple):
    """The two players' modules; `discriminator` is None where training goes without."""

    autoencoder: Autoencoder
    discriminator: nn.Module | None


class Gradients(NamedTuple):
    """Of both players' parameters; the discriminator's and `logits`, the means that LeCam follows, are {} without
    one. figures: of the losses, ()."""

    generator: Any
    discriminator: Any
    logits: dict[str, jax.Array]
    figures: dict[str, jax.Array]


@dataclass(frozen=True)
class Game:
    """The losses of both players, at the parameters of a `TrainState`."""

    networks: Networks
    objective: Objective
    weights: LossWeights

    def gradients(self, state: TrainState, stats, x, key, perceptual) -> tuple[Any, Gradients]:
        """The codebook statistics after the batch, and the gradients of it.

        stats: the codebook statistics before it; x: what the autoencoder takes; perceptual: LPIPS parameters or {}.
        """
        of_generator, (out, stats, figures) = jax.grad(self._generator_loss, has_aux=True)(
            state.generator.params, state, stats, x, key, perceptual
        )
        if self.networks.discriminator is None:
            return stats, Gradients(of_generator, {}, {}, figures)
        reconstruction = jax.lax.stop_gradient(out.reconstruction)
        of_discriminator, (logits, more) = self._once_started(
            state,
            lambda: jax.grad(self._discriminator_loss, has_aux=True)(
                state.discriminator.params, state, x, reconstruction
            ),
        )
        return stats, Gradients(of_generator, of_discriminator, logits, figures | more)

    def _once_started(self, state: TrainState, compute):
        """`compute()` from the discriminator's first step on; before it zeros, without computing."""
        start = self.weights.discriminator_start
        if start == 0:
            return compute()
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(compute))
        return jax.lax.cond(state.step >= start, compute, lambda: zeros)

    def _generator_loss(self, params, state: TrainState, stats, x, key, perceptual):
        variables = {"params": params, "codebook": state.codebook, "codebook_stats": stats}
        rngs = {"quantizer": key, "dropout": jax.random.fold_in(key, 1)}
        out, changed = self.networks.autoencoder.apply(variables, x, train=True, mutable=["codebook_stats"], rngs=rngs)
        reconstruct, terms = self.objective.reconstruction(out.reconstruction, x, perceptual)
        loss = reconstruct + self.weights.quantizer * out.quantized.loss
        if self.networks.discriminator is not None:
            adversarial, more = self._once_started(
                state, lambda: self._adversarial_terms(params, out, state, x, perceptual)
            )
            loss += adversarial
            terms |= more
        figures = terms | {
            "loss": loss,
            "commitment": out.quantized.losses["commitment"],
            "codebook_loss": out.quantized.losses["codebook"],
            "token_scale": scale(out.latents),
            "token_spread": spread(out.latents),
            "code_scale": scale(out.quantized.z_q),
        }
        return loss, (out, changed["codebook_stats"], figures)

    def _adversarial_terms(self, params, out, state: TrainState, x, perceptual):
        """The weighted adversarial loss, and figures."""
        weight = self._adversarial_weight(params, out, state, x, perceptual)
        adversarial, terms = self._adversarial_loss(state, x, out.reconstruction)
        return weight * adversarial, terms | {"adversarial": adversarial, "adversarial_weight": weight}

    def _adversarial_loss(self, state: TrainState, x, reconstruction):
        real = self._judge(state.discriminator.params, x) if self.objective.compares else None
        return self.objective.adversarial(real, self._judge(state.discriminator.params, reconstruction))

    def _adversarial_weight(self, params, out, state: TrainState, x, perceptual):
        """With `adaptive`, times the ratio of gradient norms at the last layer."""
        if not self.weights.adaptive:
            return jnp.float32(self.weights.adversarial)
        last_layer = jax.lax.stop_gradient(params["decoder"]["conv_out"])
        features = jax.lax.stop_gradient(out.features)
        decoder = self.networks.autoencoder.decoder

        def to_pixels(layer):
            pixels = decoder.apply({"params": {"conv_out": layer}}, features, method="to_pixels")
            return jnp.asarray(pixels, jnp.float32)

        of_reconstruction = jax.grad(lambda layer: self.objective.reconstruction(to_pixels(layer), x, perceptual)[0])
        of_adversary = jax.grad(lambda layer: self._adversarial_loss(state, x, to_pixels(layer))[0])
        ratio = jnp.linalg.norm(of_reconstruction(last_layer)["kernel"].ravel()) / (
            jnp.linalg.norm(of_adversary(last_layer)["kernel"].ravel()) + 1e-4
        )
        ratio = jax.lax.stop_gradient(jnp.clip(ratio, 0.0, ADAPTIVE_LIMIT))
        return self.weights.adversarial * ratio

    def _discriminator_loss(self, params, state: TrainState, x, reconstruction):
        of_real, of_fake = self._judge(params, x), self._judge(params, reconstruction)
        loss, terms = self.objective.discriminator(of_real, of_fake)
        real, fake = self.objective.logits(of_real), self.objective.logits(of_fake)
        logits = {"real": jnp.mean(real), "fake": jnp.mean(fake)}
        figures = terms | {"discriminator_loss": loss, "logits_real": logits["real"], "logits_fake": logits["fake"]}
        if self.weights.lecam > 0:
            means = jax.lax.stop_gradient(lecam_update(state.lecam, real, fake))
            figures["lecam"] = lecam_penalty(means, real, fake)
            loss += self.weights.lecam * figures["lecam"]
        return loss, (logits, figures)

    def _judge(self, params, x):
        assert self.networks.discriminator is not None
        return self.networks.discriminator.apply({"params": params}, x)
