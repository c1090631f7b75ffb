"""Whether a training survives what happens to trainings: interrupted at random, it must end as if it had not been.

    python -m benchmarks.interruptions [--interruptions=30] [--processes=1] [--seed=0]
        [--out=benchmarks/results/interruptions_cpu.json]

SIGTERM and kill -9 come at any time, while a checkpoint is being written, and while the model is being evaluated. Each
time the same command goes on. In the end every array of the state must equal that of a run that was left alone, bit for
bit; no start may go on from an older checkpoint than the newest whole one; and nothing may take longer to end than 60
seconds.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import timing
from benchmarks.processes import environments
from simvq_jax import cli
from simvq_jax.api.loading import restored_state

PATIENCE = 60.0  # seconds until all processes have ended
EVERY, EVALUATED = 10, 30  # steps between checkpoints, between evaluations
KINDS = ("any time", "in training", "while saving", "while evaluating")
SMALL = [
    *("--config.batch_size=16", "--config.model.width=8", "--config.model.norm_groups=8", "--config.data.size=16"),
    *("--config.quantizer.codebook_size=256", "--config.quantizer.dim=8", "--config.quantizer.region_sources=64"),
    *("--config.data.eval_crops=1500", "--config.data.eval_batch_size=64", "--config.log_every=5"),
    *(f"--config.checkpoint_every={EVERY}", f"--config.eval_every={EVALUATED}", "--config.data.threads=2"),
    "--config.cluster.initialization_timeout=30",  # one of several may be killed before it has joined
]


class Interruption(NamedTuple):
    """kind: of KINDS. number: the signal. newest: whole checkpoint afterwards, 0 = none. seconds: until all ended."""

    kind: str
    number: str
    newest: int
    seconds: float


class Job:
    """The processes of one start of the training; what they say goes to a file each."""

    def __init__(self, run: Path, steps: int, processes: int, log: Path):
        command = [sys.executable, "-m", "simvq_jax.train", "--config=configs/quickstart.py", f"--workdir={run}"]
        self.logs = [log.with_suffix(f".{number}") for number in range(processes)]
        self.processes = []
        for file, environment in zip(self.logs, environments(processes, devices=1), strict=True):
            with file.open("w") as output:
                started = subprocess.Popen(
                    [*command, f"--config.steps={steps}", *SMALL], env=environment, stdout=output, stderr=output
                )
            self.processes.append(started)

    def is_running(self) -> bool:
        """Whether none has ended."""
        return all(process.poll() is None for process in self.processes)

    def said(self) -> str:
        """By process 0."""
        return self.logs[0].read_text(errors="replace")

    def wait(self) -> float:
        """Seconds until all have ended. Raises RuntimeError past PATIENCE."""
        began = time.monotonic()
        for process in self.processes:
            try:
                process.wait(max(PATIENCE - (time.monotonic() - began), 0.1))
            except subprocess.TimeoutExpired as error:
                for other in self.processes:
                    other.kill()
                words = "\n".join(file.read_text(errors="replace")[-1000:] for file in self.logs)
                raise RuntimeError(f"it hung for {PATIENCE:g} seconds; its processes had said: {words}") from error
        return time.monotonic() - began

    def finish(self) -> None:
        """Waits for the end, however long that takes. Raises RuntimeError if it was no good one."""
        statuses = [process.wait() for process in self.processes]
        if any(statuses):
            raise RuntimeError(f"it ended by itself: {self.said()[-2000:]}")


def whole_checkpoints(run: Path) -> list[int]:
    """Steps, rising."""
    return sorted(int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdecimal())


def newest(run: Path) -> int:
    """The last whole checkpoint's step; 0 = none."""
    return max(whole_checkpoints(run), default=0)


def has_come(kind: str, run: Path, job: Job, before: int, drawn: random.Random) -> Callable[[], bool]:
    """A question to ask again and again: is it time?"""
    began, delay = time.monotonic(), drawn.uniform(0, 12 if kind == "any time" else 2)
    if kind == "any time":
        return lambda: time.monotonic() - began > delay
    if kind == "while saving":
        left_behind = set((run / "checkpoints").glob("*tmp*"))  # by an earlier kill
        return lambda: any(path not in left_behind for path in (run / "checkpoints").glob("*tmp*"))
    if kind == "while evaluating":
        return lambda: "to step" in job.said() and is_evaluating(run, before)
    started: list[float] = []

    def training() -> bool:
        if not started and (newest(run) > before or "to step" in job.said()):
            started.append(time.monotonic())
        return bool(started) and time.monotonic() - started[0] > delay

    return training


