"""From a config to its data: the training stream and the evaluation crops."""

import contextlib
from collections.abc import Generator, Iterator

import jax
import numpy as np

from simvq_jax.data.cuts import picture_cut
from simvq_jax.data.kinds import pictures
from simvq_jax.data.pipeline import eval_batches, eval_crops, train_batches
from simvq_jax.data.sources import SkipLog, open_source


def build_train_batches(config, skipped: SkipLog, start_step: int) -> Generator[dict]:
    """This process's share of the training stream, from `start_step` on."""
    return _train_batches(
        config,
        skipped,
        batch_size=config.batch_size,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def first_images(config, count: int) -> np.ndarray:
    """Some training images, the same on every process: uint8 (count, size, size, 3)."""
    with contextlib.closing(_train_batches(config, SkipLog(None), batch_size=count)) as batches:
        return next(batches)["image"]


def _train_batches(config, skipped: SkipLog, **share) -> Generator[dict]:
    data = config.data
    cut = picture_cut(
        size=data.size,
        resize_short=data.resize_short,
        crop=data.crop,
        flip=data.flip,
        crop_scale=tuple(data.crop_scale),
    )
    source = open_source(data.source, "train", kind=pictures(data.max_pixels), data_dir=data.data_dir, skipped=skipped)
    return train_batches(source, cut, seed=config.seed, threads=data.threads, **share)


class EvalData:
    """Evaluation crops of a config's source; `batches()` goes over them once."""

    def __init__(self, config, skipped: SkipLog, source: str = "", limit: int | None = None):
        """source: instead of the config's. limit: crops, evenly spread, instead of the config's; 0 = all."""
        data = config.data
        self._batch_size, self._threads = data.eval_batch_size, data.threads
        self.source = source or data.source
        opened = open_source(
            self.source, "eval", kind=pictures(data.max_pixels), data_dir=data.data_dir, skipped=skipped
        )
        self._crops = eval_crops(
            opened,
            size=data.size,
            resize_short=data.resize_short,
            per_picture=data.eval_crops,
            limit=data.eval_limit if limit is None else limit,
        )

    def __len__(self) -> int:
        return len(self._crops)

    @property
    def batch_count(self) -> int:
        """Batches of a pass, the last one filled up."""
        return -(-len(self) // self._batch_size)

    def batches(self) -> Iterator[dict]:
        """{"image": uint8 (b, size, size, 3), "mask": bool (b,)}."""
        return eval_batches(
            self._crops,
            batch_size=self._batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=self._threads,
        )
