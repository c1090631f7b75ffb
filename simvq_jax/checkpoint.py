"""Checkpoints: saved in the background, checksummed, and never half restored. The only file that knows orbax."""

import contextlib
import dataclasses
import functools
import gc
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from simvq_jax.cluster import causes, is_loss
from simvq_jax.state import Inference, TrainState
from simvq_jax.store import is_remote

LONGEST_REASON = 200  # characters of another library's message that ours repeats
SPACE_MARGIN = 1.2  # free space asked for, over the bytes of the arrays
# Devices that hold the same array each write a part of it, cut out by a program that is compiled for every shape: of
# hundreds of small arrays that takes longer than it saves.
SMALLEST_PART = 2**20  # bytes
# Words of XLA's and tensorstore's errors that say nothing against a checkpoint.
OF_THE_MACHINE = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "PERMISSION_DENIED", "DEADLINE_EXCEEDED")

Restorable = TypeVar("Restorable", TrainState, Inference)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says what is left and what to do."""


class _Manager(ocp.CheckpointManager):
    """Leaves the count of jax's preemption service to `stopping.StopRequest`.

    orbax would pass it the number of the step, at a save and again from a thread: a number below the count makes jax
    choose a place to stop at that is behind us, so that a preemption at that moment is never heard of.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpointer:
    """Checkpoints of one run, `RUN/checkpoints/STEP`."""

    def __init__(
        self,
        run: Path,
        keep: int = 3,
        read_only: bool = False,
        redraw: Callable[[], Any] | None = None,
        before_save: Callable[[], None] = lambda: None,
    ):
        """run: the run folder. keep: how many of the newest checkpoints stay. read_only: change nothing on disk.

        redraw: makes `TrainState.codebook` anew from a seed; checkpoints then hold its checksum only. before_save: may
        raise to forbid it.
        """
        self._read_only, self._redraw, self._before_save = read_only, redraw, before_save
        run = run if is_remote(run) else Path(run).absolute()
        self._folder, self._set_aside = run / "checkpoints", run / "damaged_checkpoints"
        _keep_small_arrays_whole()
        with _quiet_log() if read_only else contextlib.nullcontext():
            options = ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep, enable_async_checkpointing=not read_only, read_only=read_only
            )
            self._manager = _Manager(self._folder, options=options)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind, error, trace) -> None:
        # After another error, a failed save must not hide it.
        with contextlib.suppress(CheckpointError) if kind else contextlib.nullcontext():
            self.close()

    def save(self, state: TrainState, step: int) -> None:
        """Starts saving; returns once the arrays are copied. A failure of the save before is raised here."""
        if step in self._manager.all_steps():
            return
        self._before_save()
        sums = {path: int(value) for path, value in checksums(state).items()}
        stored = self._without_redrawn(state)
        self._check_space(stored)
        items = ocp.args.Composite(state=ocp.args.StandardSave(stored), checksums=ocp.args.JsonSave(sums))
        self._guard(lambda: self._manager.save(step, args=items, force=True))

    def wait(self) -> None:
        """Blocks until the last save is on the disk; raises CheckpointError if it failed."""
        self._guard(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits, then releases the background threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints on the disk, rising."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def restore(self, template: Restorable) -> Restorable | None:
        """The newest sound checkpoint, or None where there is none.

        template: a state of arrays or of `jax.ShapeDtypeStruct` with shardings; an `Inference` reads only what it has,
        which may be less than all parameters. A damaged checkpoint is set aside in
        `damaged_checkpoints/` (unless read-only) and the one before is taken. Raises CheckpointError if all are
        damaged, or where the arrays have other shapes, as by another config.
        """
        steps = self.steps()
        damaged: list[int] = []
        for step in reversed(steps):
            try:
                with _quiet_threads():
                    restored = self.restore_step(step, template)
                # Only now: where none is sound, everything stays in place for a repair.
                self._put_aside(damaged)
                return restored
            except Exception as error:  # whatever a damaged file makes the reader raise
                if is_loss(error) or _is_of_the_machine(error):
                    raise
                if unlike := self._unlike(step, template):
                    raise CheckpointError(
                        f"checkpoint {step} of {self._folder.parent} is not of its config.json: {unlike}. Restore"
                        " config.json as training wrote it."
                    ) from error
                if jax.process_count() > 1:
                    raise self._unread_by_one(step, steps, error) from error
                logging.error("Checkpoint %d is damaged (%s): using the one before.", step, _first_line(error))
                damaged.append(step)
        if steps:
            raise CheckpointError(
                f"all {len(steps)} checkpoints of {self._folder.parent} are damaged: restore one of them from a"
                " backup, or train into a new folder."
            )
        return None

    def _unlike(self, step: int, template: Restorable) -> str:
        """What a checkpoint has in another shape than the template; "" where that cannot be told, or nothing."""
        try:
            stored = ocp.PyTreeCheckpointHandler().metadata(self._folder / str(step) / "state")
            shapes = {_names(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(stored)}
        except Exception:  # whatever a damaged file makes the reader raise
            return ""
        for path, leaf in jax.tree_util.tree_leaves_with_path(self._without_redrawn(template)):
            name = _names(path)
            if name in shapes and tuple(shapes[name]) != leaf.shape:
                return f"its {name} is {tuple(shapes[name])}, by the config {leaf.shape}"
        return ""

    def _unread_by_one(self, step: int, steps: list[int], error: Exception) -> CheckpointError:
        """Of several processes the others may have read it, and wait: this one has to end, and they with it. What is
        started again takes the checkpoint before."""
        if self._read_only or step == steps[0]:
            return CheckpointError(f"checkpoint {step} of {self._folder.parent} is damaged ({_first_line(error)}).")
        self._put_aside([step])
        return CheckpointError(
            f"checkpoint {step} of {self._folder.parent} is damaged ({_first_line(error)}) and was moved to"
            f" {self._set_aside}: start all processes again, to go on from the one before."
        )

    def restore_step(self, step: int, template: Restorable) -> Restorable:
        """The checkpoint of one step. Raises CheckpointError on a wrong checksum, and what orbax raises."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, self._without_redrawn(template))
        if isinstance(template, TrainState):
            wanted: Any = ocp.args.StandardRestore(abstract)
        else:
            restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
            wanted = ocp.args.PyTreeRestore(abstract, restore_args, partial_restore=True)
        items = ocp.args.Composite(state=wanted, checksums=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=items)
        state = restored.state
        if self._redraw is not None:
            shardings = jax.tree.map(lambda leaf: leaf.sharding, template.codebook)
            state = dataclasses.replace(state, codebook=jax.jit(self._redraw, out_shardings=shardings)())
        for path, value in checksums(state).items():
            if restored.checksums.get(path) != int(value):
                raise CheckpointError(f"the checksum of {path} differs from the one it was saved with")
        return state

    def _without_redrawn(self, state: Restorable) -> Restorable:
        return state if self._redraw is None else dataclasses.replace(state, codebook={})

    def _put_aside(self, steps: list[int]) -> None:
        """Frees the steps' places for new saves, without losing what may still be read by hand."""
        if self._read_only or not steps:
            return
        self._set_aside.mkdir(exist_ok=True)
        for step in steps:
            with contextlib.suppress(FileNotFoundError):  # another process has moved it
                _move_to_free_name(self._folder / str(step), self._set_aside)
        self._manager.reload()

    def _check_space(self, state: TrainState) -> None:
        """Fails before orbax would: its threads fill the screen with tracebacks when the disk is full."""
        if is_remote(self._folder):
            return
        needed = SPACE_MARGIN * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise CheckpointError(
                f"a checkpoint of {needed / 1e6:,.0f} MB could not be written to {self._folder}: {free / 1e6:,.0f} MB"
                f" are free there; the ones before it are whole (newest: {max(self.steps(), default='none')}), so free"
                " some space and start the same command again."
            )

    def _guard(self, action) -> None:
        try:
            with _quiet_threads():
                action()
                self._manager.check_for_errors()
        except Exception as error:
            if is_loss(error):
                raise
            raise CheckpointError(
                f"a checkpoint could not be written to {self._folder} ({_first_line(error)}): the ones before it are"
                f" whole (newest: {max(self.steps(), default='none')}); free some space and start the same command"
                " again."
            ) from error


def _move_to_free_name(folder: Path, into: Path) -> None:
    """Moves it under its own name, or with .1, .2, ... behind it where that is taken."""
    for ending in ("", *(f".{i}" for i in range(1, 1000))):
        try:
            folder.rename(into / (folder.name + ending))
            return
        except FileNotFoundError:
            raise
        except OSError:  # taken
            continue


def _names(path) -> str:
    """A path of a tree, of whatever containers: "params/encoder/kernel"."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path)


def _first_line(error: Exception) -> str:
    """What an error says, without the pages that tensorstore adds to it."""
    lines = str(error).strip().splitlines()
    sentence = lines[0].partition(" [tensorstore_spec")[0] if lines else type(error).__name__
    return sentence if len(sentence) <= LONGEST_REASON else f"{sentence[:LONGEST_REASON]}..."


def _is_of_the_machine(error: Exception) -> bool:
    """Whether the machine or the network is to blame, so that the checkpoint may be sound."""

    def says_so(cause: BaseException) -> bool:
        of_system = isinstance(cause, OSError | MemoryError) and not isinstance(cause, FileNotFoundError)
        return of_system or any(word in str(cause) for word in OF_THE_MACHINE)

    return any(map(says_so, causes(error)))


@functools.cache
def _keep_small_arrays_whole() -> None:
    """Has orbax write them from one device; its handlers are those of the process."""
    handler = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SMALLEST_PART)
    with _quiet_log():
        ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)


@contextlib.contextmanager
def _quiet_log():
    """Keeps orbax from warning of what is on purpose: that reading does not write, that a handler is replaced."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _quiet_threads():
    """Keeps the threads and abandoned futures of orbax from printing, by the hundred, what it also raises here."""
    hooks = threading.excepthook, sys.unraisablehook, sys.excepthook
    threading.excepthook = lambda args: None
    sys.unraisablehook = lambda args: None
    sys.excepthook = lambda *args: None  # tensorstore's callbacks report there that their event loop is closed
    failed = True
    try:
        yield
        failed = False
    finally:
        if failed:  # let what was abandoned speak while nobody listens
            gc.collect()
            time.sleep(0.5)
            gc.collect()
        threading.excepthook, sys.unraisablehook, sys.excepthook = hooks


def checksums(tree) -> dict[str, np.ndarray]:
    """Path of every leaf -> uint32. Any single flipped bit changes it; sharding and process count do not."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = _sum_all([leaf for _, leaf in leaves])
    return {jax.tree_util.keystr(path): value for (path, _), value in zip(leaves, jax.device_get(sums), strict=True)}


@jax.jit
def _sum_all(leaves):
    return [_checksum(leaf) for leaf in leaves]


def _checksum(leaf):
    """Sum of each word times an odd number of its place, modulo 2^32.

    A flipped bit b of a word changes the sum by 2^b times an odd number, which is never 0 modulo 2^32.
    """
    words = leaf
    if words.dtype == bool:
        words = words.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[words.dtype.itemsize]
    words = jax.lax.bitcast_convert_type(words, unsigned).astype(jnp.uint32).ravel()
    places = 2 * jax.lax.iota(jnp.uint32, words.shape[0]) + 1
    return jnp.sum(words * places, dtype=jnp.uint32)
