"""From a run folder to its tokenizer."""

from pathlib import Path
from typing import Any

import jax

from simvq_jax.api.base import Tokenizer
from simvq_jax.api.images import ImageTokenizer
from simvq_jax.api.sounds import SoundTokenizer
from simvq_jax.build import build_networks, build_optimizers, build_state, of_sound, read_config, seeded_codebook
from simvq_jax.checkpoint import Checkpointer
from simvq_jax.state import inference_variables


def load(run: str | Path) -> Tokenizer:
    """The tokenizer of a run folder: EMA weights of its newest undamaged checkpoint.

    An `ImageTokenizer` or a `SoundTokenizer`, as the run is of.

    Raises FileNotFoundError if there is no run or no checkpoint, CheckpointError if all are damaged.
    """
    run = Path(run)
    config = read_config(run)
    networks, optimizers = build_networks(config), build_optimizers(config)
    shapes = jax.eval_shape(lambda key: build_state(config, networks, optimizers, key), jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    template = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes)
    with Checkpointer(run, read_only=True, redraw=seeded_codebook(config)) as checkpoints:
        state = checkpoints.restore(template)
    if state is None:
        raise FileNotFoundError(f"{run / 'checkpoints'} holds no checkpoint yet: train until the first is saved.")
    module: Any = SoundTokenizer if of_sound(config) else ImageTokenizer
    return module(networks.autoencoder, inference_variables(state), config, int(state.step))
