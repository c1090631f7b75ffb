"""Bytes of a weight file as flat numpy arrays, and the error of a file that does not hold them."""

import numpy as np

# bfloat16 has no numpy type: it is read as uint16 and widened to float32, which holds it exactly.
BFLOAT16 = "bfloat16"


class WeightFileError(ValueError):
    """A weight file is damaged, of an unknown format, or holds what a weight file must not."""


def itemsize(dtype: str) -> int:
    """Bytes in the file of one number of `dtype`, a numpy type string or `BFLOAT16`."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def decode(raw: bytes | memoryview, dtype: str, count: int) -> np.ndarray:
    """The first `count` numbers of `raw` as a flat array (count,); bfloat16 is widened to float32.

    Raises:
        ValueError: `raw` is shorter than `count` numbers.
    """
    if dtype != BFLOAT16:
        return np.frombuffer(raw, dtype, count)
    return (np.frombuffer(raw, "<u2", count).astype(np.uint32) << 16).view(np.float32)
