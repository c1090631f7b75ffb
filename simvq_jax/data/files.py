"""Which files of a folder are its pictures or sounds, of which class, and which of them are held out."""

import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path, PurePosixPath

from absl import logging

from simvq_jax.store import is_remote, remote_files

EVAL_FOLDERS = ("val", "validation", "eval", "test")
SPLIT_FOLDERS = ("train", *EVAL_FOLDERS)  # no classes, where a tree has its splits in folders
HOLD_OUT_EVERY = 20
SPLITS = ("train", "eval", "all")


class Unreadable(ValueError):
    """A file that this package cannot use; the message is the reason, in one sentence."""


def file_bytes(path: Path, refusal: type[Unreadable]) -> bytes:
    """Return what the file holds, or raise `refusal`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise refusal(
            f"{path} cannot be opened: {error.strerror or error}; restore the file or its permissions."
        ) from error


def check_split(split: str) -> None:
    """Raises ValueError if the split is none of SPLITS."""
    if split not in SPLITS:
        raise ValueError(f"The split {split!r} is unknown; give one of {', '.join(SPLITS)}.")


def class_of(key: str, splits: Sequence[str]) -> str | None:
    """The name of the folder that a file lies in, which is its class; None at the root, and in a folder of `splits`,
    those of the root that are no classes."""
    folder = PurePosixPath(key).parent
    return None if folder.as_posix() in splits else folder.name or None


def split_folders(root: Path) -> tuple[str, ...]:
    """Of a tree: "train" and the first of EVAL_FOLDERS, if both are there; else none."""
    held_out = next((name for name in EVAL_FOLDERS if (root / name).is_dir()), None)
    return ("train", held_out) if held_out and (root / "train").is_dir() else ()


def split_files(root: Path, extensions: Set[str], noun: str) -> dict[str, list[Path]]:
    """Return the files of a tree under "train" and "eval", each sorted by relative path.

    Subfolders `train` and one of `val`, `validation`, `eval`, `test` (the first that exists) are the splits
    if both are there, and nothing else is read. Otherwise every 20th file of the sorted list, from the first
    on, is held out for "eval". A single file serves as both, with a warning.

    Raises:
      FileNotFoundError: the folder is missing or holds no such file.
    """
    if folders := split_folders(root):
        logging.info("Splits of %s: its folders %s and %s.", root, *folders)
        found = (list_files(root / folder, extensions, noun) for folder in folders)
        return dict(zip(("train", "eval"), found, strict=True))
    files = list_files(root, extensions, noun)
    if len(files) == 1:
        logging.log_first_n(
            logging.WARNING, "%s is both trained and evaluated on: it is the only %s.", 1, files[0], noun
        )
        return {"train": files, "eval": files}
    kept = [file for index, file in enumerate(files) if index % HOLD_OUT_EVERY]
    return {"train": kept, "eval": files[::HOLD_OUT_EVERY]}


def list_files(root: Path, extensions: Set[str], noun: str) -> list[Path]:
    """Return every file under `root` with one of the extensions, links followed, sorted by relative path.

    Raises:
      FileNotFoundError: `root` is missing, is no folder, or holds no such file.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give the path of an existing folder of {noun}s.")
    everything = list(_walk(root))
    files = [file for file in everything if file.suffix.lower() in extensions]
    files.sort(key=lambda file: file.relative_to(root).as_posix())
    if files and len(files) < len(everything):
        logging.warning(
            "%s holds %d file(s) without an extension of %ss, which are left out, as %s.",
            root,
            len(everything) - len(files),
            noun,
            next(file.name for file in everything if file.suffix.lower() not in extensions),
        )
    if not files:
        raise FileNotFoundError(
            f"{root} holds no {noun} file; put files with one of {', '.join(sorted(extensions))} there."
        )
    return files


def _walk(root: Path) -> Iterator[Path]:
    if is_remote(root):
        yield from remote_files(root)
        return
    seen = set()
    for folder, subfolders, names in os.walk(root, onerror=_raise, followlinks=True):
        target = Path(folder).resolve()
        if target in seen:  # a link back up the tree
            subfolders.clear()
            continue
        seen.add(target)
        subfolders.sort()  # of two links to one folder the same one is followed on every machine
        yield from (Path(folder, name) for name in names)


def _raise(error: OSError):
    """A folder that cannot be listed would be left out without a word."""
    raise PermissionError(
        f"{error.filename} cannot be listed ({error.strerror}): restore its permissions, or move it elsewhere."
    ) from error
