"""Training: `python -m simvq_jax.train --config=configs/NAME.py[:argument] --workdir=RUN`.

The same command again resumes the run where its newest checkpoint stands; so does --workdir=RUN alone.
"""

import contextlib
import sys
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections

from simvq_jax import accelerators, agreement, build, cli, cluster
from simvq_jax.checkpoint import Checkpointer
from simvq_jax.data.encoded import SkipLog
from simvq_jax.data.eval_crops import Batch
from simvq_jax.evaluate import evaluate_run, print_and_save
from simvq_jax.health import rank_figures
from simvq_jax.inputs import EvalData, build_train_batches, open_data, skip_list
from simvq_jax.mesh import (
    BatchShare,
    batch_share,
    check_batch,
    check_codebook,
    jit_step,
    make_mesh,
    place_batch,
    place_whole,
)
from simvq_jax.observer import Observer
from simvq_jax.run_folder import (
    check_held_out,
    check_run,
    check_training_data,
    claim_run,
    set_old_evaluation_aside,
    sole_writer,
)
from simvq_jax.start import initial_state
from simvq_jax.state import TrainState
from simvq_jax.stopping import Stopped, StopRequest
from simvq_jax.store import Staged, path_of, staged
from simvq_jax.writers import has_evaluation, open_writer


class Trained(NamedTuple):
    """state: the last one. whole: whether that is the end: at `config.steps`, with the evaluations that are asked for.
    interrupted: by the keyboard, and saved."""

    state: TrainState
    whole: bool
    interrupted: bool


class Inputs(NamedTuple):
    """batches: to train on. eval_data: to evaluate on. skipped: the list of what cannot be read of both."""

    batches: Generator[Batch]
    eval_data: EvalData
    skipped: SkipLog


def train(config: ml_collections.ConfigDict, workdir: Path, stop_at: int = 0) -> TrainState:
    """Trains, or resumes, and returns the last state.

    Resume takes the first that applies:
      1. `workdir` holds a run of another config: ValueError that lists the differing keys; nothing is touched.
      2. it holds a sound checkpoint: training goes on from there, bit for bit.
      3. it holds nothing: training starts from `config.seed`.

    stop_at: end after this step, checkpointed, as if interrupted; 0 = go on to `config.steps`.
    Several processes train together, each with the same arguments, after `cluster.joined`. Raises KeyboardInterrupt
    after Ctrl-C, once the state is saved.
    """
    trained = train_on(config, workdir, stop_at)
    if trained.interrupted:
        raise KeyboardInterrupt
    return trained.state


def train_on(config: ml_collections.ConfigDict, workdir: Path, stop_at: int) -> Trained:
    """`train`, which also tells whether anything is left to do."""
    build.check_ranges(config)
    if stop_at < 0:
        raise ValueError(f"stop_at is {stop_at} but must be 0, to go on to the end, or a step.")
    agreement.check_alike("the config", f"{cli.flatten(config)} {stop_at}")
    mesh = make_mesh(**config.mesh)
    check_batch(config.batch_size, config.accumulate, mesh)
    check_batch(config.data.eval_batch_size, 1, mesh, key="data.eval_batch_size")
    check_codebook(config.quantizer.codebook_size, mesh)
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    train_step, perceptual = build.build_train_step(config, networks, optimizers), build.build_perceptual(config)
    check_run(config, workdir)
    redraw = build.seeded_codebook(config)
    with (
        sole_writer(workdir) as check_ours,
        staged(workdir, *appended_files(), before_upload=check_ours) as stage,
        jax.set_mesh(mesh),
        Checkpointer(workdir, config.keep_checkpoints, redraw=redraw, before_save=check_ours) as checkpoints,
    ):
        state = initial_state(config, networks, optimizers, checkpoints, mesh)
        step_fn = jit_step(train_step, state, mesh)
        perceptual = place_whole(perceptual, mesh)
        return run_loop(config, stage, mesh, networks, step_fn, state, perceptual, checkpoints, stop_at)


def appended_files() -> list[str]:
    """Names of the files of a run folder that this process adds to."""
    return [skip_list(), *(["metrics.jsonl"] if agreement.is_first() else [])]


