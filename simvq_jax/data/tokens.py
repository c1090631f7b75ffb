"""Tokens on the disk: shards of records, what is known of all of them, and reading them by index.

A folder of tokens has the shards `tokens-00003-of-00120.array_record` (or `.npz`, `.jsonl`), beside each one a `.json`
that appears when the shard is whole, and `manifest.json` once all are. A record is a dict with "tokens", an array of
uint16 or uint32, and whatever else is known of the item.
"""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize

from simvq_jax.files import replace_text, replacing

Record = dict[str, Any]
MANIFEST = "manifest.json"
KIND = "simvq_jax tokens"  # what the manifest says it is of
INDEXED = "array_record"  # the format that `TokenSource` reads


def token_dtype(codebook_size: int) -> np.dtype:
    """The smaller of uint16 and uint32 that holds every index."""
    return np.dtype(np.uint16 if codebook_size <= 2**16 else np.uint32)


class TokenSource:
    """The records of a folder of tokens by index, in the order of the data; a source for grain.

    Attributes: manifest: what `extract_tokens` wrote of them.

    Raises:
        FileNotFoundError: the folder has no manifest of tokens, or lacks a shard.
        ValueError: its shards are of a format without random access, or hold nothing.
    """

    def __init__(self, folder: str | Path):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        folder = Path(folder).expanduser()
        self.manifest = read_manifest(folder)
        if self.manifest["format"] != INDEXED:
            raise ValueError(
                f"{folder} holds tokens as {self.manifest['format']}, which have no random access: extract them as"
                f" {INDEXED}."
            )
        shards = [folder / shard["file"] for shard in self.manifest["shards"] if shard["records"]]
        if not shards:
            raise ValueError(f"{folder} holds no record: nothing of its data could be read.")
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}: restore them, or extract into a new folder.")
        self._records = ArrayRecordDataSource([str(shard) for shard in shards])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        """Record `index`. Raises IndexError if there is none."""
        if not 0 <= index < len(self):
            raise IndexError(f"There is no record {index}; there are {len(self)}.")
        return msgpack_restore(self._records[index])


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `extract_tokens` wrote of a folder. Raises FileNotFoundError where it is none of tokens, or not complete."""
    manifest = _manifest(folder)
    if manifest is None:
        raise FileNotFoundError(
            f"{folder / MANIFEST} does not exist, or is not of tokens: give a folder that extract_tokens has finished"
            " (the same command goes on)."
        )
    return manifest


def is_tokens(folder: Path) -> bool:
    """Whether `extract_tokens` has finished this folder."""
    return _manifest(folder) is not None


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("kind") == KIND else None


def write_shard(path: Path, records: Sequence[Record], summary: dict[str, Any]) -> None:
    """Writes a shard by its suffix, then its summary beside it; neither is ever there by half.

    Two processes that write the same one write the same bytes, and the later replaces the earlier. Raises RuntimeError
    where the disk does not take it.
    """
    try:
        with replacing(path) as fresh:
            FORMATS[path.suffix[1:]](fresh, records)
        replace_text(summary_path(path), json.dumps(summary | {"bytes": path.stat().st_size}) + "\n")
    except Exception as error:  # array_record raises what its status says
        raise RuntimeError(
            f"{path} could not be written ({error}): the shards before it are whole; mend what is said there and start"
            " the same command again."
        ) from error


def summary_path(shard: Path) -> Path:
    """Of the file that says that a shard is whole."""
    return shard.with_suffix(".json")


def is_whole(shard: Path) -> bool:
    """Whether a shard is there as it was written."""
    try:
        summary = json.loads(summary_path(shard).read_text(encoding="utf-8"))
        return shard.stat().st_size == summary["bytes"]
    except (OSError, ValueError, KeyError):
        return False


def _write_array_record(path: Path, records: Iterable[Record]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")  # so that one record is read at a time
    for record in records:
        writer.write(msgpack_serialize(record))
    writer.close()


def _write_npz(path: Path, records: Sequence[Record]) -> None:
    """One array a field; tokens of unequal shapes one behind the other, with their shapes."""
    tokens = [record["tokens"] for record in records]
    equal = len({array.shape for array in tokens}) == 1
    arrays: dict[str, Any] = {
        "tokens": np.stack(tokens)
        if equal
        else np.concatenate([array.ravel() for array in tokens] or [np.zeros((0,), np.uint16)])
    }
    if not equal:
        arrays["shapes"] = np.array([array.shape for array in tokens], np.int32)
    for name in records[0] if records else ():
        if name != "tokens":
            values = [record[name] for record in records]
            arrays[name] = np.array(["" if value is None else value for value in values])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.write_bytes(buffer.getvalue())


def _write_jsonl(path: Path, records: Iterable[Record]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps({**record, "tokens": record["tokens"].tolist()}) + "\n")


FORMATS: dict[str, Callable[[Path, Sequence[Record]], None]] = {
    INDEXED: _write_array_record,
    "npz": _write_npz,
    "jsonl": _write_jsonl,
}
