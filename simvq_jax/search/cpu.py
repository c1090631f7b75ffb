"""Whether the cores of this machine multiply limbs faster than float32 numbers."""

import functools
import re
from pathlib import Path

# Where limbs were faster (docs/EXPERIMENTS.md): of few codes or dimensions they cost more to lay out than they save,
# and so they do of many dimensions.
FEWEST_CODES = 1024
DIMS = 64, 256


def limbs_pay(k: int, d: int) -> bool:
    """Whether to multiply bfloat16 limbs of K codes of d dimensions."""
    return multiplies_bfloat16() and k >= FEWEST_CODES and DIMS[0] <= d <= DIMS[1]


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the cores have tiles for bfloat16 (Intel's AMX), which XLA's products use. As Linux tells it."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return has_tiles(told)


def has_tiles(cpuinfo: str) -> bool:
    return re.search(r"^flags\b.*\bamx_bf16\b", cpuinfo, re.MULTILINE) is not None