def is_evaluating(run: Path, after: int) -> bool:
    """Whether the last figures, of a step behind this one, are those that come before an evaluation."""
    file = run / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    try:
        row = json.loads(lines[-1]) if lines else {}
    except ValueError:  # half a line
        return False
    return "train/loss" in row and row["step"] > after and row["step"] % EVALUATED == 0


def interrupt(run: Path, steps: int, processes: int, log: Path, drawn: random.Random) -> Interruption | None:
    """Starts the training and interrupts it; None if it ended first. Raises RuntimeError if it went on from the wrong
    step, or hung."""
    before, kind = newest(run), drawn.choice(KINDS)
    number = drawn.choice((signal.SIGTERM, signal.SIGKILL))
    job = Job(run, steps, processes, log)
    is_time = has_come(kind, run, job, before, drawn)
    while job.is_running() and not is_time():
        time.sleep(0.005)
    ended_first = not job.is_running()
    if not ended_first:
        drawn.choice(job.processes).send_signal(number)
    seconds = job.wait()
    _check_start(job.said(), before)
    if ended_first:
        job.finish()
        return None
    _check_end(job, number, run)
    return Interruption(kind, number.name, newest(run), round(seconds, 2))


def _check_start(said: str, before: int) -> None:
    if ": training, to step" in said and before:
        raise RuntimeError(f"it began anew though checkpoint {before} was whole.")
    if "resuming at step " in said:
        start = int(said.partition("resuming at step ")[2].partition(",")[0])
        if start != before:
            raise RuntimeError(f"it went on from step {start} though checkpoint {before} was whole.")


def _check_end(job: Job, number: signal.Signals, run: Path) -> None:
    """After SIGTERM in training all end with 0, and the step they stopped at is saved; after kill -9 none does."""
    statuses = [process.returncode for process in job.processes]
    saves = "stopped at step " in job.said()
    if number == signal.SIGTERM and saves:
        stopped = int(job.said().partition("stopped at step ")[2].partition(",")[0])
        if any(statuses) or stopped != newest(run):
            raise RuntimeError(f"it stopped at step {stopped} with {statuses}; the newest checkpoint is {newest(run)}.")
    elif 0 in statuses:
        raise RuntimeError(f"a process ended with 0 ({statuses}) though another was killed: {job.said()[-2000:]}")


def differing_arrays(run: Path, other: Path) -> list[str]:
    """Names of the arrays of the last states that are not the same bit for bit."""
    ours, theirs = restored_state(run).state, restored_state(other).state
    leaves = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True)
    return [jax.tree_util.keystr(path) for (path, a), b in leaves if np.asarray(a).tobytes() != np.asarray(b).tobytes()]


def main(interruptions: int, processes: int, seed: int, out: str) -> None:
    """Interrupts, goes on, compares, writes."""
    drawn = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "programs")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        steps, run = 40 * interruptions, folder / "interrupted"
        found: list[Interruption] = []
        while len(found) < interruptions:
            one = interrupt(run, steps, processes, folder / "log", drawn)
            if one is None:
                raise RuntimeError(f"it was whole after {len(found)} interruptions: give it more steps.")
            found.append(one)
            print(f"{len(found)}: {one}", flush=True)
        for last in (run, folder / "alone"):
            Job(last, steps, processes, folder / "log").finish()
        differing = differing_arrays(run, folder / "alone")
        result = {
            **timing.provenance(),
            "steps": steps,
            "processes": processes,
            "interruptions": [one._asdict() for one in found],
            "slowest_end_seconds": max(one.seconds for one in found),
            "differing_arrays": differing,
        }
    print(f"{len(differing)} arrays differ")
    timing.write_json(out, result)


if __name__ == "__main__":
    cli.run_main(
        main,
        {"interruptions": 30, "processes": 1, "seed": 0, "out": "benchmarks/results/interruptions_cpu.json"},
        {
            "interruptions": "how many",
            "processes": "of the training",
            "seed": "of what is drawn",
            "out": "JSON file of the results",
        },
    )
