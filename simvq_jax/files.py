"""Writing files and folders so that a crash leaves the old one or the new one, never half of one."""

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from simvq_jax.store import is_remote

LONGEST_KEPT = 64  # bytes of a name that stays in those beside it
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems without hard links


def replace_text(path: Path, text: str) -> None:
    """Writes `text` to `path` in one move. A bucket shows an object once it is whole."""
    if is_remote(path):
        path.write_text(text, encoding="utf-8")
        return
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a name beside `path` to write to; what is there at the end is moved to `path`, on the disk for good."""
    fresh = beside(path)
    try:
        yield fresh
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        if error.errno and error.filename is None:  # a write to a full disk does not say where
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        fresh.unlink(missing_ok=True)


def readable(text):
    """Names that are not UTF-8 with their bytes escaped, as nothing else could be stored; anything else as it is."""
    return os.fsencode(text).decode("utf-8", "backslashreplace") if isinstance(text, str) else text


def create_text(path: Path, text: str) -> bool:
    """Writes `text` to `path` unless it exists, in one move where the file system has links; whether it did. Of
    several processes one does."""
    fresh = beside(path)
    try:
        fresh.write_text(text, encoding="utf-8")
        try:
            os.link(fresh, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            _write_new(path, text)
        return True
    except FileExistsError:
        return False
    finally:
        fresh.unlink(missing_ok=True)


def _write_new(path: Path, text: str) -> None:
    """Not in one move: another process may see the beginning."""
    with path.open("x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            path.unlink()
            raise


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Gives an empty folder beside `out` to fill, which becomes `out` at the end, or goes where that fails.

    Raises FileExistsError where `out` is in use.
    """
    check_unused(out)
    remove_left_behind(out)
    fresh = beside(out)
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"{out} cannot be made ({error.strerror}): give another --out.") from error
    try:
        yield fresh
        fresh.replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_unused(out: Path) -> None:
    """Raises FileExistsError where there is a file, or a folder with anything but what killed processes left."""
    if out.exists() and (not out.is_dir() or any(not _is_beside(path) for path in out.iterdir())):
        raise FileExistsError(f"{out} is in use: give another --out, so that nothing there is lost.")


def beside(path: Path) -> Path:
    """A new hidden name in the same folder, of this process on this machine."""
    return path.with_name(f"{_stem(path)}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def remove_left_behind(path: Path) -> None:
    """Removes what processes of this machine that are no more left beside `path`."""
    for left in path.parent.glob(f"{glob.escape(_stem(path))}.*.tmp"):
        if _is_running(int(left.name.split(".")[-3])):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _stem(path: Path) -> str:
    """What the names beside `path` begin with: of a long name its digest, for names have 255 bytes at most."""
    short = len(os.fsencode(path.name)) <= LONGEST_KEPT
    name = path.name if short else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return f".{name}.{socket.gethostname()[:LONGEST_KEPT]}"


def _is_beside(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
