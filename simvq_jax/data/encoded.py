"""What sources of encoded files share: decoding on demand, skipping and listing what cannot be read."""

import abc
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from absl import logging

from simvq_jax.data.files import Unreadable, file_bytes
from simvq_jax.data.kinds import Kind
from simvq_jax.store import is_remote

Item = dict[str, Any]
REASONS_TOLD = 3  # of files, where none can be read


class Source(Protocol):
    """What the pipeline asks of a source of pictures or sounds."""

    def __len__(self) -> int:
        """Return the number of items, readable or not."""

    def __getitem__(self, index: int) -> Item:
        """Return item `index`, or the next readable one after it."""

    def read(self, index: int) -> Item | None:
        """Return item `index`, or None when it cannot be read."""

    def key(self, index: int) -> str:
        """Return the name of item `index`, readable or not."""

    def identity(self) -> str:
        """Return a text that changes when items come, go or change places."""


class Record(NamedTuple):
    """key: name of an item. data: the encoded file. label: its class, None where there is none."""

    key: str
    data: bytes | Path
    label: int | str | None


class SkipLog:
    """The list of unreadable files of a run, safe to share between threads.

    Args:
      path: file to which a line `key<TAB>reason` is appended for each file not yet listed there; None
        keeps the count only.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self._lock = threading.Lock()
        self.reasons: dict[str, str] = {}  # key -> why this process skipped it
        self._listed = _listed_keys(path)

    @property
    def count(self) -> int:
        """Number of distinct files skipped by this process."""
        return len(self.reasons)

    def record(self, key: str, reason: str) -> None:
        """List and warn of one file; a key that is already recorded is left alone."""
        key = " ".join(key.splitlines()).replace("\t", " ")
        with self._lock:
            if key in self.reasons:
                return
            self.reasons[key] = " ".join(reason.split())
            logging.warning("Skipped %s: %s", key, reason)
            if self.path is not None and key not in self._listed:
                self._list(self.path, key)

    def _list(self, path: Path, key: str) -> None:
        try:
            with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(f"{key}\t{self.reasons[key]}\n")
        except OSError as error:  # the work itself can go on
            logging.warning("%s cannot be written (%s): what is skipped is said here alone.", path, error.strerror)
            self.path = None


def _listed_keys(path: Path | None) -> set[str]:
    if path is None or not path.exists():
        return set()
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return {line.split("\t")[0] for line in lines}


class EncodedSource(abc.ABC):
    """Pictures or sounds decoded on demand; subclasses say where the bytes are."""

    def __init__(self, name: str, kind: Kind, skipped: SkipLog):
        self._name = name
        self._kind = kind
        self._skipped = skipped

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def identity(self) -> str: ...

    @abc.abstractmethod
    def _record(self, index: int) -> Record:
        """Return the encoded file and what is known of it."""

    def key(self, index: int) -> str:
        """Return the name of item `index`, readable or not."""
        return self._record(index).key

    def read(self, index: int) -> Item | None:
        """Decode item `index`; None, and a line in the skip log, when it cannot be read."""
        key, data, label = self._record(index)
        try:
            data = file_bytes(data, Unreadable) if isinstance(data, os.PathLike) and is_remote(data) else data
            return {self._kind.feature: self._kind.decode(data), "key": key, "label": label}
        except Unreadable as error:
            self._skipped.record(key, str(error))
            return None

    def __getitem__(self, index: int) -> Item:
        """Return item `index`, or the next readable one (cyclically): order depends on the files only.

        Raises:
          IndexError: `index` is not in [0, len).
          ValueError: nothing at all can be read.
        """
        count, noun = len(self), self._kind.noun
        if not 0 <= index < count:
            raise IndexError(f"{self._name} has no {noun} {index}; it holds {count}.")
        for offset in range(count):
            item = self.read((index + offset) % count)
            if item is not None:
                return item
        told = [f"{key}: {reason}" for key, reason in list(self._skipped.reasons.items())[:REASONS_TOLD]]
        raise ValueError(
            f"No {noun} in {self._name} can be read, of {count}: mend them, or give others. {' '.join(told)}"
        )
