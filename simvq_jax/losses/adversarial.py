"""GAN losses on logits. Pure functions; every array is (batch, ...) float32, every result ()."""

import jax
import jax.numpy as jnp

LECAM_DECAY = 0.999


def _mean_logit(logits):
    """One logit a picture: (batch, ...) -> (batch,)."""
    return jnp.mean(logits.reshape(logits.shape[0], -1), axis=-1)


def non_saturating_generator_loss(fake):
    """softplus(-D(fake)) on per-image mean logits (Goodfellow et al., 2014; MAGVIT-2's form)."""
    return jnp.mean(jax.nn.softplus(-_mean_logit(fake)))


def hinge_generator_loss(fake):
    """-D(fake) (Lim and Ye, 2017, 1705.02894)."""
    return -jnp.mean(fake)


def vanilla_generator_loss(fake):
    """softplus(-D(fake)) on every patch."""
    return jnp.mean(jax.nn.softplus(-fake))


def hinge_discriminator_loss(real, fake):
    """Half the sum of both hinges; the factor 0.5 is VQGAN's."""
    return 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))


def vanilla_discriminator_loss(real, fake):
    """Half the sum of both cross entropies on every patch; the factor 0.5 is VQGAN's."""
    return 0.5 * (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake)))


def non_saturating_discriminator_loss(real, fake):
    """Sum of both cross entropies on per-image mean logits."""
    real, fake = _mean_logit(real), _mean_logit(fake)
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


GENERATOR_LOSSES = {
    "non_saturating": non_saturating_generator_loss,
    "hinge": hinge_generator_loss,
    "vanilla": vanilla_generator_loss,
}
DISCRIMINATOR_LOSSES = {
    "hinge": hinge_discriminator_loss,
    "vanilla": vanilla_discriminator_loss,
    "non_saturating": non_saturating_discriminator_loss,
}


def lecam_update(lecam, real, fake):
    """Running means of the logits: {"real": (), "fake": ()} one step on."""
    step = {"real": jnp.mean(real), "fake": jnp.mean(fake)}
    return jax.tree.map(lambda old, new: LECAM_DECAY * old + (1 - LECAM_DECAY) * new, lecam, step)


def lecam_penalty(lecam, real, fake):
    """LeCAM regularisation (Tseng et al., 2021, 2104.03310) in MAGVIT's one-sided form."""
    above = jnp.mean(jax.nn.relu(real - lecam["fake"]) ** 2)
    below = jnp.mean(jax.nn.relu(lecam["real"] - fake) ** 2)
    return above + below
