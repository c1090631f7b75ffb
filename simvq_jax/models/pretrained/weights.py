"""Reads weight files (.npz, .safetensors, PyTorch .pth/.pt/.ckpt/.bin) into numpy, without PyTorch."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from simvq_jax.models.pretrained.raw import WeightFileError
from simvq_jax.models.pretrained.safetensors import read_safetensors
from simvq_jax.models.pretrained.torch_pickle import Tensor, read_torch

Weights = dict[str, np.ndarray]

_TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class Published:
    """A weight file as its authors publish it: where it lies and the SHA-256 of its bytes (64 hex digits)."""

    url: str
    sha256: str


def sha256(path: str | Path) -> str:
    """SHA-256 of the file's bytes as 64 lowercase hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: str | Path, key: str | None = None) -> Weights:
    """Reads every tensor of a weight file.

    Args:
        path: `.npz`, `.safetensors`, or PyTorch's `.pth`, `.pt`, `.ckpt`, `.bin` (zip or the older format).
        key: entry of a nested PyTorch file to read, such as `"state_dict"`; nothing is unwrapped without it.

    Returns:
        Name to array, in file order and in the file's own layout and dtype (bfloat16 becomes float32).
        Arrays may be read-only, and tensors that shared memory still do.

    Raises:
        FileNotFoundError: there is no such file.
        WeightFileError: unknown format, damaged file, a pickle global that is not admitted, or an entry
            that is not a tensor.
    """
    return _guarded(Path(path), lambda path: _read(path, key))


def read_state_dict(path: str | Path) -> Weights:
    """As `read_weights`, of a file that may have its tensors in an entry "state_dict", as Lightning's do."""
    return _guarded(Path(path), _read_state_dict)


def read_published(path: str | Path, published: Published, *, verify: bool = True) -> Weights:
    """Reads a local copy of a published weight file, with one logged warning where its bytes differ.

    Other bytes are allowed: a conversion to `.npz` or `.safetensors` has another SHA-256.

    Args:
        path: the local file, see `read_weights`.
        published: the source and the expected SHA-256.
        verify: False skips the SHA-256.

    Raises:
        FileNotFoundError: there is no such file; the sentence names the source and its SHA-256.
        WeightFileError: see `read_weights`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"There is no weight file {path}; download {published.url} (SHA-256 {published.sha256}) to it."
        )
    if verify and (found := sha256(path)) != published.sha256:
        logging.warning(
            "%s has SHA-256 %s, expected %s of %s: fine for a deliberate conversion, else download it again.",
            path,
            found,
            published.sha256,
            published.url,
        )
    return read_weights(path)


def select_weights(weights: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], name: str) -> Weights:
    """The tensors that `shapes` names, in its order; what it does not name is left aside.

    Args:
        weights: name to array.
        shapes: name to the shape that the tensor must have.
        name: what the error calls the weights.

    Raises:
        WeightFileError: tensors are missing or misshapen; one sentence lists all of them.
    """
    faults = [f"{key} {shape} is missing" for key, shape in shapes.items() if key not in weights]
    faults += [
        f"{key} is {weights[key].shape} instead of {shape}"
        for key, shape in shapes.items()
        if key in weights and weights[key].shape != shape
    ]
    if faults:
        raise WeightFileError(f"{name} do not fit: {', '.join(faults)}; give the weights of this very network.")
    return {key: weights[key] for key in shapes}


def _guarded(path: Path, read: Callable[[Path], Weights]) -> Weights:
    """What `read` gives; its errors name the file."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no weight file {path}; give the path of an existing file.")
    try:
        return read(path)
    except WeightFileError as error:
        raise WeightFileError(f"{path} {error}") from None
    except Exception as error:  # a damaged pickle or archive fails in many ways
        raise WeightFileError(f"{path} is truncated or corrupt ({error!r}); fetch it again.") from error


def _read_state_dict(path: Path) -> Weights:
    if path.suffix not in _TORCH_SUFFIXES:
        return _read(path, None)
    tree = read_torch(path)
    nested = isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict)
    flat = tree["state_dict"] if nested else tree
    if isinstance(flat, dict) and not all(isinstance(value, Tensor) for value in flat.values()):
        raise WeightFileError(f"holds what is not a tensor among {_quoted(list(flat)[:5])}; save the state_dict alone.")
    return _flat(flat, None)


def _read(path: Path, key: str | None) -> Weights:
    if path.suffix in _TORCH_SUFFIXES:
        return _flat(read_torch(path), key)
    if path.suffix not in (".npz", ".safetensors"):
        formats = ", ".join((".npz", ".safetensors", *_TORCH_SUFFIXES))
        raise WeightFileError(f"is of the unknown format {path.suffix!r}; give one of {formats}.")
    if key is not None:
        raise WeightFileError(f"is flat, so key={key!r} names nothing in it; leave key out.")
    return _read_npz(path) if path.suffix == ".npz" else read_safetensors(path)


def _flat(tree: Any, key: str | None) -> Weights:
    """The tensors of a flat dict of tensors, or of its entry `key`."""
    if key is not None:
        if not isinstance(tree, dict) or key not in tree:
            entries = _quoted(tree) if isinstance(tree, dict) else "none"
            raise WeightFileError(f"has no entry {key!r}; give one of its own ({entries}).")
        tree = tree[key]
    if not isinstance(tree, dict):
        raise WeightFileError(f"holds a {type(tree).__name__} instead of a dict of tensors; save a state_dict.")
    others = [name for name, value in tree.items() if not isinstance(value, Tensor)]
    if others:
        nested = [name for name in others if key is None and isinstance(tree[name], dict)]
        mend = f"read one entry with key= ({_quoted(nested)})" if nested else "save a state_dict of tensors"
        raise WeightFileError(f"holds what is not a tensor ({_quoted(others)}); {mend}.")
    if not all(isinstance(name, str) for name in tree):
        raise WeightFileError("holds tensors under names that are no text; save a state_dict.")
    return {name: value.array() for name, value in tree.items()}


def _quoted(names: Iterable[Any]) -> str:
    return ", ".join(map(repr, names))


def _read_npz(path: Path) -> Weights:
    with np.load(path, allow_pickle=False) as archive:
        weights = {name: archive[name] for name in archive.files}
    for name, array in weights.items():
        if array.dtype.kind not in "biuf":
            raise WeightFileError(f"holds {name!r} of dtype {array.dtype}; save bool, int or float (not bfloat16).")
    return weights
