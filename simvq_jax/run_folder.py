"""Whose a run folder is: of which config, and of which training that is running now."""

import contextlib
import fcntl
import json
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import logging

from simvq_jax import build, cli
from simvq_jax.agreement import all_agree, all_see, is_first
from simvq_jax.api.packed import is_packed
from simvq_jax.files import replace_text
from simvq_jax.store import is_remote

HELD_OUT = "held_out.txt"  # which data are held out
TRAINED_ON = "trained_on.txt"  # how many pictures or recordings are trained on
EVALUATION = ("evaluation.json", "evaluation_files.csv")
OLD = "before."  # what the names of files begin with that are of weights that are no more
LOCK = ".writer"  # held locked while a training writes to the folder; says who that is

# Keys that may differ from those a run was started with, each said when it does. Only `steps` changes what a step
# computes, through a cosine schedule; it is allowed so that a run can be extended.
MAY_CHANGE = (
    "log_every",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "steps",
    "max_skipped_in_a_row",
)
MAY_CHANGE_UNDER = ("mesh.", "cluster.", "data.threads", "data.eval_", "data.data_dir", "metrics.")
MAY_MOVE = (
    "losses.lpips_vgg",
    "losses.lpips_linear",
    "quantizer.basis_file",
)  # another path, but not given where it was not, nor dropped


def check_run(config, workdir: Path) -> None:
    """Checks that a run begun in the folder is of the same config. One without a checkpoint has nothing to lose."""
    path = workdir / "config.json"
    if is_packed(workdir):
        raise ValueError(
            f"{workdir} is a packed tokenizer, without what training goes on from: give another --workdir."
        )
    begun = _is_begun(workdir)
    if not begun:
        _check_ours(workdir)
    elif path.exists():
        started, now = cli.flatten(build.read_config(workdir)), cli.flatten(config)
        differing = [key for key in sorted({*started, *now}) if started.get(key) != now.get(key)]
        blocking = [key for key in differing if not _may_change(key, started.get(key), now.get(key))]
        if blocking:
            changes = ", ".join(f"{key}: {started.get(key)!r} -> {now.get(key)!r}" for key in blocking)
            raise ValueError(
                f"{workdir} holds a run of another config ({changes}): give another --workdir, or the same values."
            )
        for key in differing:
            logging.warning("%s: %s is now %r, was %r.", workdir, key, now.get(key), started.get(key))
    else:
        raise ValueError(f"{workdir} holds checkpoints but no config.json: restore it, or give another --workdir.")


def _is_begun(workdir: Path) -> bool:
    return (workdir / "checkpoints").is_dir() and any((workdir / "checkpoints").iterdir())


def _check_ours(workdir: Path) -> None:
    """Of a folder without checkpoints: what would be overwritten is of a training that has not come to one."""
    try:
        if (workdir / "config.json").exists():
            build.read_config(workdir)
        elif (workdir / "metrics.jsonl").exists():
            raise ValueError(f"{workdir / 'metrics.jsonl'} stands there without a config.json")
    except ValueError as error:
        raise ValueError(
            f"{workdir} holds files of something else, which a training would overwrite ({error}): give another"
            " --workdir."
        ) from error


def _may_change(key: str, before, now) -> bool:
    if key in MAY_MOVE:
        return bool(before) == bool(now)
    return key in MAY_CHANGE or key.startswith(MAY_CHANGE_UNDER)


