"""The committed runs of the studies (record.py writes them), and what the pages ask of one."""

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simvq_jax.health import TOKENS_A_CODE
from simvq_jax.quantize.base import USAGE_WINDOW

FOLDER = Path("benchmarks/results/study")
Run = dict[str, Any]


def read(study: str) -> list[Run]:
    """The runs of a study, by name."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted((FOLDER / study).glob("*.json"))]


def grouped(runs: list[Run], key: Callable[[Run], tuple[str, ...]]) -> dict[tuple[str, ...], list[Run]]:
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def spread(values: list[float], form: Callable[[float], str]) -> str:
    """The mean, and in brackets the lowest and the highest, if there are several."""
    mean = form(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ({form(min(values))} to {form(max(values))})"


def method_of(run: Run) -> str:
    """The run's name without its codebook size and seed."""
    return run["run"].rpartition("_seed")[0].rpartition("_")[0]


def named_size(run: Run) -> int:
    """K, of FSQ the power of two that its levels come near to."""
    return 2 ** round(math.log2(run["codebook_size"]))


def stages_of(run: Run) -> int:
    """Codebooks, each of `codebook_size`."""
    return run["changes"].get("quantizer.stages", 1)


def in_training(run: Run, of: str = "") -> float:
    """The share of codes in use at the end, over the last USAGE_WINDOW tokens, or TOKENS_A_CODE a code if those are
    more. of: "_least", of the worst stage."""
    enough = run["codebook_size"] * TOKENS_A_CODE <= USAGE_WINDOW
    return run["figures"]["train/codebook_utilization" + ("" if enough else "_recent") + of]


def in_recent_training(run: Run, of: str = "") -> float:
    """The share of codes in use at the end, over the last TOKENS_A_CODE tokens a code. of: as of `in_training`."""
    return run["figures"]["train/codebook_utilization_recent" + of]


def use_curve(run: Run) -> dict[str, list]:
    """The share of codes in use over training, of the last TOKENS_A_CODE tokens a code: lists "step" and "value"."""
    return run["curves"]["train/codebook_utilization_recent"]
