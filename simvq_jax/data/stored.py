"""Encoded files stored as a TFDS dataset in array_record files, without TensorFlow."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from simvq_jax.data.encoded import SkipLog
from simvq_jax.data.files import Unreadable
from simvq_jax.data.kinds import Kind
from simvq_jax.files import readable

Files = Iterable[tuple[str, Path | bytes]]  # (key, a file or its bytes)


# TFDS loads lazily, so mypy cannot see the base class and its arguments.
class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS builder of the kind's feature (a file's own bytes) and `key`."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded, so there are no checksums beside this file; looking for them needs a package
    # (importlib_resources) that TFDS does not declare.
    code_path = None

    def __init__(
        self, *, name: str, description: str, kind: Kind, splits: Mapping[str, Files], data_dir: Path, skipped
    ):
        self.name = name
        self._description, self._kind, self._splits, self._skipped = description, kind, splits, skipped
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        encoded = tfds.features.Image(shape=(None, None, 3)) if self._kind.noun == "image" else tfds.features.Text()
        features = tfds.features.FeaturesDict({self._kind.feature: encoded, "key": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, description=self._description, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        del dl_manager  # there is nothing to download
        return {split: self._generate_examples(split, files) for split, files in self._splits.items()}

    def _generate_examples(self, split: str, files: Files) -> Iterator[tuple[str, dict[str, Any]]]:
        stored = seen = 0
        for key, file in files:
            seen += 1
            try:
                self._kind.decode(file)
            except Unreadable as error:
                self._skipped.record(key, str(error))
                continue
            stored += 1
            name = readable(key)
            yield name, {self._kind.feature: file.read_bytes() if isinstance(file, Path) else file, "key": name}
        if not stored:
            raise ValueError(f"No {self._kind.noun} of the {split} split can be read, of {seen}; replace them.")


def store(*, name: str, description: str, kind: Kind, splits: Mapping[str, Files], data_dir: Path) -> SkipLog:
    """Stores files, as the bytes they are, as the TFDS dataset `name`.

    Unreadable files are left out, warned of, and listed in `NAME.skipped.tsv` in `data_dir`.

    Args:
      name: lower-case letters, digits and underscores, a letter first.
      kind: of the files.
      splits: name of a split -> its files, gone over once.
      data_dir: folder of prepared datasets, made if missing.

    Returns:
      The log of the files left out.

    Raises:
      ValueError: the name is malformed or taken, or a split has no readable file.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"The dataset name {name!r} is malformed; use lower-case letters, digits and underscores, a letter first."
        )
    data_dir.mkdir(parents=True, exist_ok=True)
    skipped = SkipLog(data_dir / f"{name}.skipped.tsv")
    builder = _Builder(name=name, description=description, kind=kind, splits=splits, data_dir=data_dir, skipped=skipped)
    if Path(builder.data_path).exists():
        raise ValueError(f"The dataset {name!r} is already in {data_dir}; delete {builder.data_path} or rename.")
    builder.download_and_prepare()
    return skipped
