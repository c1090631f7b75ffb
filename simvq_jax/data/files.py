"""Which files of a folder are its pictures, and which of them are held out."""

import os
from collections.abc import Iterator
from pathlib import Path

from absl import logging

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"})
EVAL_FOLDERS = ("val", "validation", "eval", "test")
HOLD_OUT_EVERY = 20


def split_files(root: Path) -> dict[str, list[Path]]:
    """Return the picture files of a tree under "train" and "eval", each sorted by relative path.

    Subfolders `train` and one of `val`, `validation`, `eval`, `test` (the first that exists) are the splits
    if both are there, and nothing else is read. Otherwise every 20th file of the sorted list, from the first
    on, is held out for "eval". A single file serves as both, with a warning.

    Raises:
      FileNotFoundError: the folder is missing or holds no picture.
    """
    eval_folder = next((root / name for name in EVAL_FOLDERS if (root / name).is_dir()), None)
    if (root / "train").is_dir() and eval_folder is not None:
        logging.info("Splits of %s: its folders train and %s.", root, eval_folder.name)
        return {"train": list_images(root / "train"), "eval": list_images(eval_folder)}
    files = list_images(root)
    if len(files) == 1:
        logging.log_first_n(logging.WARNING, "%s is both trained and evaluated on: it is the only image.", 1, files[0])
        return {"train": files, "eval": files}
    kept = [file for index, file in enumerate(files) if index % HOLD_OUT_EVERY]
    return {"train": kept, "eval": files[::HOLD_OUT_EVERY]}


def list_images(root: Path) -> list[Path]:
    """Return every file under `root` with a picture's extension, links followed, sorted by relative path.

    Raises:
      FileNotFoundError: `root` is missing, is no folder, or holds no such file.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give the path of an existing folder of images.")
    everything = list(_walk(root))
    files = [file for file in everything if file.suffix.lower() in EXTENSIONS]
    files.sort(key=lambda file: file.relative_to(root).as_posix())
    if files and len(files) < len(everything):
        logging.warning(
            "%s holds %d file(s) without a picture's extension, which are left out, as %s.",
            root,
            len(everything) - len(files),
            next(file.name for file in everything if file.suffix.lower() not in EXTENSIONS),
        )
    if not files:
        raise FileNotFoundError(
            f"{root} holds no image file; put files with one of {', '.join(sorted(EXTENSIONS))} there."
        )
    return files


def _walk(root: Path) -> Iterator[Path]:
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        target = Path(folder).resolve()
        if target in seen:  # a link back up the tree
            subfolders.clear()
            continue
        seen.add(target)
        subfolders.sort()  # of two links to one folder the same one is followed on every machine
        yield from (Path(folder, name) for name in names)
