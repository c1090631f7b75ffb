"""Checkpoints: saved in the background, checksummed, and never half restored. The only file that knows orbax."""

import contextlib
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from simvq_jax.state import TrainState


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says what is left and what to do."""


class Checkpointer:
    """Checkpoints of one run, `RUN/checkpoints/STEP`."""

    def __init__(self, run: Path, keep: int = 3, read_only: bool = False):
        """run: the run folder. keep: how many of the newest checkpoints stay. read_only: change nothing on disk."""
        self._read_only = read_only
        self._folder = Path(run).absolute() / "checkpoints"
        self._set_aside = Path(run).absolute() / "damaged_checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            enable_async_checkpointing=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

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
        sums = {path: int(value) for path, value in checksums(state).items()}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), checksums=ocp.args.JsonSave(sums))
        self._guard(lambda: self._manager.save(step, args=items, force=True), step)

    def wait(self) -> None:
        """Blocks until the last save is on the disk; raises CheckpointError if it failed."""
        self._guard(self._manager.wait_until_finished, None)

    def close(self) -> None:
        """Waits, then releases the background threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the checkpoints present, rising."""
        return sorted(self._manager.all_steps())

    def restore(self, template: TrainState) -> TrainState | None:
        """The newest sound checkpoint, or None where there is none.

        template: a state of arrays or of `jax.ShapeDtypeStruct` with shardings. A damaged checkpoint is set aside in
        `damaged_checkpoints/` (unless read-only) and the one before is taken. Raises CheckpointError if all are
        damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._restore_step(step, template)
            except Exception as error:  # whatever a damaged file makes the reader raise
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                logging.error("Checkpoint %d is damaged (%s): it is set aside in %s.", step, reason, self._set_aside)
                self._put_aside(step)
        if steps:
            raise CheckpointError(
                f"all {len(steps)} checkpoints of {self._folder.parent} are damaged and were set aside in"
                f" {self._set_aside.name}: restore one of them from a backup, or train into a new folder."
            )
        return None

    def _restore_step(self, step: int, template: TrainState) -> TrainState:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), checksums=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=items)
        expected, got = restored.checksums, checksums(restored.state)
        for path, value in got.items():
            if expected.get(path) != int(value):
                raise CheckpointError(f"the checksum of {path} differs from the one it was saved with")
        return restored.state

    def _put_aside(self, step: int) -> None:
        """Frees the step's place for a new save, without losing what may still be read by hand."""
        if self._read_only:
            return
        if jax.process_index() == 0:
            self._set_aside.mkdir(exist_ok=True)
            target = self._set_aside / str(step)
            if target.exists():
                shutil.rmtree(target)
            shutil.move(str(self._folder / str(step)), str(target))
        self._manager.reload()

    def _guard(self, action, step) -> None:
        try:
            action()
            self._manager.check_for_errors()
        except Exception as error:
            what = "a checkpoint" if step is None else f"checkpoint {step}"
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(
                f"{what} could not be written to {self._folder} ({reason}): the checkpoints before it are whole"
                f" (newest: {max(self.steps(), default='none')}); free some space and start the same command again."
            ) from error


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