def run_loop(config, stage, mesh, networks, step_fn, state, perceptual, checkpoints, stop_at) -> Trained:
    """The single train loop. Step n is dispatched before the figures of n - 1 are read, so the device never waits."""
    start, last = int(state.step), min(stop_at or config.steps, config.steps)
    with StopRequest() as stop, contextlib.ExitStack() as ends:
        inputs = open_inputs(config, stage, start, stop_at, batch_share(mesh))
        batches = ends.enter_context(contextlib.closing(inputs.batches))
        writer = ends.enter_context(open_writer(stage.folder, start))
        owed = _evaluates(config, start) and (start == 0 or not _evaluated(stage.folder, start))

        def save():
            """Rows up to a checkpoint are never lost: a resume does not write them again."""
            writer.flush()
            stage.upload()
            checkpoints.save(state, step)

        observe = Observer(config, stage.target, mesh, networks, perceptual, writer, inputs.eval_data, inputs.skipped)
        observe.begin(start, last)
        step, pending = start, None
        evaluated = not owed or evaluated_to_its_end(observe, state, step, stop)
        if not evaluated:
            last = step
        while step < last:
            (batch,) = place_batch(next(batches), mesh).values()
            state, metrics = step_fn(state, batch, perceptual)
            step += 1
            if step % config.log_every == 0:
                metrics |= rank_figures(state.generator.params)
            if pending is not None:
                observe.step(*pending)
            pending = (step, metrics)
            if stop.asked():
                last = step
            due_evaluation = _evaluates(config, step)
            due_checkpoint = _is_due(step, config.checkpoint_every, last)
            if due_evaluation or due_checkpoint:
                observe.step(*pending)
                pending = None
            # Saved first: an evaluation that is interrupted is made up for by the resume.
            if due_checkpoint:
                save()
            if due_evaluation:
                evaluated = evaluated_to_its_end(observe, state, step, stop)
                if not evaluated:
                    last = step
                    save()
        checkpoints.wait()
        observe.end(step)
    return Trained(state, step == config.steps and evaluated, stop.interrupted)


def open_inputs(config, stage: Staged, start: int, stop_at: int, share: BatchShare) -> Inputs:
    """Opens the data, and takes the folder for the run once nothing in them speaks against going on."""
    skipped = SkipLog(stage.folder / skip_list())
    source = open_data(config, "train", skipped)
    batches = build_train_batches(config, source, start, share)
    eval_data = EvalData(config, skipped)
    check_held_out(stage.target, eval_data.identity, start)
    claim_run(config, stage.target, start, stop_at)
    check_training_data(stage.target, len(source), start)
    set_old_evaluation_aside(stage.target, start)
    return Inputs(batches, eval_data, skipped)


def _is_due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _evaluates(config, step: int) -> bool:
    """Whether the weights of this step are evaluated: the first, the last, and every `eval_every` between; 0 = none."""
    return config.eval_every > 0 and _is_due(step, config.eval_every, config.steps)


def _evaluated(folder: Path, step: int) -> bool:
    """Whether the figures of an evaluation at this step are on the disk, by process 0's word."""
    return agreement.agreed(agreement.is_first() and has_evaluation(folder, step))


def evaluated_to_its_end(observe: Observer, state: TrainState, step: int, stop: StopRequest) -> bool:
    """Evaluates; False if that was given up because the training is to stop."""
    try:
        observe.evaluation(state, step, stop.check)
    except Stopped:
        return False
    return True


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


def main(
    config: cli.Chosen,
    workdir: str,
    stop_at: int,
    evaluate: bool = False,
    stopped_status: int = 0,
    allow_cpu: bool = False,
    **job,
) -> None:
    """Command line of `train`, and of `evaluate` once the run is whole, if asked for."""
    folder = path_of(workdir)
    chosen = config_of(config, folder)
    with cluster.joined(build.build_timeouts(chosen), job, saves_on_sigterm=True):
        accelerators.check_used(allow_cpu)
        if evaluate and jax.process_count() > 1:
            raise ValueError(
                f"--evaluate is of a training in one process but this one has {jax.process_count()}: leave it out, and"
                " start simvq_jax.evaluate in all of them behind it, as launch/job.sh does."
            )
        trained = train_on(chosen, folder, stop_at)
        if evaluate and trained.whole and not trained.interrupted:
            print_and_save(folder, chosen.data.source, evaluate_run(folder))
    if trained.interrupted:
        sys.exit(cli.INTERRUPTED)
    if not trained.whole:
        sys.exit(stopped_status)


if __name__ == "__main__":
    # Started as a script, Python puts the package's folder first on the path, where our names could shadow others'.
    sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]
    cli.run_main(
        main,
        {
            "workdir": cli.REQUIRED,
            "stop_at": 0,
            "evaluate": False,
            "stopped_status": 0,
            "allow_cpu": False,
            **cluster.FLAGS,
        },
        {
            "workdir": "run folder, as runs/quickstart",
            "stop_at": "end, checkpointed, after this step; 0 = run to steps",
            "evaluate": "evaluate the run once it is whole, as simvq_jax.evaluate --run=WORKDIR does; in one process",
            "stopped_status": "exit status when SIGTERM or --stop_at ended the training before its last step",
            "allow_cpu": "train on the CPU even beside an accelerator",
            **cluster.HELP,
        },
        optional_config=True,
    )
