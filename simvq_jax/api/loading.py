"""From a run folder to its tokenizer."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from simvq_jax.api import hub
from simvq_jax.api.base import Tokenizer
from simvq_jax.api.images import ImageTokenizer
from simvq_jax.api.packed import is_packed, read_packed
from simvq_jax.api.sounds import SoundTokenizer
from simvq_jax.build import build_networks, build_optimizers, of_sound, read_config, seeded_codebook, state_shapes
from simvq_jax.checkpoint import Checkpointer, Restorable
from simvq_jax.game import Networks
from simvq_jax.state import Inference, TrainState, inference_variables
from simvq_jax.store import path_of


class Restored(NamedTuple):
    """A run as its newest undamaged checkpoint has it, on one device."""

    config: ml_collections.ConfigDict
    networks: Networks
    state: TrainState


def restored_state(run: str | Path) -> Restored:
    """Raises FileNotFoundError if there is no run or no checkpoint, CheckpointError if all are damaged."""
    run = path_of(run)
    config = read_config(run)
    networks = build_networks(config)
    return Restored(config, networks, _restore(run, config, _shapes(config, networks)))


def load(run: str | Path, *, decoder: bool = True) -> Tokenizer:
    """The tokenizer of a run folder: EMA weights of its newest undamaged checkpoint.

    An `ImageTokenizer` or a `SoundTokenizer`, as the run is of.

    Args:
        run: a run folder, a folder that `push` packed, or `hf://OWNER/NAME[@REVISION]`, which is downloaded once.
        decoder: False leaves the decoder's weights on the disk, for a tokenizer that only encodes.

    Raises as `restored_state`, and WeightFileError where packed weights do not fit their config.
    """
    run = hub.downloaded(str(run)) if hub.is_address(run) else path_of(run)
    config = read_config(run)
    networks = build_networks(config)
    shapes = _shapes(config, networks)
    params = {name: part for name, part in shapes.ema.items() if decoder or name != "decoder"}
    wanted = Inference(shapes.step, params, shapes.codebook, shapes.codebook_stats)
    state = read_packed(run, config, wanted) if is_packed(run) else _restore(run, config, wanted)
    module: Any = SoundTokenizer if of_sound(config) else ImageTokenizer
    return module(networks.autoencoder, inference_variables(state), config, int(state.step))


def _shapes(config, networks: Networks) -> TrainState:
    optimizers = build_optimizers(config)
    return state_shapes(config, networks, optimizers)


def _restore(run: Path, config, shapes: Restorable) -> Restorable:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    template = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes)
    with Checkpointer(run, read_only=True, redraw=seeded_codebook(config)) as checkpoints:
        state = checkpoints.restore(template)
    if state is None:
        raise FileNotFoundError(f"{run / 'checkpoints'} holds no checkpoint yet: train until the first is saved.")
    return state
