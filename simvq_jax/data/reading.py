"""Items read ahead by threads; that one of them died is told."""

from collections.abc import Generator
from typing import Any

import grain


class DeadReader(RuntimeError):
    """A decoding thread ended by an error that no file is to blame for."""


def read_ahead(dataset: grain.MapDataset, threads: int, ahead: int) -> Generator[Any]:
    """The items in order, `ahead` of them read before they are asked for. Ends its threads when it is closed.

    Raises:
      DeadReader: a thread met an error that is neither a ValueError nor an OSError, which are sentences already.
    """
    reader = iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)))
    try:
        yield from reader
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise DeadReader(
            f"a thread that reads the data died ({type(error).__name__}: {error}): --verbosity=1 shows where; start the"
            " same command again once that is mended."
        ) from error
    finally:
        reader.close()
