"""One pass over whole recordings, in batches of like lengths."""

from collections.abc import Iterator

import grain
import numpy as np

from simvq_jax.data.encoded import Source
from simvq_jax.data.eval_crops import Batch

SHORTEST = 4  # seconds of a batch


class EvalSounds:
    """Recordings to evaluate on, whole.

    A batch is filled up in time to SHORTEST seconds, or 2, 4, 8, ... times as many, so that a few shapes serve all
    lengths: a program is compiled for each shape.

    Attributes:
      keys: of the recordings read so far, by their index.
    """

    def __init__(self, source: Source, *, sample_rate: int, limit: int, batch_size: int, threads: int):
        """limit: recordings, evenly spread over the source; 0 for all."""
        if limit < 0:
            raise ValueError(f"The limit {limit} is negative; give 0 for all recordings or more for as many.")
        self._source, self._rate = source, sample_rate
        self._batch_size, self._threads = batch_size, threads
        self._length = min(limit, len(source)) if limit else len(source)
        self.keys: dict[int, str] = {}

    def __len__(self) -> int:
        return self._length

    def batches(self, process_index: int = 0, process_count: int = 1) -> Iterator[Batch]:
        """{"audio": float32 (b, samples), "lengths": int32 (b,) samples that count, "mask": bool (b,), "index": int32
        (b,)}, b = batch size // process_count; rows with a False mask fill up a batch, and have index -1.

        Every process decodes all recordings, so that all agree on the batches, and keeps its own rows.
        """
        rows = self._batch_size // process_count
        own = slice(process_index * rows, (process_index + 1) * rows)
        waiting: dict[int, list[tuple[int, np.ndarray]]] = {}
        for index, sound in self._recordings():
            shortest = SHORTEST * self._rate
            size = shortest * 2 ** max(int(np.ceil(np.log2(len(sound) / shortest))), 0)
            waiting.setdefault(size, []).append((index, sound))
            if len(waiting[size]) == self._batch_size:
                yield self._batch(waiting.pop(size), size, own)
        for size in sorted(waiting):
            yield self._batch(waiting[size], size, own)

    def _recordings(self) -> Iterator[tuple[int, np.ndarray]]:
        """(index, samples) of every recording that can be read, in order."""
        places = [i * len(self._source) // self._length for i in range(self._length)]
        stream = grain.MapDataset.source(places).map(lambda place: (place, self._source.read(place)))
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._threads + 1)
        for place, item in stream.to_iter_dataset(options):
            if item is not None:
                self.keys[place] = item["key"]
                yield place, item["audio"]

    def _batch(self, recordings, size: int, own: slice) -> Batch:
        count = self._batch_size
        batch = {
            "audio": np.zeros((count, size), np.float32),
            "lengths": np.full((count,), size, np.int32),
            "mask": np.zeros((count,), bool),
            "index": np.full((count,), -1, np.int32),
        }
        for row, (index, sound) in enumerate(recordings):
            batch["audio"][row, : len(sound)] = sound
            batch["lengths"][row], batch["mask"][row], batch["index"][row] = len(sound), True, index
        return {name: array[own] for name, array in batch.items()}
