"""One training step: a pure function of state and batch."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from simvq_jax.health import usage_figures
from simvq_jax.losses.adversarial import lecam_penalty, lecam_update
from simvq_jax.losses.objectives import Objective
from simvq_jax.metrics.codebook import scale, spread
from simvq_jax.models.tokenizer import Autoencoder
from simvq_jax.optim import scale_factors, scale_transforms, transforms_of
from simvq_jax.state import Player, TrainState

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


class Optimizers(NamedTuple):
    """optax transformations of the two players."""

    generator: optax.GradientTransformation
    discriminator: optax.GradientTransformation


def make_train_step(
    networks: Networks,
    optimizers: Optimizers,
    objective: Objective,
    weights: LossWeights,
    *,
    seed: int,
    ema_decay: float,
    accumulate: int = 1,
    schedules: Mapping[str, optax.Schedule] = MappingProxyType({}),
):
    """Builds `(state, batch, perceptual) -> (state, metrics)`.

    batch: images (b, h, w, 3), uint8 or float in [-1, 1], or sound (b, samples), as the objective is of;
    perceptual: LPIPS parameters, {} without.
    Gradients are averaged over `accumulate` micro-batches by one scan. A step whose losses or gradients are not
    finite leaves everything but `step` and the counts of skipped steps as it was. schedules: name -> learning rate by
    step, to be told among the metrics.
    """

    autoencoder, discriminator = networks

    def judge(params, x):
        assert discriminator is not None
        return discriminator.apply({"params": params}, x)

    def micro_step(state: TrainState, stats, x, key, perceptual):
        """Gradients and figures of one micro-batch, and the codebook statistics after it."""
        generator_grads, (out, stats, figures) = jax.grad(generator_loss, has_aux=True)(
            state.generator.params, state, stats, x, key, perceptual
        )
        if discriminator is None:
            return stats, (generator_grads, {}, state.lecam, figures)
        reconstruction = jax.lax.stop_gradient(out.reconstruction)
        discriminator_grads, (logits, more) = once_started(
            state,
            lambda: jax.grad(discriminator_loss, has_aux=True)(state.discriminator.params, state, x, reconstruction),
        )
        return stats, (generator_grads, discriminator_grads, logits, figures | more)

    def once_started(state: TrainState, compute):
        """`compute()` from the discriminator's first step on; before it zeros, without computing."""
        if weights.discriminator_start == 0:
            return compute()
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(compute))
        return jax.lax.cond(state.step >= weights.discriminator_start, compute, lambda: zeros)

    def generator_loss(params, state: TrainState, stats, x, key, perceptual):
        variables = {"params": params, "codebook": state.codebook, "codebook_stats": stats}
        rngs = {"quantizer": key, "dropout": jax.random.fold_in(key, 1)}
        out, changed = autoencoder.apply(variables, x, train=True, mutable=["codebook_stats"], rngs=rngs)
        reconstruct, terms = objective.reconstruction(out.reconstruction, x, perceptual)
        loss = reconstruct + weights.quantizer * out.quantized.loss
        if discriminator is not None:
            adversarial, more = once_started(state, lambda: adversarial_terms(params, out, state, x, perceptual))
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

    def adversarial_terms(params, out, state: TrainState, x, perceptual):
        """The weighted adversarial loss, and figures."""
        weight = adversarial_weight(params, out, state, x, perceptual)
        adversarial, terms = adversarial_loss(state, x, out.reconstruction)
        return weight * adversarial, terms | {"adversarial": adversarial, "adversarial_weight": weight}

    def adversarial_loss(state: TrainState, x, reconstruction):
        real = judge(state.discriminator.params, x) if objective.compares else None
        return objective.adversarial(real, judge(state.discriminator.params, reconstruction))

    def adversarial_weight(params, out, state: TrainState, x, perceptual):
        """With `adaptive`, times the ratio of gradient norms at the last layer."""
        if not weights.adaptive:
            return jnp.float32(weights.adversarial)
        last_layer = jax.lax.stop_gradient(params["decoder"]["conv_out"])
        features = jax.lax.stop_gradient(out.features)

        def to_pixels(layer):
            pixels = autoencoder.decoder.apply({"params": {"conv_out": layer}}, features, method="to_pixels")
            return jnp.asarray(pixels, jnp.float32)

        of_reconstruction = jax.grad(lambda layer: objective.reconstruction(to_pixels(layer), x, perceptual)[0])
        of_adversary = jax.grad(lambda layer: adversarial_loss(state, x, to_pixels(layer))[0])
        ratio = jnp.linalg.norm(of_reconstruction(last_layer)["kernel"].ravel()) / (
            jnp.linalg.norm(of_adversary(last_layer)["kernel"].ravel()) + 1e-4
        )
        ratio = jax.lax.stop_gradient(jnp.clip(ratio, 0.0, ADAPTIVE_LIMIT))
        return weights.adversarial * ratio

    def discriminator_loss(params, state: TrainState, x, reconstruction):
        of_real, of_fake = judge(params, x), judge(params, reconstruction)
        loss, terms = objective.discriminator(of_real, of_fake)
        real, fake = objective.logits(of_real), objective.logits(of_fake)
        logits = {"real": jnp.mean(real), "fake": jnp.mean(fake)}
        figures = terms | {"discriminator_loss": loss, "logits_real": logits["real"], "logits_fake": logits["fake"]}
        if weights.lecam > 0:
            means = jax.lax.stop_gradient(lecam_update(state.lecam, real, fake))
            figures["lecam"] = lecam_penalty(means, real, fake)
            loss += weights.lecam * figures["lecam"]
        return loss, (logits, figures)

    def all_micro_steps(state: TrainState, x, key, perceptual):
        if accumulate == 1:
            return micro_step(state, state.codebook_stats, x, key, perceptual)
        # Row i of every run of `accumulate` rows: each device keeps its own rows.
        micro = x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)

        def body(stats, inputs):
            x, key = inputs
            return micro_step(state, stats, x, key, perceptual)

        stats, results = jax.lax.scan(body, state.codebook_stats, (micro, jax.random.split(key, accumulate)))
        return stats, jax.tree.map(lambda a: jnp.mean(a, axis=0), results)

    def train_step(state: TrainState, batch, perceptual):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        x = as_float(batch)
        stats, (generator_grads, discriminator_grads, logits, figures) = all_micro_steps(state, x, key, perceptual)

        moved = replace(
            state,
            generator=advance(optimizers.generator, state.generator, generator_grads, codebook_stats=stats),
            codebook_stats=stats,
        )
        if discriminator is not None:
            moved = replace(
                moved,
                discriminator=advance(optimizers.discriminator, state.discriminator, discriminator_grads),
                lecam=lecam_update(state.lecam, logits["real"], logits["fake"]),
            )
            figures["discriminator_grad_norm"] = optax.tree.norm(discriminator_grads)
        average = state.ema
        factors = scale_factors(moved.generator.opt_state)
        if factors:
            average = scale_transforms(average, factors)
            figures["transform_rescaled"] = jnp.mean(jnp.stack(jax.tree.leaves(factors)) != 1)
        moved = replace(moved, ema=optax.incremental_update(moved.generator.params, average, 1.0 - ema_decay))

        figures["grad_norm"] = optax.tree.norm(generator_grads)
        figures["transform_grad_norm"] = optax.tree.norm(transforms_of(generator_grads))
        # As one array: XLA would compute a sum of scalars anew in the update of every parameter.
        ok = jnp.all(jnp.isfinite(jnp.stack(list(figures.values()))))
        updates = state.step - state.skipped  # before this one, as the optimisers count
        state = keep_if(ok, moved, state)
        figures |= usage_figures(state.codebook_stats["quantizer"])
        for name, schedule in schedules.items():
            figures[name] = schedule(updates)
        figures["skipped"] = state.skipped
        figures["skipped_in_a_row"] = state.skipped_in_a_row
        return state, {f"train/{name}": value for name, value in figures.items()}

    return train_step


def as_float(x):
    """uint8 -> float32 in [-1, 1]; floats pass."""
    return x.astype(jnp.float32) / 127.5 - 1.0 if x.dtype == jnp.uint8 else x.astype(jnp.float32)


def advance(optimizer, player: Player, grads, **figures) -> Player:
    """The player after one update. figures: what the optimiser may look at beside the gradients."""
    optimizer = optax.with_extra_args_support(optimizer)
    updates, opt_state = optimizer.update(grads, player.opt_state, player.params, **figures)
    return Player(optax.apply_updates(player.params, updates), opt_state)


def keep_if(ok, new: TrainState, old: TrainState) -> TrainState:
    """`new` where ok, else `old`; `step` advances either way, and skipped steps are counted."""
    kept = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
    skipped = (~ok).astype(jnp.int32)
    return replace(
        kept,
        step=old.step + 1,
        skipped=old.skipped + skipped,
        skipped_in_a_row=(old.skipped_in_a_row + 1) * skipped,
    )
