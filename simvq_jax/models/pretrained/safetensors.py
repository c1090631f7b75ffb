"""The .safetensors format: the length of a JSON header, the header, and the bytes of the tensors it describes."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from simvq_jax.models.pretrained.raw import BFLOAT16, WeightFileError, decode, itemsize

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": BFLOAT16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor by name. Raises WeightFileError, or what a damaged header makes the reader raise."""
    raw = memoryview(path.read_bytes())
    (length,) = struct.unpack_from("<Q", raw)
    if length > len(raw) - 8:
        raise WeightFileError(f"has {len(raw)} bytes but a header of {length}; it is cut off: fetch it again.")
    header = json.loads(bytes(raw[8 : 8 + length]))
    header.pop("__metadata__", None)
    return {name: _safetensor(raw[8 + length :], name, **entry) for name, entry in header.items()}


def _safetensor(body: memoryview, name: str, *, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    if dtype not in _DTYPES:
        raise WeightFileError(f"holds {name!r} of dtype {dtype}; convert it to one of {', '.join(_DTYPES)}.")
    begin, end = data_offsets
    count = math.prod(shape)
    fits = 0 <= begin <= end <= len(body) and end - begin == count * itemsize(_DTYPES[dtype])
    if min(shape, default=0) < 0 or not fits:
        raise WeightFileError(
            f"puts {name!r} of shape {tuple(shape)} at bytes {begin} to {end} of {len(body)}; fetch it again."
        )
    return decode(body[begin:end], _DTYPES[dtype], count).reshape(shape)


def write_safetensors(path: Path, weights: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes tensors in the order given, with free text beside them. Raises ValueError on a type the format lacks."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        dtype = BFLOAT16 if array.dtype.name == BFLOAT16 else array.dtype.newbyteorder("<").str
        if dtype not in names:
            raise ValueError(f"{name} is {array.dtype} but .safetensors holds {', '.join(_DTYPES)}: cast it.")
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": names[dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # so that tensors lie aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for array in arrays.values():
            file.write(array.tobytes())
