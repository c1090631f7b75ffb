"""One pass over whole recordings, in batches of like lengths."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import grain
import numpy as np

from simvq_jax.data.encoded import Source
from simvq_jax.data.eval_crops import Batch
from simvq_jax.data.reading import read_ahead

SHORTEST = 4  # seconds of a batch
LONGEST_FULL = 64  # seconds of a batch of all rows; longer ones have fewer, so that a batch's memory has a bound

Read = list[tuple[int, np.ndarray | None]]  # indices of recordings and their samples, None where they cannot be read
Exchange = Callable[[np.ndarray], np.ndarray]  # of a share's numbers (n,) those of all shares, (shares, n)


class EvalSounds:
    """Recordings to evaluate on, whole.

    A batch is filled up in time to SHORTEST seconds, or 2, 4, 8, ... times as many, so that a few shapes serve all
    lengths: a program is compiled for each shape.
    """

    def __init__(self, source: Source, *, sample_rate: int, limit: int, batch_size: int, threads: int):
        """limit: recordings, evenly spread over the source; 0 for all."""
        if limit < 0:
            raise ValueError(f"The limit {limit} is negative; give 0 for all recordings or more for as many.")
        self._source, self._shortest = source, SHORTEST * sample_rate
        self._batch_size, self._threads = batch_size, threads
        length = min(limit, len(source)) if limit else len(source)
        self._indices = [i * len(source) // length for i in range(length)]

    def __len__(self) -> int:
        return len(self._indices)

    def batches(
        self, share: int = 0, shares: int = 1, devices: int = 1, exchange: Exchange = lambda own: own[np.newaxis]
    ) -> Iterator[Batch]:
        """{"audio": float32 (b, samples), "lengths": int32 (b,) samples that count, "mask": bool (b,), "index": int32
        (b,)}, b = batch size // shares, or of long recordings fewer, a multiple of `devices`; rows with a False mask
        fill up a batch, and have index -1.

        A share reads its own recordings alone. Of the others' it learns by `exchange`, called at the same places for
        every share, how many samples they take: so all agree on each batch, whatever one of them cannot read.
        """
        rows = self._batch_size // shares
        waiting = _Waiting(share, shares, functools.partial(self._rows, most=rows, devices=devices))
        for read in self._read(share, rows):
            own = np.zeros((rows,), np.int32)
            own[: len(read)] = [0 if sound is None else self._samples(sound) for _, sound in read]
            waiting.add(read, exchange(own))
            yield from waiting.batches(fill_up=False)
        yield from waiting.batches(fill_up=True)

    def _read(self, share: int, rows: int) -> Iterator[Read]:
        """Of each run of a batch's size the share's recordings, which at the end may be fewer than `rows`, or none."""
        firsts = range(share * rows, share * rows + len(self), self._batch_size)
        runs = [self._indices[first : first + rows] for first in firsts]
        stream = grain.MapDataset.source([index for run in runs for index in run]).map(self._recording)
        with contextlib.closing(read_ahead(stream, self._threads, self._threads + 1)) as recordings:
            for run in runs:
                yield [next(recordings) for _ in run]

    def _recording(self, index: int) -> tuple[int, np.ndarray | None]:
        item = self._source.read(index)
        return index, None if item is None else item["audio"]

    def _rows(self, samples: int, most: int, devices: int) -> int:
        """Of a share's batch of so many samples."""
        fitting = most * LONGEST_FULL * self._shortest // (SHORTEST * samples)
        return max(min(most, fitting // devices * devices), devices)

    def _samples(self, sound: np.ndarray) -> int:
        """Of the batch that a recording goes into."""
        return self._shortest * 2 ** max(int(np.ceil(np.log2(len(sound) / self._shortest))), 0)


class _Waiting:
    """Recordings that wait for a batch: those of one share, and how many of every other."""

    def __init__(self, share: int, shares: int, rows_of: Callable[[int], int]):
        """rows_of: a share's rows of a batch of so many samples."""
        self._share, self._shares, self._rows_of = share, shares, rows_of
        self._own: dict[int, Read] = {}  # by the samples of their batch
        self._counts: dict[int, np.ndarray] = {}  # likewise, (shares,)

    def add(self, read: Read, samples: np.ndarray) -> None:
        """samples: (shares, rows), of the batch that each recording goes into; 0 = none."""
        for size in np.unique(samples[samples > 0]).tolist():
            self._counts.setdefault(size, np.zeros((self._shares,), np.int64))
            self._counts[size] += np.sum(samples == size, axis=1)
            taken = [one for one, wanted in zip(read, samples[self._share], strict=False) if wanted == size]
            self._own.setdefault(size, []).extend(taken)

    def batches(self, fill_up: bool) -> Iterator[Batch]:
        """Those for which a share has all its rows; with `fill_up` what is left as well."""
        for size, counts in sorted(self._counts.items()):
            rows = self._rows_of(size)
            while counts.max() >= (1 if fill_up else rows):
                yield self._batch(size, rows)
                np.maximum(counts - rows, 0, out=counts)

    def _batch(self, size: int, rows: int) -> Batch:
        recordings, self._own[size] = self._own[size][:rows], self._own[size][rows:]
        batch = {
            "audio": np.zeros((rows, size), np.float32),
            "lengths": np.full((rows,), size, np.int32),
            "mask": np.zeros((rows,), bool),
            "index": np.full((rows,), -1, np.int32),
        }
        for row, (index, sound) in enumerate(recordings):
            assert sound is not None  # or it would not wait
            batch["audio"][row, : len(sound)] = sound
            batch["lengths"][row], batch["mask"][row], batch["index"][row] = len(sound), True, index
        return batch