def claim_run(config, workdir: Path, start: int, stop_at: int) -> None:
    """Writes config.json, once nothing speaks against going on from step `start`, to step `stop_at` if that is not
    0."""
    if start > config.steps:
        raise ValueError(
            f"steps is {config.steps} but {workdir} is at step {start} already: give {start} or more, or another"
            " --workdir."
        )
    if 0 < stop_at < start:
        raise ValueError(
            f"stop_at is {stop_at} but {workdir} is at step {start} already: give {start} or more, or leave it out."
        )
    if is_first():
        replace_text(workdir / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")


def set_old_evaluation_aside(workdir: Path, start: int) -> None:
    """Gives the figures of weights that are trained anew, from step `start` on, other names; process 0 does."""
    path = workdir / "evaluation.json"
    if not is_first() or not path.exists():
        return
    try:
        of_later_step = (build.evaluated_at(build.read_evaluation(workdir)) or 0) > start
    except ValueError:
        of_later_step = True  # whatever it is of, nobody can read it
    if of_later_step or not _is_begun(workdir):
        for name in EVALUATION:
            if (workdir / name).exists():
                (workdir / name).replace(workdir / f"{OLD}{name}")
        logging.warning("%s is of weights that are trained anew: it is now %s%s.", path, OLD, path.name)


def check_training_data(workdir: Path, items: int, start: int) -> None:
    """Warns where the training data are not as many as the run began with: the order of the examples is another then.

    items: pictures or recordings. start: as of `check_held_out`.
    """
    path = workdir / TRAINED_ON
    began = path.read_text(encoding="utf-8").strip() if start > 0 and path.exists() else str(items)
    if began != str(items):
        logging.warning(
            "%s has trained on %s items until now, and goes on with %d, in another order: not as without the stop.",
            workdir,
            began,
            items,
        )
    if is_first():
        replace_text(path, f"{items}\n")


def check_held_out(workdir: Path, identity: str, start: int) -> None:
    """Raises ValueError where the held-out data are not those that the run began with: what was held out may since be
    trained on. A folder holds out every 20th file, so that a new one moves others.

    identity: of the data. start: the step that training goes on from; at 0 the run begins anew, with these.
    """
    path = workdir / HELD_OUT
    known = start > 0 and path.exists()
    began = path.read_text(encoding="utf-8").strip() if known else identity
    if began != identity:
        raise ValueError(
            f"{workdir} began with other held-out data ({began}) than there are now ({identity}), so that it may be"
            " trained on what it is evaluated on: put the files back as they were, or give another --workdir."
        )
    if is_first() and not known:
        replace_text(path, identity + "\n")


@contextlib.contextmanager
def sole_writer(workdir: Path) -> Iterator[Callable[[], None]]:
    """Holds the folder, made if it is not there, for this training alone.

    The lock ends with the process, however that ends. A bucket has no locks: there the latest to come has it, and what
    is given, to be called before each checkpoint, raises ValueError for the one before. Raises ValueError where another
    training holds the folder, or where the processes of this one do not see the same.
    """
    with contextlib.ExitStack() as held:
        other = _lock(workdir, held) if is_first() else ""
        if not all_agree(not other):
            raise ValueError(
                f"{workdir} is being written by {other or 'another training'}: wait for its end, or give another"
                " --workdir."
            )
        if not all_see(lambda: _signature(workdir)):
            raise ValueError(
                f"the processes do not see the same folder at {workdir}: give a --workdir on a file system that all"
                " share, or in a bucket."
            )
        signature = _signature(workdir)

        def check_ours():
            if is_remote(workdir) and is_first() and _signature(workdir) != signature:
                raise ValueError(
                    f"{workdir} is being written by {_signature(workdir).partition(',')[0]} since: this training ends;"
                    " give another --workdir to have both."
                )

        yield check_ours


def _signature(workdir: Path) -> str:
    """Of the training that has the folder."""
    return (workdir / LOCK).read_text(encoding="utf-8") if (workdir / LOCK).exists() else "nothing"


def _lock(workdir: Path, held: contextlib.ExitStack) -> str:
    """Takes the lock, until `held` is closed, and signs it; or who has it."""
    signature = f"process {os.getpid()} on {socket.gethostname()}, {uuid.uuid4().hex}\n"
    if is_remote(workdir):
        (workdir / LOCK).write_text(signature)
        return ""
    workdir.mkdir(parents=True, exist_ok=True)
    file = held.enter_context((workdir / LOCK).open("a+", encoding="utf-8"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return file.read().partition(",")[0]
    except OSError:
        logging.warning("%s cannot be locked: let no second training write to it.", workdir)
    file.truncate(0)
    file.write(signature)
    file.flush()
    os.fsync(file.fileno())  # other machines look at it
    return ""
