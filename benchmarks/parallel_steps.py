"""Whether many devices take the step of one: loss, gradients and indices from many states of a run.

    python -m benchmarks.parallel_steps [--states=20] [--out=benchmarks/results/parallel_steps_cpu.json]

A small run is trained on one device. From each of its checkpoints one step is taken by simulated devices in every
arrangement, two processes among them, and from five of them six steps in a row. A token may get another code only
where both are as near within rounding; in a row such a token makes runs drift apart, so of those the median counts.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import timing
from benchmarks.processes import environments
from simvq_jax import cli

EVERY = 5  # steps between the states
LIMITS = {"loss": 1e-6, "gradients": 1e-5, "other_index_beyond_rounding": 0, "free_running_median": 1e-5}
EPSILON = float(np.finfo(np.float32).eps)
SMALL = [
    *("--config.batch_size=16", "--config.model.width=16", "--config.quantizer.codebook_size=2048"),
    *("--config.quantizer.dim=16", "--config.discriminator.enabled=True", "--config.discriminator.width=8"),
    *("--config.discriminator.lecam=0.1", "--config.data.eval_crops=1"),
]


class Shape(NamedTuple):
    """processes of `devices` simulated devices each, in a mesh."""

    processes: int
    devices: int
    mesh: str


SHAPES = {
    "1 device": Shape(1, 1, "data=1"),
    "data=8": Shape(1, 8, "data=8"),
    "fsdp=8": Shape(1, 8, "data=1,fsdp=8"),
    "codebook=8": Shape(1, 8, "data=1,codebook=8"),
    "data=2, fsdp=2, codebook=2": Shape(1, 8, "data=2,fsdp=2,codebook=2"),
    "2 processes x 4 devices, data=8": Shape(2, 4, "data=8"),
    "2 processes x 4 devices, data=2, fsdp=2, codebook=2": Shape(2, 4, "data=2,fsdp=2,codebook=2"),
}


def run(module: str, flags: list[str], shape: Shape) -> None:
    """Runs a module in the processes of a shape. Raises RuntimeError with its output if one fails."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in environments(shape.processes, shape.devices)
    ]
    for process in started:
        said, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{module} ended with status {process.returncode}: {said[-2000:]}")


def compare(found, expected, steps: list[int]) -> dict[str, Any]:
    """The largest differences over all states."""
    losses: list[float] = []
    gradients: list[float] = []
    arrays: list[float] = []
    flipped = beyond = tokens = 0
    for step in steps:
        losses.append(abs(float(found[f"{step}/loss"] / expected[f"{step}/loss"]) - 1))
        names = [name for name in expected if name.startswith(f"{step}/gradients/")]
        pairs = [(found[name].ravel(), expected[name].ravel()) for name in names]
        gradients.append(_relative(*(np.concatenate(side) for side in zip(*pairs, strict=True))))
        arrays.append(max(_relative(a, b) for a, b in pairs))
        indices = [side[f"{step}/indices"].ravel() for side in (found, expected)]
        tokens += len(indices[0])
        flipped += int(np.sum(indices[0] != indices[1]))
        beyond += _beyond_rounding(found, expected, step)
    free = np.max(np.abs(found["free_losses"] / expected["free_losses"] - 1), axis=1)
    return {
        "loss": float(f"{max(losses):.2g}"),
        "gradients": float(f"{max(gradients):.2g}"),
        "gradient_of_one_array": float(f"{max(arrays):.2g}"),
        "tokens": tokens,
        "other_index": flipped,
        "other_index_beyond_rounding": beyond,
        "free_running_losses": sorted(float(f"{worst:.2g}") for worst in free),
        "free_running_median": float(f"{np.median(free):.2g}"),
    }


def _relative(a, b) -> float:
    """Norm of the difference over the norm."""
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-12)


def _beyond_rounding(found, expected, step: int) -> int:
    """Tokens whose codes differ though one is clearly nearer."""
    z, other_z = (a[f"{step}/latents"].reshape(-1, a[f"{step}/latents"].shape[-1]) for a in (expected, found))
    chosen, other = (a[f"{step}/indices"].ravel() for a in (expected, found))
    codes = expected[f"{step}/codes"].astype(np.float64)
    differing = np.flatnonzero(chosen != other)
    z, other_z = z[differing].astype(np.float64), other_z[differing].astype(np.float64)
    q, other_q = codes[chosen[differing]], codes[other[differing]]
    gap = np.abs(np.sum((z - q) ** 2, axis=1) - np.sum((z - other_q) ** 2, axis=1))
    # The tokens are not quite the same, and each distance is a float32.
    moved = 2 * np.linalg.norm(z - other_z, axis=1) * np.linalg.norm(q - other_q, axis=1)
    return int(np.sum(gap > moved + 8 * EPSILON * np.sum(z**2 + q**2, axis=1)))


def main(states: int, out: str) -> None:
    """Trains, compares, writes."""
    steps = [EVERY * (i + 1) for i in range(states)]
    last = f"--config.steps={steps[-1]}"
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        often = [f"--config.checkpoint_every={EVERY}", f"--config.keep_checkpoints={states}"]
        start = ["--config=configs/quickstart.py", f"--workdir={workdir}", last, *often, *SMALL]
        run("simvq_jax.train", [*start, "--config.eval_every=100000"], SHAPES["1 device"])
        expected: dict[str, np.ndarray] = {}
        results = {}
        for name, shape in SHAPES.items():
            found = arrays_of(shape, workdir, steps, Path(folder) / "arrays.npz")
            if not expected:
                expected = found
                continue
            results[name] = compare(found, expected, steps)
            print(name, results[name], flush=True)
    result = {"states": states, "config": SMALL, "limits": LIMITS, "arrangements": results}
    timing.write_json(out, {**timing.provenance(), **result})
    beyond = [f"{name}: {key}" for name, found in results.items() for key in LIMITS if found[key] > LIMITS[key]]
    if beyond:
        raise RuntimeError(f"beyond the limits ({'; '.join(beyond)}): see {out}.")


def arrays_of(shape: Shape, workdir: Path, steps: list[int], file: Path) -> dict[str, np.ndarray]:
    """What the worker finds on devices of this shape."""
    flags = [f"--run={workdir}", f"--steps={','.join(map(str, steps))}", f"--mesh={shape.mesh}", f"--out={file}"]
    run("benchmarks.parallel_worker", flags, shape)
    with np.load(file) as arrays:
        return dict(arrays)


if __name__ == "__main__":
    cli.run_main(
        main,
        {"states": 20, "out": "benchmarks/results/parallel_steps_cpu.json"},
        {"states": "checkpoints to take a step from", "out": "JSON file of the results"},
    )
