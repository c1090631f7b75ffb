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


def create_state(
    key, autoencoder, discriminator, generator_optimizer, discriminator_optimizer, examples, at_once: int | None = None
) -> TrainState:
    """Initial state. discriminator: module or None. examples: (n, ...) of what training takes; their values matter
    where codes start from tokens. at_once: of more examples so many go through the encoder at a time."""
    generator_key, discriminator_key, quantizer_key = jax.random.split(key, 3)
    rngs = {"params": generator_key, "quantizer": quantizer_key}
    first = examples[:at_once]
    variables = autoencoder.init(rngs, first)
    if len(first) < len(examples):
        tokens = _encoded(autoencoder, variables, examples, len(first))
        started = autoencoder.init(rngs, tokens, method=lambda module, latents: module.quantizer(latents))
        variables = {name: {**of_all, **started.get(name, {})} for name, of_all in variables.items()}
    params = variables["params"]
    if discriminator is None:
        adversary = Player({}, {})
    else:
        weights = discriminator.init(discriminator_key, first)["params"]
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


def _encoded(autoencoder, variables, examples, at_once: int):
    """The encoder's outputs of all examples: (n, ..., d)."""
    missing = -len(examples) % at_once  # from a last group, which is filled up
    filled = jnp.pad(examples, [(0, missing)] + [(0, 0)] * (examples.ndim - 1))
    groups = filled.reshape(-1, at_once, *examples.shape[1:])
    latents = jax.lax.map(lambda group: autoencoder.apply(variables, group, method="encode")[0], groups)
    return latents.reshape(-1, *latents.shape[2:])[: len(examples)]


def inference_variables(state: TrainState | Inference) -> dict[str, Any]:
    """What the autoencoder needs to encode and decode: the EMA of the parameters, constants and statistics."""
    return {"params": state.ema, "codebook": state.codebook, "codebook_stats": state.codebook_stats}
