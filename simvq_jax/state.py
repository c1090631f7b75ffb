"""What training carries from step to step, and checkpoints hold."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Player:
    """One side of the game: its parameters and its optimiser's state ({} where there is no such side)."""

    params: Any
    opt_state: Any


@flax.struct.dataclass
class TrainState:
    """step: int32 (); ema: of the generator's parameters; codebook: constants; codebook_stats: what training
    changes; lecam: running means of the discriminator's logits; skipped: int32 () non-finite steps in all,
    skipped_in_a_row: int32 ()."""

    step: jax.Array
    generator: Player
    discriminator: Player
    ema: Any
    codebook: Any
    codebook_stats: Any
    lecam: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array


@flax.struct.dataclass
class Inference:
    """What encoding and decoding needs of a `TrainState`, in fields of the same names."""

    step: jax.Array
    ema: Any
    codebook: Any
    codebook_stats: Any


def create_state(key, autoencoder, discriminator, generator_optimizer, discriminator_optimizer, examples) -> TrainState:
    """Initial state. discriminator: module or None. examples: (n, ...) of what training takes; their values matter
    where codes start from tokens."""
    generator_key, discriminator_key, quantizer_key = jax.random.split(key, 3)
    variables = autoencoder.init({"params": generator_key, "quantizer": quantizer_key}, examples)
    params = variables["params"]
    if discriminator is None:
        adversary = Player({}, {})
    else:
        weights = discriminator.init(discriminator_key, examples)["params"]
        adversary = Player(weights, discriminator_optimizer.init(weights))
    return TrainState(
        step=jnp.zeros((), jnp.int32),  # each count a buffer of its own: one cannot be donated twice
        generator=Player(params, generator_optimizer.init(params)),
        discriminator=adversary,
        ema=jax.tree.map(jnp.copy, params),
        codebook=variables.get("codebook", {}),
        codebook_stats=variables["codebook_stats"],
        lecam={"real": jnp.zeros(()), "fake": jnp.zeros(())},
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )


def inference_variables(state: TrainState | Inference) -> dict[str, Any]:
    """What the autoencoder needs to encode and decode: the EMA of the parameters, constants and statistics."""
    return {"params": state.ema, "codebook": state.codebook, "codebook_stats": state.codebook_stats}
