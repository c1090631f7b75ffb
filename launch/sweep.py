"""Many runs of one experiment, of which each changes some keys of its config.

    python launch/sweep.py --config=configs/study/methods.py --workdir=runs/study/methods [--jobs=2] [--only=TEXT]
    python launch/sweep.py --config=configs/study/methods.py --workdir=runs/study/methods --commands
    python launch/sweep.py --config=configs/study/methods.py --workdir=/shared --through="sbatch launch/slurm.sbatch"

Which runs those are, `sweep(add)` in the experiment's file says (see `simvq_jax/experiment.py`). A run trains into
WORKDIR/NAME, is evaluated there, and logs to NAME.log beside it, or in sweeps/ where that is a bucket. Finished runs
are skipped and interrupted ones go on, so the same command again does what is left. With --commands nothing is
started: each run that is left is a line for a cluster's scheduler. With --through each is given to a launcher, which
trains and evaluates it: "sbatch launch/slurm.sbatch", "bash launch/gke/submit.sh tpu", "bash launch/tpu_pod.sh run",
"bash launch/local.sh 2". The first two answer before a run has ended: call again only once the queue is empty, or it
is submitted twice. At the end WORKDIR/table.md has all that is finished.

Several jobs on this machine share its cores and each GPU's memory: each has its part of both to the end, of the memory
unless XLA_PYTHON_CLIENT_MEM_FRACTION says what. On a machine without accelerator runs use what another one has
compiled, until the sweep ends, or from the folder that JAX_COMPILATION_CACHE_DIR names.
"""

import contextlib
import itertools
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from simvq_jax import accelerators, cli
from simvq_jax.compare import compare
from simvq_jax.experiment import Run, is_finished, planned_runs
from simvq_jax.files import replace_text
from simvq_jax.store import is_remote, path_of

OF_JAX = ("TF_CPP_MIN_LOG_LEVEL", "1")  # what importing jax adds to the environment
STOPPED = 75  # exit status of a run that SIGTERM stopped before its end
MEMORY_SHARED = 0.9  # of a GPU's memory, by all jobs together


def command_of(run: Run, argument: str, workdir: Path, python: str = sys.executable) -> list[str]:
    """What trains and evaluates a run; its exit status is not 0 where it was stopped before."""
    train = [python, "-m", "simvq_jax.train", "--evaluate", f"--stopped_status={STOPPED}"]
    return [*train, *training_flags(run, argument, workdir)]


def training_flags(run: Run, argument: str, workdir: Path) -> list[str]:
    """What `simvq_jax.train`, and every launcher, takes."""
    changes = [f"--config.{key}={_spelled(value)}" for key, value in run.changes.items()]
    return [f"--config={argument}", f"--workdir={workdir / run.name}", *changes]


def _spelled(value: Any) -> str:
    """As a flag: a tuple without spaces, which a scheduler's command line would split."""
    return str(value).replace(" ", "") if isinstance(value, tuple) else str(value)


def perform(
    run: Run, command: list[str], workdir: Path, say: Callable[[str], None], environment: dict[str, str]
) -> bool:
    """Runs the command. environment: added to this one. -> whether it ended well."""
    logs = Path("sweeps") / workdir.name if is_remote(workdir) else workdir
    log = logs / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"{run.name}: started, {log}")
    within = {**os.environ, **environment}
    with log.open("a", encoding="utf-8") as output:
        output.write(f"$ {shlex.join(command)}\n")
        output.flush()
        status = subprocess.run(command, stdout=output, stderr=output, env=within, check=False).returncode
    said = "ended well" if not status else f"FAILED with exit status {status}: {_last_line(log)}"
    say(f"{run.name}: {'stopped, to go on with the same sweep' if status == STOPPED else said}")
    return not status


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


