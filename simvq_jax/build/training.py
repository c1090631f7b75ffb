"""From a config to optimisers, losses, the training step and its state."""

from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from simvq_jax.build.choice import one_of
from simvq_jax.build.networks import example_shape, of_sound
from simvq_jax.cluster import Timeouts
from simvq_jax.game import Game, LossWeights, Networks
from simvq_jax.losses.adversarial import DISCRIMINATOR_LOSSES, GENERATOR_LOSSES
from simvq_jax.losses.objectives import ImageObjective, Objective, SoundObjective
from simvq_jax.losses.perceptual import load_lpips
from simvq_jax.metrics.frechet import load_inception
from simvq_jax.optim import SCHEDULES, discriminator_optimizer, generator_optimizer, make_schedule
from simvq_jax.state import TrainState, create_state
from simvq_jax.step import Optimizers, make_train_step


def build_schedules(config) -> dict[str, Any]:
    """Schedules by the name of their metric: of the networks, of the codebook transform, of the discriminator."""
    schedule, steps = config.schedule, config.steps
    adversary = one_of("schedule.discriminator_kind", schedule.discriminator_kind, ("as_networks", *SCHEDULES))

    def rest(kind, peak):
        return make_schedule(kind, peak, steps, schedule.warmup_fraction)

    return {
        "learning_rate": rest(schedule.kind, config.optimizer.learning_rate),
        "discriminator_learning_rate": rest(
            schedule.kind if adversary == "as_networks" else adversary, config.discriminator.learning_rate
        ),
        "transform_learning_rate": make_schedule(
            schedule.transform_kind,
            config.optimizer.transform_learning_rate,
            steps,
            schedule.transform_warmup_fraction,
        ),
    }


def build_optimizers(config) -> Optimizers:
    """The generator's, of `optimizer.kind`, and the discriminator's, Adam."""
    schedules = build_schedules(config)
    shared = {"b1": config.optimizer.b1, "b2": config.optimizer.b2, "clip_norm": config.optimizer.clip_norm}
    return Optimizers(
        generator_optimizer(
            schedules["learning_rate"],
            schedules["transform_learning_rate"],
            spread_limit=config.optimizer.spread_limit,
            kind=config.optimizer.kind,
            **shared,
        ),
        discriminator_optimizer(schedules["discriminator_learning_rate"], **shared),
    )


def build_timeouts(config) -> Timeouts:
    """How long processes wait for each other."""
    seconds = config.cluster
    return Timeouts(seconds.initialization_timeout, seconds.heartbeat_timeout, seconds.shutdown_timeout)


def build_objective(config) -> Objective:
    """The losses of pictures or of sound."""
    losses, adversary = config.losses, config.discriminator
    if of_sound(config):
        return SoundObjective(
            config.data.sample_rate, losses.mel, losses.multiscale_mel, losses.l1, adversary.resolution_weight
        )
    return ImageObjective(
        l1=losses.l1,
        l2=losses.l2,
        lpips=losses.lpips,
        generator_loss=one_of("discriminator.generator_loss", adversary.generator_loss, GENERATOR_LOSSES),
        discriminator_loss=one_of("discriminator.loss", adversary.loss, DISCRIMINATOR_LOSSES),
    )


def build_loss_weights(config) -> LossWeights:
    """Weights of the quantizer's loss and of the adversarial game."""
    adversary = config.discriminator
    if of_sound(config) and adversary.adaptive:
        raise ValueError(
            "discriminator.adaptive is True but that weight is taken at the last layer of a decoder of pictures: set it"
            " to False."
        )
    return LossWeights(
        quantizer=config.losses.quantizer,
        adversarial=adversary.weight,
        adaptive=adversary.adaptive,
        discriminator_start=adversary.start,
        lecam=adversary.lecam,
    )


def build_train_step(config, networks: Networks, optimizers: Optimizers):
    """The training step `(state, batch, perceptual) -> (state, metrics)`, not yet compiled."""
    return make_train_step(
        Game(networks, build_objective(config), build_loss_weights(config)),
        optimizers,
        seed=config.seed,
        ema_decay=config.optimizer.ema_decay,
        accumulate=config.accumulate,
        schedules=build_schedules(config),
    )


def build_perceptual(config) -> dict:
    """LPIPS parameters from the files that the config names; {} without, said once where it would have counted."""
    losses = config.losses
    if of_sound(config):
        return {}
    params = _lpips_of("vgg", "losses.lpips_vgg", losses.lpips_vgg, "losses.lpips_linear", losses.lpips_linear)
    if losses.lpips > 0 and not params:
        logging.warning(
            "losses.lpips is %g but no weight files are given: going on without LPIPS (README, 'LPIPS', says where"
            " to get them).",
            losses.lpips,
        )
    return params


def build_scoring_nets(config) -> dict[str, dict]:
    """Parameters of the networks that only score pictures, by name; those without a file are left out."""
    files = config.metrics
    if of_sound(config):
        return {}
    for name, figure in (("inception", "rFID"), ("lpips_alex", "LPIPS on AlexNet")):
        if not files[name]:
            logging.warning(
                "metrics.%s is '': going on without %s (docs/TOKENIZERS.md says where it is).", name, figure
            )
    alex = _lpips_of(
        "alex", "metrics.lpips_alex", files.lpips_alex, "metrics.lpips_alex_linear", files.lpips_alex_linear
    )
    inception = load_inception(files.inception) if files.inception else {}
    return {name: params for name, params in (("lpips_alex", alex), ("inception", inception)) if params}


def _lpips_of(backbone: str, features_key: str, features: str, linear_key: str, linear: str) -> dict:
    if features and linear:
        return load_lpips(features, linear, backbone=backbone)
    if features or linear:
        raise ValueError(
            f"LPIPS needs two files but {features_key} is {features!r} and {linear_key} is {linear!r}: give both, or"
            " neither to go without."
        )
    return {}


def state_shapes(config, networks: Networks, optimizers: Optimizers) -> TrainState:
    """The state's shapes and types; nothing is computed."""
    return jax.eval_shape(lambda key: build_state(config, networks, optimizers, key), jax.random.key(0))


def build_state(
    config, networks: Networks, optimizers: Optimizers, key, examples=None, at_once: int | None = None
) -> TrainState:
    """Initial training state. examples: (n, *example_shape) float, which the quantizer's start may look at; None where
    only shapes matter. at_once: as in `create_state`."""
    if examples is None:
        examples = jnp.zeros((1, *example_shape(config)))
    return create_state(
        key,
        networks.autoencoder,
        networks.discriminator,
        optimizers.generator,
        optimizers.discriminator,
        examples,
        at_once,
    )
