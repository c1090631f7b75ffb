"""The stream of training batches and the pass over evaluation batches, both by grain.

A batch is a pure function of its step and the seed, whatever the number of processes and threads: order and
randomness are drawn per global row, and a process reads only its own rows of each global batch.
"""

import functools
from collections.abc import Generator, Iterator
from typing import Any, Protocol

import grain
import numpy as np

from simvq_jax.data.cuts import Cut, check_geometry
from simvq_jax.data.encoded import Item, Source
from simvq_jax.data.eval_crops import Batch, EvalCrops
from simvq_jax.data.reading import read_ahead

ENDLESS = 2**48  # rows; of the largest whole number, grain's count of batches of one row overflows


class _Rows(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def train_batches(
    source: Source,
    cut: Cut,
    *,
    batch_size: int,
    seed: int,
    threads: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch]:
    """Return this process's share of an endless, shuffled, deterministic stream of batches.

    Every epoch has its own order; a batch may span epochs. Work starts at the first `next`. The iterator is a
    generator: `close()`, or dropping it, stops the threads.

    Args:
      source: the pictures or recordings.
      cut: what of each is taken (see `cuts.py`).
      batch_size: rows of the global batch, a multiple of `process_count`.
      seed: fixes order and cuts.
      start_step: number of the first batch; starting late costs nothing.
      process_index: which share, 0 <= process_index < process_count.
      process_count: number of shares; share p is rows [p b, (p + 1) b) of each global batch, where b is
        batch_size // process_count.
      threads: decoding threads.

    Returns:
      Iterator of batches, a dict of arrays whose first axis is batch_size // process_count.

    Raises:
      ValueError: a number is out of its range, or (from the iterator) nothing can be read.
    """
    rows_per_process = _rows_per_process(batch_size, process_index, process_count, threads)
    _require(len(source) > 0, "The source holds nothing to train on; give one that does.")
    _require(seed >= 0, f"The seed {seed} is negative; give 0 or more.")
    _require(start_step >= 0, f"The start step {start_step} is negative; give 0 or more.")
    # The row selection comes last, so that a row's place in the global stream seeds its cut; it is lazy, so
    # rows of other processes are never read.
    stream = grain.MapDataset.source(_Shuffled(source, seed)).seed(seed).random_map(cut)
    own = _ProcessRows(stream, batch_size, rows_per_process, process_index)
    return _read(own, rows_per_process, start_step, threads)


def eval_crops(source: Source, *, size: int, resize_short: int, per_picture: int, limit: int) -> EvalCrops:
    """Return the evaluation crops of a source, the same on every call, as a sequence decoded when read.

    Args:
      source: the pictures; unreadable ones are never replaced by others, they count for nothing.
      size: pixels of the crop's side.
      resize_short: the short side is first resized to this many pixels, at least `size`; 0 keeps the
        picture's own resolution. A picture still smaller than the crop is enlarged to it.
      per_picture: crops of every picture: 1 for its centre, more for an even grid over it, overlapping where
        there are many.
      limit: keep this many crops, evenly spaced over the whole list; 0 for all.

    Raises:
      ValueError: a number is out of its range, or there is nothing to evaluate on.
    """
    check_geometry(size, resize_short)
    _require(per_picture >= 1, f"The crops a picture are {per_picture}; give 1 or more.")
    _require(limit >= 0, f"The limit {limit} is negative; give 0 for all crops or more for as many.")
    return EvalCrops(source, size=size, resize_short=resize_short, per_picture=per_picture, limit=limit)


def eval_batches(
    crops: EvalCrops, *, batch_size: int, process_index: int, process_count: int, threads: int
) -> Iterator[Batch]:
    """Return this process's share of one pass over the crops; every process gets the same number of batches.

    Args:
      crops: what `eval_crops` gave.
      batch_size: rows of the global batch, a multiple of `process_count`; the last batch is filled up.
      process_index: which share, 0 <= process_index < process_count.
      process_count: number of shares, laid out as in `train_batches`.
      threads: decoding threads.

    Returns:
      Finite iterator of {"image": uint8 (b, size, size, 3), "mask": bool (b,)}, b = batch_size //
      process_count; rows with a False mask are zeros that fill up a batch or stand for an unreadable picture.

    Raises:
      ValueError: a number is out of its range.
    """
    rows_per_process = _rows_per_process(batch_size, process_index, process_count, threads)
    own = _ProcessRows(_FilledUp(crops, batch_size), batch_size, rows_per_process, process_index)
    return _read(own, rows_per_process, 0, threads)


class _Shuffled:
    """The source over and over, every epoch in an order of its own that depends on seed and epoch alone.

    Stands in for grain's `shuffle().repeat()`, whose index shuffle takes milliseconds for every index of
    a source of a few pictures.
    """

    def __init__(self, source: Source, seed: int):
        self._source = source
        self._count = len(source)
        self._seed = seed
        # Two, because the threads straddle the end of an epoch.
        self._order = functools.lru_cache(maxsize=2)(self._permutation)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Item:
        epoch, place = divmod(index, self._count)
        return self._source[int(self._order(epoch)[place])]

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch)).permutation(self._count)


class _FilledUp:
    """The crops, with blanks behind them up to a multiple of the batch size."""

    def __init__(self, crops: EvalCrops, batch_size: int):
        self._crops = crops
        self._length = -(-len(crops) // batch_size) * batch_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        return self._crops[index] if index < len(self._crops) else self._crops.blank()


class _ProcessRows:
    """Rows [p b, (p + 1) b) of every global batch, in order; b = rows_per_process, p = process_index."""

    def __init__(self, rows: _Rows, batch_size: int, rows_per_process: int, process_index: int):
        self._rows = rows
        self._batch_size = batch_size
        self._rows_per_process = rows_per_process
        self._offset = process_index * rows_per_process

    def __len__(self) -> int:
        return len(self._rows) // self._batch_size * self._rows_per_process

    def __getitem__(self, index: int) -> Any:
        step, row = divmod(index, self._rows_per_process)
        return self._rows[step * self._batch_size + self._offset + row]


def _read(rows: _Rows, rows_per_batch: int, start_step: int, threads: int) -> Generator[Batch]:
    batches = grain.MapDataset.source(rows).batch(rows_per_batch)[start_step:]
    # One batch a thread and one ready: more would only delay the exit, which waits for batches under way.
    return read_ahead(batches, threads, threads + 1)


def _rows_per_process(batch_size: int, process_index: int, process_count: int, threads: int) -> int:
    _require(threads >= 1, f"The number of threads {threads} is under 1; give at least 1.")
    _require(
        0 <= process_index < process_count,
        f"The process index {process_index} is not in 0..{process_count - 1}; give one that is.",
    )
    _require(
        batch_size >= 1 and batch_size % process_count == 0,
        f"The batch size {batch_size} is no positive multiple of the {process_count} processes; give one that is.",
    )
    return batch_size // process_count


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)
