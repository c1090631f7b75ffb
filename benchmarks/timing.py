"""Timing in alternation, and what a reader needs to judge the figures: machine, versions, command, date."""

import json
import math
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from simvq_jax.versions import of_installed

GIB = 2**30
Name = TypeVar("Name")


class Contender(NamedTuple):
    """run: starts the work and returns its result; wait: returns once that result is there."""

    run: Callable[[], Any]
    wait: Callable[[Any], Any] = jax.block_until_ready


def alternate(contenders: Mapping[Name, Contender], repeats: int, calls: int = 1) -> dict[Name, list[float]]:
    """Seconds a call of every contender, `repeats` measurements each, in one process.

    An untimed round compiles and warms up. Then everyone is measured once a round, so that a slow spell of the machine
    meets all alike; every other round goes backwards, so that nobody always follows the same neighbour.
    calls: calls that a measurement averages over, with one wait at the end; for work of under some milliseconds.
    """
    for contender in contenders.values():
        contender.wait(contender.run())
    seconds: dict[Name, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats):
        for name in list(contenders)[:: -1 if turn % 2 else 1]:
            seconds[name].append(_seconds_a_call(contenders[name], calls))
    return seconds


def _seconds_a_call(contender: Contender, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        result = contender.run()
    contender.wait(result)
    return (time.perf_counter() - began) / calls


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, and the spread as the fastest and the slowest measurement, to four digits."""
    return {
        "median": _rounded(statistics.median(seconds)),
        "fastest": _rounded(min(seconds)),
        "slowest": _rounded(max(seconds)),
    }


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Ratio of the medians, and the spread of the ratio from round to round."""
    by_round = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {
        "of_medians": _rounded(statistics.median(numerator) / statistics.median(denominator)),
        "lowest": _rounded(min(by_round)),
        "highest": _rounded(max(by_round)),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def provenance(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Command, date, machine, and the versions of Python, jax and further packages (left out where not installed)."""
    module = sys.modules["__main__"].__spec__
    name = f"-m {module.name}" if module else Path(sys.argv[0]).name
    return {
        "command": " ".join(["python", name, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | of_installed(["jax", "jaxlib", *packages]),
    }


def machine() -> dict[str, Any]:
    """The processor, its cores as this process may use them, memory, and jax's devices."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def peak_memory_gib() -> float:
    """The most host memory that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB, 2)


class OtherLoad:
    """Cores that other processes keep busy. It matters: a program that splits a loop evenly over all cores and waits
    for the slowest loses far more to a neighbour than one that hands out small tasks."""

    def __init__(self):
        self._began, self._busy = time.monotonic(), _busy_elsewhere()

    def cores(self) -> float:
        """Their mean since this object was made; NaN where the system does not tell."""
        return round((_busy_elsewhere() - self._busy) / (time.monotonic() - self._began), 2)


def _busy_elsewhere() -> float:
    """Processor seconds since the machine started that are not this process's own, those stolen by a host included."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return math.nan
    user, nice, system, _idle, _iowait, *interrupts_and_stolen = stat.read_text().split("\n")[0].split()[1:9]
    ticks = sum(map(int, (user, nice, system, *interrupts_and_stolen)))
    own = resource.getrusage(resource.RUSAGE_SELF)
    return ticks / os.sysconf("SC_CLK_TCK") - own.ru_utime - own.ru_stime


def _cpu_model() -> str:
    """The model as Linux tells it, else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def write_json(path: str, result: Mapping[str, Any]) -> None:
    """Writes the result, making its folder."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
