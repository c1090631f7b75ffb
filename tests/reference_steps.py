"""What the official trainers start from and move by, for our training step."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from simvq_jax.official import Trees
from simvq_jax.optim import discriminator_optimizer, generator_optimizer
from simvq_jax.quantize.base import NEVER
from simvq_jax.state import Player, TrainState
from simvq_jax.step import Optimizers

OFFICIAL_EMA_DECAY = float(np.float32(0.999))  # its factor is float32(1) - float32(.999), not 1e-3


class Run(NamedTuple):
    """Per step: what our step logs, and every tensor under its official name."""

    logs: list[dict[str, float]]
    tensors: list[dict[str, np.ndarray]]


def ema_name(name: str) -> str:
    """Of a tensor's average, in an official checkpoint."""
    return f"model_ema.{name.replace('.', '')}"


def official_optimizers() -> Optimizers:
    """Adam of both players, one constant rate for everything."""
    adam = {"b1": 0.5, "b2": 0.9, "clip_norm": 0.0}
    rate = optax.constant_schedule(1e-4)
    return Optimizers(generator_optimizer(rate, rate, **adam), discriminator_optimizer(rate, **adam))


def new_state(weights: Trees, ema, optimizers: Optimizers, codebook_size: int, step: int = 0) -> TrainState:
    """A state at `step` with the given weights and everything else as at the start."""
    zero = jnp.zeros((), jnp.int32)
    age = jnp.full((codebook_size,), NEVER, jnp.int32)
    stats = {"age": age, "usage": jnp.zeros((codebook_size,)), "spread_ratio": jnp.ones(())}
    return TrainState(
        step=jnp.int32(step),
        generator=Player(weights.params, optimizers.generator.init(weights.params)),
        discriminator=Player(weights.discriminator, optimizers.discriminator.init(weights.discriminator)),
        ema=ema,
        codebook=weights.codebook,
        codebook_stats={"quantizer": stats},
        lecam={"real": jnp.zeros(()), "fake": jnp.zeros(())},
        skipped=zero,
        skipped_in_a_row=zero,
    )
