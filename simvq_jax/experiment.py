"""The runs that an experiment plans, and which of them are finished.

An experiment is a config's file, FILE.py or FILE.py:argument, that defines, beside `get_config`, `sweep(add)`, which
calls `add(name, {"a.key": value, ...})` for each run; the argument is given to both. A run's folder is WORKDIR/NAME.
"""

import importlib.util
import inspect
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from simvq_jax import cli
from simvq_jax.build import evaluated_at, read_evaluation
from simvq_jax.run_folder import check_run


class Run(NamedTuple):
    """name: its folder's. changes: key -> value, over the experiment's config."""

    name: str
    changes: dict[str, Any]


def planned_runs(argument: str) -> list[Run]:
    """The runs of `FILE.py[:argument]`. Raises ValueError if the file plans none, or two of a name, or unknown keys."""
    file, config = cli.load_config(argument)
    spec = importlib.util.spec_from_file_location("experiment", file)
    assert spec is not None and spec.loader is not None  # it was loaded once already
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "sweep"):
        raise ValueError(f"{file} has no function sweep(add): define it, or start the one run with simvq_jax.train.")
    runs: list[Run] = []
    words = [word for word in [argument.partition(":")[2]] if word]
    if len(inspect.signature(module.sweep).parameters) <= len(words):
        raise ValueError(
            f"{argument} has an argument but sweep(add) of {file} takes none: define sweep(add, argument)."
        )
    try:
        module.sweep(lambda name, changes: runs.append(Run(name, changes)), *words)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"sweep(add) of {file} fails ({type(error).__name__}: {error}): mend the file.") from error
    if not runs:
        raise ValueError(f"sweep(add) of {file} adds no run: call add(name, changes) at least once.")
    known = cli.flatten(config)
    for run in runs:
        unknown = sorted(run.changes.keys() - known.keys())
        if unknown:
            raise ValueError(f"run {run.name!r} of {file} changes unknown keys ({', '.join(unknown)}): mend the file.")
        cli.check_types(run.changes, known, f"run {run.name!r} of {file}")
    _check_names([run.name for run in runs], file)
    return runs


def _check_names(names: list[str], file: Path) -> None:
    """Each is a folder of its own under the sweep's."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{file} has several runs named {', '.join(twice)}: give each a name of its own.")
    for name in names:
        path = PurePosixPath(name)
        if name != str(path) or name == "." or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{file} has a run named {name!r}: name a folder in the sweep's, as 'a' or 'group/a'.")
        if around := sorted({str(parent) for parent in path.parents} & {*names}):
            raise ValueError(f"{file} has a run {name!r} in the folder of the run {around[0]!r}: name it otherwise.")


def is_finished(run: Run, argument: str, workdir: Path) -> bool:
    """Whether the run was trained to its end, and evaluated there. Raises ValueError if its folder is of another
    config."""
    config = cli.load_config(argument)[1]
    config.update_from_flattened_dict(run.changes)
    folder = workdir / run.name
    check_run(config, folder)
    evaluation = read_evaluation(folder)
    if not evaluation or not _is_of_all_held_out(evaluation, config.data.source):
        return False
    return evaluated_at(evaluation) in (config.steps, None) and (folder / "checkpoints" / str(config.steps)).is_dir()


def _is_of_all_held_out(evaluation: dict[str, Any], source: str) -> bool:
    """Whether it was made on what the run holds out, not on other data or a part."""
    provenance = evaluation.get("provenance", {})
    split, limit = provenance.get("split", "eval"), provenance.get("limit", 0)
    return evaluation["data"] == source and split == "eval" and not limit
