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
    stored = cli.flatten(_read_object(path, "restore it, or train into a new folder"))
    config = cli.default_config()
    known = cli.flatten(config)
    unknown = sorted(stored.keys() - known.keys())
    if unknown:
        raise ValueError(f"{path} has keys that this version does not know ({', '.join(unknown)}): use the older one.")
    cli.check_types(stored, known, f"{path}")
    config.update_from_flattened_dict(stored)
    return config


def read_evaluation(run: Path, step: int | None = None) -> dict[str, Any]:
    """What `evaluate` wrote into a run folder; {} where it did not.

    step: of the run's weights; None = whatever they are. Raises ValueError where other weights were evaluated.
    """
    path = run / "evaluation.json"
    evaluation = _read_object(path, f"run python -m simvq_jax.evaluate --run={run} again") if path.is_file() else {}
    if step is not None and evaluated_at(evaluation) not in (None, step):
        raise ValueError(
            f"{run} was evaluated at step {evaluated_at(evaluation)} but is at step {step}: run python -m"
            f" simvq_jax.evaluate --run={run} again; where it finds checkpoint {step} damaged, first python -m"
            f" simvq_jax.train --workdir={run}, which makes it anew."
        )
    return evaluation


def evaluated_at(evaluation: dict[str, Any]) -> int | None:
    """The step whose weights were evaluated; None where that was not written down, or nothing was evaluated."""
    return evaluation.get("provenance", {}).get("step")


def read_conversion(run: Path) -> dict[str, Any]:
    """What `convert` wrote of the file that it read; {} where a run was not converted."""
    path = run / "conversion.json"
    return _read_object(path, "convert the checkpoint again, or remove the file") if path.is_file() else {}


def _read_object(path: Path, mend: str) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no readable JSON ({error}): {mend}.") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} holds a {type(read).__name__} but must hold an object: {mend}.")
    return read
