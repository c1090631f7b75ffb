"""What a run folder says of its run, read again: the config, and the figures of its evaluation."""

import json
from pathlib import Path
from typing import Any

import ml_collections

from simvq_jax import cli
from simvq_jax.store import path_of


def read_config(run: Path) -> ml_collections.ConfigDict:
    """The resolved config of a run; keys that are newer than the run take their defaults.

    Raises FileNotFoundError or ValueError where there is none to read, or it has keys that no longer exist.
    """
    path = path_of(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {run} is no run folder; give one that training wrote.")
    try:
        stored = cli.flatten(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is no readable JSON ({error}): restore it, or train into a new folder.") from error
    config = cli.default_config()
    unknown = sorted(stored.keys() - cli.flatten(config).keys())
    if unknown:
        raise ValueError(f"{path} has keys that this version does not know ({', '.join(unknown)}): use the older one.")
    config.update_from_flattened_dict(stored)
    return config


def read_evaluation(run: Path, step: int | None = None) -> dict[str, Any]:
    """What `evaluate` wrote into a run folder; {} where it did not.

    step: of the run's weights; None = whatever they are. Raises ValueError where other weights were evaluated.
    """
    evaluation = _read_json(run / "evaluation.json")
    if step is not None and evaluated_at(evaluation) not in (None, step):
        raise ValueError(
            f"{run} was evaluated at step {evaluated_at(evaluation)} but is at step {step}: run python -m"
            f" simvq_jax.evaluate --run={run} again."
        )
    return evaluation


def evaluated_at(evaluation: dict[str, Any]) -> int | None:
    """The step whose weights were evaluated; None where that was not written down, or nothing was evaluated."""
    return evaluation.get("provenance", {}).get("step")


def read_conversion(run: Path) -> dict[str, Any]:
    """What `convert` wrote of the file that it read; {} where a run was not converted."""
    return _read_json(run / "conversion.json")


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
