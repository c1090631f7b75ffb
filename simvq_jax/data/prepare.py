"""Prepare a folder of images as a TFDS dataset in array_record files, without TensorFlow.

    python -m simvq_jax.data.prepare --folder=PICTURES --name=my_pictures --data_dir=DATASETS

The data source `tfds:my_pictures` with `data_dir=DATASETS` then reads it. One large file instead of many
small ones suits network file systems; on a local disk `folder:PICTURES` needs no such step.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from simvq_jax import cli
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
        files = split_files(self._folder, images.EXTENSIONS, "image")
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
            f"The dataset name {name!r} is malformed; use lower-case letters, digits and underscores, a letter first."
        )
    split_files(folder, images.EXTENSIONS, "image")
    data_dir.mkdir(parents=True, exist_ok=True)
    skipped = SkipLog(data_dir / f"{name}.skipped.tsv")
    builder = FolderBuilder(name=name, folder=folder, data_dir=data_dir, max_pixels=max_pixels, skipped=skipped)
    if Path(builder.data_path).exists():
        raise ValueError(f"The dataset {name!r} is already in {data_dir}; delete {builder.data_path} or rename.")
    builder.download_and_prepare()
    return skipped


def main(folder: str, name: str, data_dir: str, max_pixels: int) -> None:
    """Command line of `prepare_folder`."""
    skipped = prepare_folder(Path(folder).expanduser(), name, Path(data_dir).expanduser(), max_pixels)
    print(f"Prepared tfds:{name} in {data_dir}; unreadable files left out: {skipped.count}.")


if __name__ == "__main__":
    cli.run_main(
        main,
        {"folder": cli.REQUIRED, "name": cli.REQUIRED, "data_dir": cli.REQUIRED, "max_pixels": 100_000_000},
        {
            "folder": "folder of images, with or without train and val subfolders",
            "name": "name of the dataset, of lower-case letters, digits and underscores",
            "data_dir": "folder of prepared datasets to write to",
            "max_pixels": "largest height x width accepted",
        },
    )
