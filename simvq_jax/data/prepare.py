"""Prepare a folder of images as a TFDS dataset in array_record files, without TensorFlow.

    python -m simvq_jax.data.prepare --folder=PICTURES --name=my_pictures --data_dir=DATASETS

The data source `tfds:my_pictures` with `data_dir=DATASETS` then reads it. One large file instead of many
small ones suits network file systems; on a local disk `folder:PICTURES` needs no such step.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import app, flags

from simvq_jax.data import images
from simvq_jax.data.encoded import SkipLog
from simvq_jax.data.files import split_files

_TFDS_SPLITS = {"train": "train", "eval": "validation"}


# TFDS loads lazily, so mypy cannot see the base class and its arguments.
class FolderBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS builder of the features `image` (the file's own bytes) and `key` (its path under the folder).

    Args:
      name: name of the dataset.
      folder: root of the images; its splits are those of `split_files`, `eval` stored as `validation`.
      data_dir: folder of prepared datasets.
      max_pixels: largest height x width accepted.
      skipped: log of unreadable files, which are left out.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded, so there are no checksums beside this file; looking for them needs a package
    # (importlib_resources) that TFDS does not declare.
    code_path = None

    def __init__(self, *, name: str, folder: Path, data_dir: Path, max_pixels: int, skipped: SkipLog):
        self.name = name
        self._folder = folder
        self._max_pixels = max_pixels
        self._skipped = skipped
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "key": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Images of {self._folder}",
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        del dl_manager  # there is nothing to download
        files = split_files(self._folder)
        return {_TFDS_SPLITS[split]: self._generate_examples(split, paths) for split, paths in files.items()}

    def _generate_examples(self, split: str, paths: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
        stored = 0
        for path in paths:
            key = path.relative_to(self._folder).as_posix()
            try:
                images.decode_image(path, self._max_pixels)
            except images.UnreadableImage as error:
                self._skipped.record(key, str(error))
                continue
            stored += 1
            yield key, {"image": path.read_bytes(), "key": key}
        if not stored:
            raise ValueError(f"No image of the {split} split can be read, of {len(paths)}; replace them.")


def prepare_folder(folder: Path, name: str, data_dir: Path, max_pixels: int) -> SkipLog:
    """Store the images of a folder, as the bytes they are, as the TFDS dataset `name`.

    Unreadable files are left out, warned of, and listed in `NAME.skipped.tsv` in `data_dir`.

    Args:
      folder: root of the images; see `split_files` for the splits.
      name: lower-case letters, digits and underscores, a letter first.
      data_dir: folder of prepared datasets, made if missing.
      max_pixels: largest height x width accepted.

    Returns:
      The log of the files left out.

    Raises:
      ValueError: the name is malformed or taken, or a split has no readable image.
      FileNotFoundError: the folder is missing or holds no image.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"The dataset name {name!r} is malformed; "
            "use lower-case letters, digits and underscores, a letter first."
        )
    split_files(folder)
    data_dir.mkdir(parents=True, exist_ok=True)
    skipped = SkipLog(data_dir / f"{name}.skipped.tsv")
    builder = FolderBuilder(
        name=name, folder=folder, data_dir=data_dir, max_pixels=max_pixels, skipped=skipped
    )
    if Path(builder.data_path).exists():
        raise ValueError(
            f"The dataset {name!r} is already in {data_dir}; delete {builder.data_path} or rename."
        )
    builder.download_and_prepare()
    return skipped


def main(argv: list[str]) -> int:
    """Run from the command line; an error in the input prints its one sentence and returns 2."""
    del argv
    args = flags.FLAGS
    try:
        skipped = prepare_folder(
            Path(args.folder).expanduser(), args.name, Path(args.data_dir).expanduser(), args.max_pixels
        )
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Prepared tfds:{args.name} in {args.data_dir}; unreadable files left out: {skipped.count}.")
    return 0


def _define_flags() -> None:
    flags.DEFINE_string("folder", None, "Folder of images, with or without train and val subfolders.")
    flags.DEFINE_string("name", None, "Name of the dataset: lower-case letters, digits and underscores.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared datasets to write to.")
    flags.DEFINE_integer("max_pixels", 100_000_000, "Largest height x width accepted.")
    flags.mark_flags_as_required(["folder", "name", "data_dir"])


if __name__ == "__main__":
    _define_flags()
    app.run(main)
