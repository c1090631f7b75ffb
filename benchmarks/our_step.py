"""Our training step on one batch, whole and by the parts that `train_step.py` names."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Contender
from simvq_jax import build
from simvq_jax.game import Networks
from simvq_jax.losses.objectives import Objective
from simvq_jax.mesh import jit_step, place_batch, replicated
from simvq_jax.models.tokenizer import as_float


class OurStep:
    """The step that training with `config` would compile.

    images: uint8 (batch, size, size, 3).
    """

    def __init__(self, config, images: np.ndarray, mesh):
        self._networks, self._objective = build.build_networks(config), build.build_objective(config)
        self._weight = build.build_loss_weights(config).adversarial
        self._images = place_batch({"image": images}, mesh)["image"]
        optimizers, key = build.build_optimizers(config), jax.random.key(config.seed)
        new_state = jax.jit(
            lambda key: build.build_state(config, self._networks, optimizers, key, as_float(self._images)),
            out_shardings=replicated(mesh),
        )
        # The step takes over its state's memory, so the parts need a state of their own.
        self._state, self._start = new_state(key), new_state(key)
        step = build.build_train_step(config, self._networks, optimizers)
        self._train_step = jit_step(step, self._state, mesh)

    def contenders(self) -> dict[str, Contender]:
        """By part: the whole step, and what can be run apart from it."""
        convolutions = jax.jit(convolution_gradients(self._networks, self._objective, self._weight))
        quantizer = jax.jit(quantizer_gradients(self._networks.autoencoder.quantizer))
        generator, adversary = self._start.generator.params, self._start.discriminator.params
        constants = {
            "codebook": self._start.codebook.get("quantizer", {}),
            "codebook_stats": self._start.codebook_stats["quantizer"],
        }
        encoder = self._networks.autoencoder.encoder
        latents = jax.jit(encoder.apply)({"params": generator["encoder"]}, as_float(self._images))
        return {
            "step": Contender(self.step),
            "convolutions": Contender(lambda: convolutions(generator, adversary, self._images)),
            "quantizer": Contender(lambda: quantizer(generator["quantizer"], constants, latents)),
        }

    def step(self):
        """One step on the batch; the state goes on from call to call."""
        self._state, figures = self._train_step(self._state, self._images, {})
        return self._state, figures


def convolution_gradients(networks: Networks, objective: Objective, weight: float):
    """(generator's parameters, discriminator's, images) -> gradients of both players, with no quantizer in between."""
    autoencoder, discriminator = networks
    assert discriminator is not None

    def generator_loss(params, adversary, images):
        latents = autoencoder.encoder.apply({"params": params["encoder"]}, images)
        reconstruction = autoencoder.decoder.apply({"params": params["decoder"]}, latents)
        reconstruction = jnp.asarray(reconstruction, jnp.float32)
        fake = discriminator.apply({"params": adversary}, reconstruction)
        loss = objective.reconstruction(reconstruction, images, {})[0] + weight * objective.adversarial(None, fake)[0]
        return loss, reconstruction

    def discriminator_loss(adversary, images, reconstruction):
        real, fake = (discriminator.apply({"params": adversary}, x) for x in (images, reconstruction))
        return objective.discriminator(real, fake)[0]

    def gradients(params, adversary, images):
        images = as_float(images)
        networks_only = {name: params[name] for name in ("encoder", "decoder")}
        of_generator, reconstruction = jax.grad(generator_loss, has_aux=True)(networks_only, adversary, images)
        return of_generator, jax.grad(discriminator_loss)(adversary, images, reconstruction)

    return gradients


def quantizer_gradients(quantizer):
    """(parameters, constants, latents) -> gradients for parameters and latents, and the count of codes after it."""

    def loss(params, latents, constants):
        rngs = {"quantizer": jax.random.key(0)}
        out, changed = quantizer.apply(
            {"params": params, **constants}, latents, train=True, mutable=["codebook_stats"], rngs=rngs
        )
        return out.loss + jnp.sum(out.z_q, dtype=jnp.float32), changed

    return lambda params, constants, latents: jax.grad(loss, argnums=(0, 1), has_aux=True)(params, latents, constants)
