"""A dataset that TFDS has prepared, as a source (see `sources.py`)."""

import os
from typing import Any

from simvq_jax import store
from simvq_jax.data.encoded import EncodedSource, Record, SkipLog
from simvq_jax.data.files import HOLD_OUT_EVERY, SPLIT_FOLDERS, check_split, class_of
from simvq_jax.data.kinds import Kind


class TfdsSource(EncodedSource):
    """A prepared TFDS dataset with a feature `image` or `audio`, read without TensorFlow from array_record files.

    "train" is the split of that name; "eval" is `validation` if there is one, else `test`, else the last
    twentieth of train, which "train" then leaves out; "all" is every split. The stored bytes are decoded as files are.

    Args:
      name: name of the dataset, with config and version if wanted (`name/config:1.0.0`), and behind an @ the split
        that "eval" is, if not the one above (`libritts24k@test_clean`); "all" then raises ValueError.
      split: "train", "eval" or "all".
      data_dir: folder of prepared datasets; "" for TFDS's own default.
      kind: of its records.
      skipped: log of unreadable records.

    Raises:
      FileNotFoundError: there is no such dataset, or it is not prepared.
      ValueError: it is stored in a format without random access, lacks a train split, that behind the @ or a feature of
        the kind, or has a single record.
    """

    def __init__(self, name: str, split: str, *, data_dir: str = "", kind: Kind, skipped: SkipLog):
        import tensorflow_datasets as tfds

        super().__init__(f"tfds {name}", kind, skipped)
        check_split(split)
        name, _, held_out = name.partition("@")
        builder = _prepared_builder(name, data_dir, kind)
        examples = {part: info.num_examples for part, info in builder.info.splits.items()}
        self._split = _split_of(name, split, examples, held_out)
        self._full_name = builder.info.full_name
        self._records = builder.as_data_source(split=self._split, decoders={kind.feature: tfds.decode.SkipDecoding()})

    def __len__(self) -> int:
        return len(self._records)

    def identity(self) -> str:
        """Return the dataset's full name, split and number of records."""
        return f"{self._full_name} {self._split}, {len(self)} records"

    def _record(self, index: int) -> Record:
        record = self._records[index]
        key = os.fsdecode(record.get("key", record.get("file_name", f"{self._split}/{index}")))
        return Record(key, record[self._kind.feature], _label_of(record, key))


def _label_of(record: dict[str, Any], key: str) -> int | str | None:
    """Its own, or by the keys of `prepare`, which keep the folders of splits."""
    if "label" in record:
        return int(record["label"])
    return class_of(key, SPLIT_FOLDERS) if "key" in record else None


def _prepared_builder(name: str, data_dir: str, kind: Kind) -> Any:
    import tensorflow_datasets as tfds

    where = data_dir or "the default folder of TFDS"
    try:
        builder = tfds.builder(name, data_dir=str(store.path_of(data_dir).expanduser()) if data_dir else None)
    except ValueError as error:  # no such dataset, or a name that TFDS cannot parse
        raise FileNotFoundError(
            f"There is no dataset {name!r} in {where}; "
            "prepare one of that name with python -m simvq_jax.data.prepare, or set data_dir."
        ) from error
    if not builder.info.splits:
        raise FileNotFoundError(
            f"The dataset {name!r} is not prepared in {where}; "
            "prepare it as docs/IMAGENET.md or docs/LIBRITTS.md does, or set data_dir."
        )
    formats = sorted(file_format.value for file_format in builder.info.available_file_formats())
    if "array_record" not in formats:
        raise ValueError(
            f"The dataset {name!r} in {where} is stored as {', '.join(formats)}, without random access; "
            "prepare it as array_record, as docs/IMAGENET.md does, into another data_dir."
        )
    if kind.feature not in builder.info.features:
        raise ValueError(
            f"The dataset {name!r} has the features {', '.join(builder.info.features)} and no {kind.feature!r}; "
            f"choose a dataset of {kind.noun}s."
        )
    return builder


def _split_of(name: str, split: str, examples: dict[str, int], held_out: str) -> str:
    if held_out and (held_out == "train" or held_out not in examples):
        raise ValueError(
            f"The dataset {name!r} has the splits {', '.join(examples)}; give one of those, and not train, instead of"
            f" {held_out!r}."
        )
    if split == "all" and held_out:
        raise ValueError(
            f"The split 'all' of the dataset {name!r} is not {held_out!r} alone: give --split=eval for that, or --data"
            f" without @{held_out}."
        )
    if split == "all":
        return "+".join(examples)
    if "train" not in examples:
        raise ValueError(
            f"The dataset {name!r} has the splits {', '.join(examples)} and no 'train'; choose one that has it."
        )
    held_out = held_out or next((part for part in ("validation", "test") if part in examples), "")
    if held_out:
        return "train" if split == "train" else held_out
    kept = examples["train"] - max(1, examples["train"] // HOLD_OUT_EVERY)
    if not kept:
        raise ValueError(f"The dataset {name!r} has one record, so none can be held out; add more.")
    return f"train[:{kept}]" if split == "train" else f"train[{kept}:]"
