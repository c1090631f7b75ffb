"""Training: `python -m simvq_jax.train --config=configs/NAME.py[:argument] --workdir=RUN`.

The same command again resumes the run where its newest checkpoint stands; so does --workdir=RUN alone.
"""

import contextlib
import json
import signal
import sys
from pathlib import Path

import jax
import ml_collections
from absl import logging

from simvq_jax import build, cli
from simvq_jax.api.packed import is_packed
from simvq_jax.checkpoint import Checkpointer
from simvq_jax.data.sources import SkipLog
from simvq_jax.files import replace_text
from simvq_jax.health import rank_figures
from simvq_jax.inputs import build_train_batches
from simvq_jax.mesh import (
    batch_sharding,
    check_batch,
    check_codebook,
    make_mesh,
    place_batch,
    replicated,
)
from simvq_jax.observer import Observer
from simvq_jax.start import initial_state
from simvq_jax.state import TrainState
from simvq_jax.writers import open_writer

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
MAY_CHANGE_UNDER = ("mesh.", "data.threads", "data.eval_", "data.data_dir", "metrics.")
MAY_MOVE = (
    "losses.lpips_vgg",
    "losses.lpips_linear",
    "quantizer.basis_file",
)  # another path, but not given where it was not, nor dropped


def train(config: ml_collections.ConfigDict, workdir: Path, stop_at: int = 0) -> TrainState:
    """Trains, or resumes, and returns the last state.

    Resume takes the first that applies:
      1. `workdir` holds a run of another config: ValueError that lists the differing keys; nothing is touched.
      2. it holds a sound checkpoint: training goes on from there, bit for bit.
      3. it holds nothing: training starts from `config.seed`.

    stop_at: end after this step, checkpointed, as if interrupted; 0 = go on to `config.steps`.
    """
    build.check_ranges(config)
    if stop_at < 0:
        raise ValueError(f"stop_at is {stop_at} but must be 0, to go on to the end, or a step.")
    mesh = make_mesh(**config.mesh)
    check_batch(config.batch_size, config.accumulate, mesh)
    check_batch(config.data.eval_batch_size, 1, mesh, key="data.eval_batch_size")
    check_codebook(config.quantizer.codebook_size, mesh)
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    train_step, perceptual = build.build_train_step(config, networks, optimizers), build.build_perceptual(config)
    check_run(config, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    redraw = build.seeded_codebook(config)
    with jax.set_mesh(mesh), Checkpointer(workdir, config.keep_checkpoints, redraw=redraw) as checkpoints:
        state = initial_state(config, networks, optimizers, checkpoints, mesh)
        claim_run(config, workdir, int(state.step))
        step_fn = compile_step(train_step, state, mesh)
        perceptual = jax.device_put(perceptual, replicated(mesh))
        return run_loop(config, workdir, mesh, networks, step_fn, state, perceptual, checkpoints, stop_at)


def check_run(config, workdir: Path) -> None:
    """Checks that a run begun in the folder is of the same config. One without a checkpoint has nothing to lose."""
    path = workdir / "config.json"
    if is_packed(workdir):
        raise ValueError(
            f"{workdir} is a packed tokenizer, without what training goes on from: give another --workdir."
        )
    begun = (workdir / "checkpoints").is_dir() and any((workdir / "checkpoints").iterdir())
    if begun and path.exists():
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
    elif begun:
        raise ValueError(f"{workdir} holds checkpoints but no config.json: restore it, or give another --workdir.")


def claim_run(config, workdir: Path, start: int) -> None:
    """Writes config.json, once nothing speaks against going on from step `start`."""
    if start > config.steps:
        raise ValueError(
            f"steps is {config.steps} but {workdir} is at step {start} already: give {start} or more, or another"
            " --workdir."
        )
    if jax.process_index() == 0:
        replace_text(workdir / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")


def _may_change(key: str, before, now) -> bool:
    if key in MAY_MOVE:
        return bool(before) == bool(now)
    return key in MAY_CHANGE or key.startswith(MAY_CHANGE_UNDER)


def compile_step(train_step, state: TrainState, mesh):
    """The step as one jitted call that reuses the state's memory."""
    shardings = jax.tree.map(lambda a: a.sharding, state)
    return jax.jit(
        train_step,
        in_shardings=(shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def run_loop(config, workdir, mesh, networks, step_fn, state, perceptual, checkpoints, stop_at) -> TrainState:
    """The single train loop. Step n is dispatched before the figures of n - 1 are read, so the device never waits."""
    start, last = int(state.step), min(stop_at or config.steps, config.steps)
    skipped = SkipLog(workdir / "skipped_files.txt")
    with (
        open_writer(workdir, start) as writer,
        contextlib.closing(build_train_batches(config, skipped, start)) as batches,
        StopRequest() as stop,
    ):
        observe = Observer(config, workdir, mesh, networks, perceptual, writer, skipped)
        observe.begin(state, start, last)
        step, pending = start, None
        while step < last:
            (batch,) = place_batch(next(batches), mesh).values()
            state, metrics = step_fn(state, batch, perceptual)
            step += 1
            if step % config.log_every == 0:
                metrics |= rank_figures(state.generator.params)
            if pending is not None:
                observe.step(*pending)
            pending = (step, metrics)
            if stop.requested:
                last = step
            due_checkpoint = step % config.checkpoint_every == 0 or step == last
            due_evaluation = step % config.eval_every == 0 or step == config.steps
            if due_evaluation or due_checkpoint:
                observe.step(*pending)
                pending = None
            if due_evaluation:
                observe.evaluation(state, step)
            if due_checkpoint:
                writer.flush()  # rows up to a checkpoint are never lost: a resume does not write them again
                checkpoints.save(state, step)
        checkpoints.wait()
        observe.end(step)
    if stop.interrupted:
        sys.exit(cli.INTERRUPTED)
    return state


class StopRequest:
    """SIGTERM or SIGINT ask the loop to end after the step under way; a second one ends at once.

    Both save. SIGTERM, a preemption, is a clean end; after SIGINT, the keyboard's, the process reports it, so that a
    script does not go on to its next stage.
    """

    def __init__(self):
        self.requested = False
        self.interrupted = False  # by the keyboard: what started us must not go on as if we had finished
        self._previous = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not the main thread: the caller handles signals
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number, _):
        self.requested = True
        self.interrupted = number == signal.SIGINT
        signal.signal(number, signal.SIG_DFL)


def config_of(chosen: cli.Chosen, workdir: Path) -> ml_collections.ConfigDict:
    """The named experiment's config, or else that of the run in `workdir`, each with its overrides."""
    if chosen.config is not None:
        return chosen.config
    if not (workdir / "config.json").is_file():
        raise ValueError(
            f"--config is missing and {workdir} holds no run to go on with: give --config=configs/NAME.py, or another"
            " --workdir."
        )
    config = build.read_config(workdir)
    config.update_from_flattened_dict(chosen.overrides)
    return config


def main(config: cli.Chosen, workdir: str, stop_at: int) -> None:
    """Command line of `train`."""
    train(config_of(config, Path(workdir)), Path(workdir), stop_at)


if __name__ == "__main__":
    # Started as a script, Python puts the package's folder first on the path, where our names could shadow others'.
    sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]
    cli.run_main(
        main,
        {"workdir": cli.REQUIRED, "stop_at": 0},
        {
            "workdir": "run folder, as runs/quickstart",
            "stop_at": "end, checkpointed, after this step; 0 = run to steps",
        },
        optional_config=True,
    )