@contextlib.contextmanager
def local_workers(jobs: int) -> Iterator[tuple[ThreadPoolExecutor, dict[str, str]]]:
    """Threads whose processes share this machine, and what to add to the environment of those."""
    shares: SimpleQueue[set[int]] = SimpleQueue()
    for share in cores_of(jobs):
        shares.put(share)

    def take_share() -> None:
        """On Linux this is of the calling thread, and of the processes that it starts."""
        if not shares.empty():
            os.sched_setaffinity(0, shares.get())

    added = {}
    if jobs > 1:  # one alone would take most of a GPU's memory
        added["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{MEMORY_SHARED / jobs:.3f}"
    with (
        tempfile.TemporaryDirectory(prefix="sweep_") as programs,
        ThreadPoolExecutor(jobs, initializer=take_share) as pool,
    ):
        if not accelerators.extra_of():  # beside a GPU three runs that shared a folder died (docs/NOTES.md)
            added["JAX_COMPILATION_CACHE_DIR"] = programs
            added["TF_CPP_MIN_LOG_LEVEL"] = "3"  # XLA compares the CPU with that of each kept program aloud
        chosen = {name for name, value in os.environ.items() if (name, value) != OF_JAX}
        yield pool, {name: value for name, value in added.items() if name not in chosen}


def cores_of(jobs: int) -> list[set[int]]:
    """Neighbouring cores for each of several jobs; [] where they need none of their own, or cannot have them. Threads
    of jobs that compete for cores cost each of them time (docs/NOTES.md)."""
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    bounds = [len(cores) * i // jobs for i in range(jobs + 1)]
    shares = [set(cores[begin:end]) for begin, end in itertools.pairwise(bounds)]
    return shares if all(shares) else []


def write_table(names: list[str], workdir: Path) -> None:
    """WORKDIR/table.md of the named, finished runs."""
    if names:
        table = compare([workdir / name for name in names], names)
        replace_text(workdir / "table.md", table + "\n")
        print(table)


def main(config: str, workdir: str, jobs: int, only: str, commands: bool, through: str) -> None:
    """Does what is left of a sweep; exit status 1 if a run failed."""
    if jobs < 1:
        raise ValueError(f"jobs is {jobs} but must be at least 1.")
    folder = path_of(workdir)
    planned = planned_runs(config)
    runs = [run for run in planned if run.name == only] or [run for run in planned if only in run.name]
    if not runs:
        raise ValueError(f"no run's name contains {only!r}: give another --only, or leave it out.")
    unfinished = [run for run in planned if not is_finished(run, config, folder)]  # all, as the table shows all
    left = [run for run in runs if run in unfinished]
    if commands:
        for run in left:
            print(shlex.join(command_of(run, config, folder, python="python")))
        return
    print(f"{len(runs)} runs, {len(runs) - len(left)} of them finished already", flush=True)

    def start(run: Run, environment: dict[str, str]) -> bool:
        launched = [*shlex.split(through), *training_flags(run, config, folder)]
        return perform(run, launched if through else command_of(run, config, folder), folder, say, environment)

    if through:
        with ThreadPoolExecutor(jobs) as pool:
            ended = list(pool.map(lambda run: start(run, {}), left))
    else:
        with local_workers(max(min(jobs, len(left)), 1)) as (pool, environment):
            ended = list(pool.map(lambda run: start(run, environment), left))
    failed = [run.name for run, well in zip(left, ended, strict=True) if not well]
    write_table([run.name for run in planned if is_finished(run, config, folder)], folder)
    if failed:
        print(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


def say(line: str) -> None:
    """Prints it at once."""
    print(line, flush=True)


if __name__ == "__main__":
    cli.run_main(
        main,
        {"config": cli.REQUIRED, "workdir": cli.REQUIRED, "jobs": 1, "only": "", "commands": False, "through": ""},
        {
            "config": "experiment with a function sweep(add), configs/study/NAME.py",
            "workdir": "folder of the runs' folders",
            "jobs": "runs at a time",
            "only": "take the run of this name, or else the runs whose names contain it",
            "commands": "print a line for each run that is left, and start none",
            "through": "launcher that each run that is left is given to, instead of this machine",
        },
    )
