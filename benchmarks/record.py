"""Finished runs of a study as JSON, one a run, to be committed: figures, curves, config, machine.

    python -m benchmarks.record --config=configs/study/methods.py:reduced --workdir=runs/study/methods

Writes benchmarks/results/study/STUDY/RUN.json, STUDY being the experiment's name, or what stands before RUN in a sweep
of several studies (whole.py). Other runs' files stay.
The runs must have been made on this machine. `python -m benchmarks.results` turns the files into docs/RESULTS.md.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from benchmarks import timing
from benchmarks.runs import FOLDER
from configs import common
from simvq_jax import cli, experiment
from simvq_jax.drawing.curves import read_metrics
from simvq_jax.versions import of_installed

CURVES = ("train/codebook_utilization_recent", "train/codebook_perplexity", "train/transform_effective_rank")
PACKAGES = ("flax", "optax", "numpy")


def record(run: experiment.Run, argument: str, workdir: Path) -> dict[str, Any]:
    """What is kept of a finished run. "config": every key whose value is not that of configs/common.py."""
    folder = workdir / run.name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    numbers = read_metrics(folder).numbers
    last = {name: by_step[max(by_step)] for name, by_step in numbers.items() if name.startswith("train/")}
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    finished = datetime.fromtimestamp((folder / "evaluation.json").stat().st_mtime, UTC)
    return {
        "run": run.name,
        "command": f"python launch/sweep.py --config={argument} --workdir={workdir} --only={run.name}",
        "date": finished.date().isoformat(),
        "machine": timing.machine(),
        "versions": of_installed(["jax", *PACKAGES]),
        "changes": run.changes,
        "config": _chosen(config),
        "seed": config["seed"],
        "steps": config["steps"],
        "batch_size": config["batch_size"],
        "kind": config["quantizer"]["kind"],
        "codebook_size": config["quantizer"]["codebook_size"],
        "dim": config["quantizer"]["dim"],
        "figures": {name: _rounded(value) for name, value in sorted((last | evaluation).items())},
        "curves": {name: _curve(numbers[name]) for name in CURVES if name in numbers},
    }


def _chosen(config: dict[str, Any]) -> dict[str, Any]:
    usual = flatten_dict(json.loads(common.get_config().to_json()), sep=".")
    return {key: value for key, value in flatten_dict(config, sep=".").items() if value != usual.get(key)}


def _curve(by_step: dict[int, float]) -> dict[str, list]:
    steps = sorted(by_step)
    return {"step": steps, "value": [_rounded(by_step[step]) for step in steps]}


def _rounded(value):
    """Five digits of a fraction; counts stay whole."""
    return float(f"{value:.5g}") if isinstance(value, float) and not value.is_integer() else value


def in_its_study(run: experiment.Run, argument: str, workdir: Path) -> tuple[experiment.Run, str, Path]:
    """A run STUDY/RUN of a sweep of several studies as the run of that study's own sweep that it is, too."""
    study, _, name = run.name.rpartition("/")
    if not study:
        return run, argument, workdir
    file, colon, size = argument.partition(":")
    return experiment.Run(name, run.changes), f"{Path(file).with_name(study)}.py{colon}{size}", workdir / study


def main(config: str, workdir: str) -> None:
    """Records the runs of a sweep that are finished, and names those that are not."""
    missing = []
    for planned in experiment.planned_runs(config):
        if experiment.is_finished(planned, config, Path(workdir)):
            run, argument, folder = in_its_study(planned, config, Path(workdir))
            study = Path(argument.partition(":")[0]).stem
            timing.write_json(str(FOLDER / study / f"{run.name}.json"), record(run, argument, folder))
        else:
            missing.append(planned.name)
    print(f"{config}: not finished, left out: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    cli.run_main(
        main,
        {"config": cli.REQUIRED, "workdir": cli.REQUIRED},
        {"config": "the study that was swept, configs/study/NAME.py:SIZE", "workdir": "where it was swept to"},
    )
