"""From a config to its data: the training stream, what is evaluated, and the flags that read either otherwise."""

import contextlib
import itertools
import math
from collections.abc import Generator, Iterator
from typing import Any

import jax
import numpy as np

from simvq_jax.agreement import check_alike, of_shares
from simvq_jax.build import check_of_kind, example_shape, of_sound
from simvq_jax.data.cuts import Cut, picture_cut, recording_cut
from simvq_jax.data.encoded import Source
from simvq_jax.data.eval_crops import Batch, EvalCrops
from simvq_jax.data.eval_sounds import EvalSounds
from simvq_jax.data.images import MOST_PIXELS
from simvq_jax.data.kinds import Kind, pictures, recordings
from simvq_jax.data.pipeline import eval_batches, eval_crops, train_batches
from simvq_jax.data.sources import SkipLog, open_source
from simvq_jax.mesh import ALONE, BatchShare

# Flags of commands that read data by a run's config, for `read_as`.
READING = {"data_dir": "", "max_pixels": 0, "max_seconds": 0.0}
READING_HELP = {
    "data_dir": "of TFDS datasets; by default the run's own",
    "max_pixels": "pictures: larger ones are skipped and listed; 0 = as in training",
    "max_seconds": "sound: longer recordings are skipped and listed; 0 = as in training",
}


def reading_from(arguments: dict[str, Any]) -> dict[str, Any]:
    """The values of READING among a command's arguments, of which they are removed."""
    return {name: arguments.pop(name) for name in READING if name in arguments}


def read_as(config, *, data_dir: str = "", max_pixels: int = 0, max_seconds: float = 0.0) -> None:
    """Changes how the config's data are read; "" and 0 leave what it says. Raises ValueError on limits that cannot
    be."""
    if not 0 <= max_pixels <= MOST_PIXELS:
        raise ValueError(
            f"max_pixels is {max_pixels} but must lie in 0..{MOST_PIXELS}, Pillow's own limit: shrink larger pictures,"
            " or leave it out to read as in training."
        )
    if not 0 <= max_seconds < math.inf:
        raise ValueError(
            f"max_seconds is {max_seconds} but must be finite and at least 0: leave it out to read as in training."
        )
    if max_pixels:
        check_of_kind(config, "max_pixels", sound=False)
    if max_seconds:
        check_of_kind(config, "max_seconds", sound=True)
    data = config.data
    data.data_dir = data_dir or data.data_dir
    data.max_pixels = max_pixels or data.max_pixels
    data.max_seconds = max_seconds or data.max_seconds


def skip_list() -> str:
    """Name of this process's list of what cannot be read, in the run folder."""
    process = jax.process_index()
    return f"skipped_files.process{process}.txt" if process else "skipped_files.txt"


def build_train_batches(config, source: Source, start_step: int, share: BatchShare = ALONE) -> Generator[Batch]:
    """A process's share of the training stream of a source that was opened to train, from `start_step` on: one array a
    batch, (b, *example_shape)."""
    if jax.process_count() > 1:  # of a folder it asks for every file's size
        check_alike(f"what {config.data.source} holds to train", source.identity())
    return _train_batches(
        config,
        source,
        batch_size=config.batch_size,
        start_step=start_step,
        process_index=share.index,
        process_count=share.count,
    )


def first_examples(config, count: int) -> np.ndarray:
    """The first training examples, the same on every process: (count, *example_shape)."""
    source = open_data(config, "train", SkipLog(None))
    at_once = min(count, config.batch_size)  # for every thread reads a batch of its own, ahead of what is asked for
    with contextlib.closing(_train_batches(config, source, batch_size=at_once)) as batches:
        wanted = itertools.islice(batches, -(-count // at_once))
        return np.concatenate([array for batch in wanted for array in batch.values()])[:count]


def _train_batches(config, source: Source, **share) -> Generator[Batch]:
    return train_batches(source, _cut(config), seed=config.seed, threads=config.data.threads, **share)


def _kind(config) -> Kind:
    data = config.data
    return recordings(data.sample_rate, data.max_seconds) if of_sound(config) else pictures(data.max_pixels)


def open_data(config, split: str, skipped: SkipLog, source: str = "") -> Source:
    """A config's source, or another one, as its model takes it. split: of `sources.py`."""
    data = config.data
    return open_source(source or data.source, split, kind=_kind(config), data_dir=data.data_dir, skipped=skipped)


def _cut(config) -> Cut:
    data = config.data
    if of_sound(config):
        (samples,) = example_shape(config)
        loudness = tuple(data.loudness) if data.vary_loudness else None
        return recording_cut(samples=samples, loudness=loudness, speed=tuple(data.speed))
    return picture_cut(
        size=data.size,
        resize_short=data.resize_short,
        crop=data.crop,
        flip=data.flip,
        crop_scale=tuple(data.crop_scale),
    )


class EvalData:
    """What a config's source is evaluated on: crops of its pictures, or its recordings, whole.

    Attributes:
        source: its name. split: which part of it. identity: changes when its items do. noun: of what is counted.
        name_of: of the item at an index.
    """

    def __init__(self, config, skipped: SkipLog, source: str = "", limit: int | None = None, split: str = "eval"):
        """source: instead of the config's. limit: of crops or recordings, evenly spread, instead of the config's; 0 =
        all. split: of `sources.py`."""
        data = config.data
        self._batch_size, self._threads = data.eval_batch_size, data.threads
        self.source, self.split = source or data.source, split
        self.noun = "recordings" if of_sound(config) else "crops"
        opened, limit = open_data(config, split, skipped, source), data.eval_limit if limit is None else limit
        self.identity, self.name_of = opened.identity(), opened.key
        check_alike(f"what {self.source} holds to evaluate", self.identity)
        if of_sound(config):
            self._items: EvalSounds | EvalCrops = EvalSounds(
                opened, sample_rate=data.sample_rate, limit=limit, batch_size=self._batch_size, threads=data.threads
            )
            return
        self._items = eval_crops(
            opened, size=data.size, resize_short=data.resize_short, per_picture=data.eval_crops, limit=limit
        )

    def __len__(self) -> int:
        return len(self._items)

    def batches(self, share: BatchShare = ALONE) -> Iterator[Batch]:
        """A process's share of one pass: as of `eval_batches` of pipeline.py, or of `EvalSounds`."""
        if isinstance(self._items, EvalSounds):

            def exchange(own):
                return of_shares(own, share.index, share.count)

            return self._items.batches(share.index, share.count, share.devices, exchange)
        return eval_batches(
            self._items,
            batch_size=self._batch_size,
            threads=self._threads,
            process_index=share.index,
            process_count=share.count,
        )
