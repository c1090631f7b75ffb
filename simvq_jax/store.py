"""Folders that may lie in a bucket, `gs://BUCKET/FOLDER`, reached by the optional package gcsfs."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

BUCKETS = "gs://"


def is_remote(path) -> bool:
    """Whether it lies in a bucket."""
    return os.fspath(path).startswith(BUCKETS)


def path_of(path) -> Path:
    """A path, of which ~ is the home, or what acts like one for an address in a bucket.

    Raises ModuleNotFoundError with the extra's name if the package is missing, ValueError on half an address.
    """
    if not is_remote(path):
        return Path(path).expanduser()
    if not os.fspath(path).removeprefix(BUCKETS).strip("/").partition("/")[2]:
        raise ValueError(f"{path} names no folder of a bucket: write {BUCKETS}BUCKET/FOLDER.")
    try:
        import gcsfs  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            "gcsfs is not installed, which reaches buckets: pip install 'simvq_jax[gcs]'."
        ) from error
    from etils import epath  # orbax and tfds bring it along

    remote: Any = epath.Path(path)  # made like a pathlib.Path
    return remote


def local_path(flag: str, value: str) -> Path:
    """A path on a disk, of which ~ is the home. Raises ValueError, naming the flag, on an address in a bucket."""
    if is_remote(value):
        raise ValueError(
            f"--{flag}={value} lies in a bucket, but this command reads and writes disks only: give a path on one."
        )
    return Path(value).expanduser()


def remote_files(folder: Path) -> Iterator[Path]:
    """All files of a folder in a bucket, and of those in it."""
    remote: Any = folder
    for inner, _, names in remote.walk():
        inside = path_of(inner if is_remote(inner) else f"{BUCKETS}{os.fspath(inner)}")
        yield from (inside / name for name in names)


def size(file: Path) -> int:
    """Bytes."""
    found: Any = file.stat()
    return found.length if is_remote(file) else found.st_size


class Staged(NamedTuple):
    """folder: where files of `target` can be appended to; the same, unless that lies in a bucket. before_upload: may
    raise to forbid it."""

    folder: Path
    target: Path
    before_upload: Callable[[], None]

    def upload(self) -> None:
        """Puts the files as they are now into the bucket: objects there cannot be appended to, only replaced."""
        if self.folder == self.target:
            return
        self.before_upload()
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            remote = self.target / file.relative_to(self.folder).as_posix()
            remote.write_bytes(file.read_bytes())


@contextlib.contextmanager
def staged(target: Path, *names: str, before_upload: Callable[[], None] = lambda: None) -> Iterator[Staged]:
    """The folder itself, or a local one for a folder in a bucket, with the named files of it; uploaded at the end, if
    that is a good one."""
    if not is_remote(target):
        yield Staged(target, target, before_upload)
        return
    with tempfile.TemporaryDirectory(prefix="simvq_jax_") as folder:
        stage = Staged(Path(folder), target, before_upload)
        for name in names:
            if (target / name).exists():
                (stage.folder / name).write_bytes((target / name).read_bytes())
        yield stage
        stage.upload()
