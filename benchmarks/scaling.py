"""How the step grows with devices: counted in the compiled program, not timed, and reckoned on to pods.

    python -m benchmarks.scaling [--config=configs/imagenet128_simvq.py:65k] [--out=benchmarks/results/scaling.json]
    python -m benchmarks.scaling --page_only          writes docs/SCALING.md anew from the counts that are there

Each arrangement is what `simvq_jax.explain` reads in the program for 1 to 8 simulated devices.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import timing
from benchmarks.scaling_page import page
from simvq_jax import cli

PAGE = Path("docs/SCALING.md")
ONE_STEP = "benchmarks/results/h100/train_step.json"
ROWS = 32  # pictures a device, weak scaling
BATCH = 256  # pictures, strong scaling
MILLION = 2**20


class Case(NamedTuple):
    """study: what it is a row of."""

    study: str
    devices: int
    overrides: dict[str, Any]


def cases() -> list[Case]:
    """All arrangements."""
    counts = (1, 2, 4, 8)
    found = [Case("weak", n, {"batch_size": ROWS * n}) for n in counts]
    found += [Case("strong", n, {"batch_size": BATCH}) for n in counts]
    found += [Case("fsdp", n, {"batch_size": BATCH, "mesh.fsdp": n}) for n in counts[1:]]
    million = {"batch_size": BATCH, "quantizer.codebook_size": MILLION}
    found.append(Case("million", 8, million))
    found.append(Case("million", 8, million | {"quantizer.basis_dtype": "bfloat16"}))
    found.append(Case("million", 8, million | {"mesh.fsdp": 8}))
    found.append(Case("million", 8, million | {"mesh.fsdp": 4, "mesh.codebook": 2}))
    found.append(Case("million", 8, million | {"mesh.codebook": 8}))
    return found


def count(config: str, case: Case) -> dict[str, Any]:
    """What `explain` finds. Raises RuntimeError with what it said if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "explanation.json"
        overrides = [f"--config.{key}={value}" for key, value in case.overrides.items()]
        command = ["-m", "simvq_jax.explain", f"--config={config}", f"--devices={case.devices}", f"--out={file}"]
        done = subprocess.run([sys.executable, *command, *overrides], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"explain failed for {case}: {done.stderr[-1000:]}")
        found = json.loads(file.read_text(encoding="utf-8"))
    del found["shardings"]
    return case._asdict() | found


def _read(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def main(config: str, out: str, page_only: bool) -> None:
    """Counts every case, and writes the page."""
    if not page_only:
        counted = []
        for case in cases():
            counted.append(count(config, case))
            print(case, flush=True)
        timing.write_json(out, {**timing.provenance(), "config": config, "cases": counted})
    PAGE.write_text(page(_read(out), _read(ONE_STEP)), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    cli.run_main(
        main,
        {"config": "configs/imagenet128_simvq.py:65k", "out": "benchmarks/results/scaling.json", "page_only": False},
        {
            "config": "experiment, configs/NAME.py",
            "out": "JSON file of the counts",
            "page_only": "count nothing: only write docs/SCALING.md from the file",
        },
    )
