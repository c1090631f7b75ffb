"""One training step: a pure function of state and batch."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from simvq_jax.game import Game, Gradients
from simvq_jax.health import usage_figures
from simvq_jax.losses.adversarial import lecam_update
from simvq_jax.models.tokenizer import as_float
from simvq_jax.optim import scale_factors, scale_transforms, transforms_of
from simvq_jax.state import Player, TrainState


class Optimizers(NamedTuple):
    """optax transformations of the two players."""

    generator: optax.GradientTransformation
    discriminator: optax.GradientTransformation


def make_train_step(
    game: Game,
    optimizers: Optimizers,
    *,
    seed: int,
    ema_decay: float,
    accumulate: int = 1,
    schedules: Mapping[str, optax.Schedule] = MappingProxyType({}),
):
    """Builds `(state, batch, perceptual) -> (state, metrics)`.

    batch: images (b, h, w, 3), uint8 or float in [-1, 1], or sound (b, samples), as the game's objective is of;
    perceptual: LPIPS parameters, {} without.
    Gradients are averaged over `accumulate` micro-batches by one scan. A step whose losses or gradients are not
    finite leaves everything but `step` and the counts of skipped steps as it was. schedules: name -> learning rate by
    step, to be told among the metrics.
    """

    def train_step(state: TrainState, batch, perceptual):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        stats, gradients = averaged_gradients(game, state, as_float(batch), key, perceptual, accumulate)
        moved, figures = update(optimizers, state, stats, gradients, ema_decay)
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


def averaged_gradients(game: Game, state: TrainState, x, key, perceptual, accumulate: int):
    """`game.gradients` over a batch in `accumulate` micro-batches, one after the other."""
    if accumulate == 1:
        return game.gradients(state, state.codebook_stats, x, key, perceptual)
    # Row i of every run of `accumulate` rows: each device keeps its own rows.
    micro = x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)

    def body(stats, inputs):
        x, key = inputs
        return game.gradients(state, stats, x, key, perceptual)

    stats, gradients = jax.lax.scan(body, state.codebook_stats, (micro, jax.random.split(key, accumulate)))
    return stats, jax.tree.map(lambda a: jnp.mean(a, axis=0), gradients)


def update(optimizers: Optimizers, state: TrainState, stats, gradients: Gradients, ema_decay: float):
    """The state after both players' updates, and the figures of the step. stats: the codebook's, after the batch."""
    figures = dict(gradients.figures)
    moved = replace(
        state,
        generator=advance(optimizers.generator, state.generator, gradients.generator, codebook_stats=stats),
        codebook_stats=stats,
    )
    if gradients.discriminator:
        moved = replace(
            moved,
            discriminator=advance(optimizers.discriminator, state.discriminator, gradients.discriminator),
            lecam=lecam_update(state.lecam, gradients.logits["real"], gradients.logits["fake"]),
        )
        figures["discriminator_grad_norm"] = optax.tree.norm(gradients.discriminator)
    average = state.ema
    factors = scale_factors(moved.generator.opt_state)
    if factors:
        average = scale_transforms(average, factors)
        figures["transform_rescaled"] = jnp.mean(jnp.stack(jax.tree.leaves(factors)) != 1)
    figures["grad_norm"] = optax.tree.norm(gradients.generator)
    figures["transform_grad_norm"] = optax.tree.norm(transforms_of(gradients.generator))
    ema = optax.incremental_update(moved.generator.params, average, 1.0 - ema_decay)
    return replace(moved, ema=ema), figures


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
