"""Reads PyTorch files without PyTorch and without running what their pickles name.

A pickle may name any function to call. The reader admits the few names that tensors and plain containers
need, puts a stand-in of its own in the place of each, and refuses every other name.
"""

import io
import operator
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from simvq_jax.models.pretrained.raw import BFLOAT16, WeightFileError, decode, itemsize

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file saved before PyTorch 1.6
_LEGACY_PROTOCOL = 1001
_DTYPES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "BFloat16": BFLOAT16,
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "|i1",
    "Byte": "|u1",
    "Bool": "|b1",
}


class _Inert:
    """Base of the stand-ins: the state that a pickle hands to one is dropped and changes nothing."""

    def __setstate__(self, state: Any) -> None:
        del state


class _Dict(_Inert, dict):
    """Stands for `collections.OrderedDict`, without the attributes a pickle may set on it."""


@dataclass
class _Storage(_Inert):
    """A flat stretch of numbers that tensors view; `data` (numel,) is read once the pickle is through."""

    dtype: str
    numel: int
    data: np.ndarray | None = None

    def fill(self, raw: bytes) -> None:
        need = self.numel * itemsize(self.dtype)
        if len(raw) < need:
            raise WeightFileError(f"has {len(raw)} bytes for {need} of a storage; it is cut off: fetch it again.")
        self.data = decode(raw, self.dtype, self.numel)


@dataclass
class Tensor(_Inert):
    """A view of a storage as the pickle describes it; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The numbers as a read-only view; tensors that share a storage share memory.

        Raises:
            WeightFileError: the view leaves its storage, or the storage has no numbers.
        """
        data = self.storage.data
        if data is None:
            raise WeightFileError("describes a tensor but not its numbers; fetch it again.")
        extent = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        past = 0 if 0 in self.shape else self.offset + extent + 1
        if min(self.offset, *self.shape, *self.strides, 0) < 0 or max(past, self.offset) > data.size:
            raise WeightFileError(
                f"holds a tensor of shape {self.shape}, strides {self.strides} and offset {self.offset} "
                f"in a storage of {data.size}; fetch it again."
            )
        strides = [stride * data.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides, writeable=False)


class _EarlyTensor(Tensor):
    """`torch.FloatTensor` and its kin as pickled early in 2017: made empty, then given the view as state."""

    def __setstate__(self, state: Any) -> None:
        vars(self).update(vars(_rebuild_tensor(*state)))


class _EarlyParameter(Tensor):
    """`torch.nn.parameter.Parameter` of 2017: its tensor is the argument, or the first of a state of five."""

    def __new__(cls, *args: Any) -> "_EarlyParameter":
        made = super().__new__(cls)
        vars(made).update(vars(args[0]) if args else {})
        return made

    def __init__(self, *args: Any) -> None:
        """Nothing is left to do after `__new__`, which is all that the pickle operation NEWOBJ calls."""

    def __setstate__(self, state: Any) -> None:
        if len(state) == 5:
            vars(self).update(vars(state[0]))


def _rebuild_tensor(storage: _Storage, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Arguments as torch._utils._rebuild_tensor and _v2; `rest` is requires_grad, hooks, metadata."""
    if len(rest) > 2 and rest[2]:
        raise WeightFileError(f"holds a tensor with metadata {rest[2]!r}; save a resolved copy of it.")
    shape, strides = (tuple(operator.index(number) for number in numbers) for numbers in (size, stride))
    return Tensor(storage, operator.index(offset), shape, strides)


def _rebuild_parameter(data: Tensor, *rest: Any) -> Tensor:
    """A parameter is its tensor; `rest` is requires_grad and hooks."""
    del rest
    return data


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
_TYPES: dict[str, type] = {
    "collections.OrderedDict": _Dict,
    "torch.nn.parameter.Parameter": _EarlyParameter,
    **{f"torch.{kind}Tensor": _EarlyTensor for kind in _DTYPES},
}
_STORAGES = {f"{module}.{kind}Storage": dtype for kind, dtype in _DTYPES.items() for module in ("torch", "torch.cuda")}


@dataclass(frozen=True)
class _Name(_Inert):
    """Stands for an admitted function or storage class, so that the pickle never holds the thing itself."""

    name: str

    def __call__(self, *args: Any) -> Any:
        return _FUNCTIONS[self.name](*args)


class _Unpickler(pickle.Unpickler):
    """Builds stand-ins for tensors and plain containers and refuses every other global by its name."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")  # names in files of Python 2 are byte strings
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Never imports: returns the stand-in of an admitted name, else raises."""
        full = f"{module}.{name}"
        if full in _FUNCTIONS or full in _STORAGES:
            return _Name(full)
        if full not in _TYPES:
            raise WeightFileError(
                f"names the pickle global {full}, which is not admitted and was not run; "
                "save a state_dict of tensors instead."
            )
        return _TYPES[full]

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage of `("storage", class, key, device, numel[, view])`, the same one for the same key."""
        tag, kind, key, _, numel, *view = pid
        if tag != "storage" or any(view):
            raise WeightFileError(f"refers to a {tag!r} or a storage view; save a state_dict of tensors instead.")
        wanted = _Storage(_STORAGES[kind.name], operator.index(numel))
        found = self.storages.setdefault(key, wanted)
        if (found.dtype, found.numel) != (wanted.dtype, wanted.numel) or wanted.numel < 0:
            raise WeightFileError(f"describes the storage {key!r} in two ways; fetch it again.")
        return found


def read_torch(path: Path) -> Any:
    """What the pickle of a PyTorch file holds: plain containers, numbers, strings, and `Tensor`.

    Raises:
        WeightFileError: the file is not a PyTorch file, or names what is not admitted.
        Exception: the file is damaged; a damaged pickle or archive fails in many ways.
    """
    with path.open("rb") as file:
        magic = file.read(len(_ZIP_MAGIC))
        file.seek(0)
        return _read_zip(file) if magic == _ZIP_MAGIC else _read_legacy(file, path.stat().st_size)


def _read_zip(file: BinaryIO) -> Any:
    """The format of PyTorch 1.6 and later: `NAME/data.pkl`, and the numbers in `NAME/data/KEY`."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1 or any(entry.compress_type for entry in archive.infolist()):
            raise WeightFileError("is a zip archive that torch.save did not write; save it with torch.save.")
        prefix = pickles[0].removesuffix("data.pkl")
        if f"{prefix}byteorder" in names and archive.read(f"{prefix}byteorder") != b"little":
            _refuse_big_endian()
        unpickler = _Unpickler(io.BytesIO(archive.read(pickles[0])))
        tree = unpickler.load()
        for key, storage in unpickler.storages.items():
            storage.fill(archive.read(f"{prefix}data/{key}"))
    return tree


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """The older format: five pickles, then every storage as its length (int64) and its numbers."""
    if _Unpickler(file).load() != _LEGACY_MAGIC or _Unpickler(file).load() != _LEGACY_PROTOCOL:
        raise WeightFileError("is neither a zip archive nor an older PyTorch file; save it with torch.save.")
    if not _Unpickler(file).load()["little_endian"]:
        _refuse_big_endian()
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        (numel,) = struct.unpack("<q", file.read(8))
        need, left = storage.numel * itemsize(storage.dtype), size - file.tell()
        if numel != storage.numel or need > left:
            raise WeightFileError(f"has {left} bytes left for {need} of the storage {key!r}; fetch it again.")
        storage.fill(file.read(need))
    return tree


def _refuse_big_endian() -> NoReturn:
    raise WeightFileError("is big-endian; save it on a little-endian machine.")
