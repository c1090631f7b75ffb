"""What training tells the outside: figures, evaluations, pictures, progress."""

import functools
import math
import time
from collections.abc import Callable

import jax

from simvq_jax.agreement import is_first, total_over_processes
from simvq_jax.build import of_sound, tokens_an_example
from simvq_jax.data.encoded import SkipLog
from simvq_jax.drawing.pictures import picture_grid
from simvq_jax.drawing.sounds import mel_picture
from simvq_jax.health import CollapseWatch
from simvq_jax.inputs import EvalData
from simvq_jax.progress import Progress
from simvq_jax.scoring import CONSTANT, Evaluation, evaluate, make_scorer
from simvq_jax.state import TrainState, inference_variables

# Figures of which a row has the latest, not the mean: they stand for a window of tokens, or for the moment.
NO_MEANS = (
    "codebook_utilization",
    "codebook_perplexity",
    "codes_never_used",
    "dead_code_age",
    "effective_rank",
    "skipped",
    "learning_rate",
)


class Diverged(RuntimeError):
    """Too many non-finite steps in a row."""


class Observer:
    """What the loop tells the outside: figures, evaluations, progress."""

    def __init__(self, config, workdir, mesh, networks, perceptual, writer, eval_data: EvalData, skipped: SkipLog):
        self._config, self._workdir, self._mesh, self._writer = config, workdir, mesh, writer
        self._autoencoder = networks.autoencoder
        self._perceptual = perceptual
        self._eval_data, self._skipped = eval_data, skipped
        tokens = config.batch_size * tokens_an_example(config)
        self._watch = CollapseWatch(config.quantizer, tokens)
        self._window: list[dict] = []
        self._since, self._examples = 0.0, 0

    @functools.cached_property
    def _scorer(self):
        """Made for the first evaluation, which a run may do without."""
        return make_scorer(self._config, self._autoencoder, self._perceptual, self._mesh)

    def begin(self, start: int, last: int) -> None:
        """Announces the run. last: the step to end after."""
        self._last = last
        self._progress = Progress(self._workdir.name, self._config.steps, silent=not is_first())
        verb = f"resuming at step {start}" if start else "training"
        devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s)"
        if jax.process_count() > 1:
            devices += f" of {jax.process_count()} processes"
        self._progress.note(f"{self._workdir}: {verb}, to step {last}, on {devices}")
        self._since, self._examples = time.monotonic(), 0

    def step(self, step: int, metrics) -> None:
        """Reads one step's figures, waiting for it to finish."""
        row = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._check_divergence(step, row)
        self._window.append(row)
        self._examples += self._config.batch_size
        if step % self._config.log_every == 0 or step == self._config.steps:
            self._log(step)
        self._progress.update(step, f"loss {row['train/loss']:.4f}  in use {row['train/codebook_utilization']:.1%}")

    def _log(self, step: int) -> None:
        """Writes what the steps since the last row gave."""
        means = means_of(self._window)
        elapsed = time.monotonic() - self._since
        means["train/examples_per_second"] = self._examples / max(elapsed, 1e-9)
        means["train/skipped_files"] = float(total_over_processes(self._skipped.count))
        self._writer.write_scalars(step, means)
        for sentence in self._watch.look(step, means):
            self._progress.note(f"warning: {sentence}")
        self._window, self._since, self._examples = [], time.monotonic(), 0

    def _check_divergence(self, step: int, row: dict) -> None:
        in_a_row = int(row["train/skipped_in_a_row"])
        if in_a_row >= self._config.max_skipped_in_a_row:
            raise Diverged(
                f"the last {in_a_row} steps, to step {step}, had a loss or gradient that is not finite"
                f" (max_skipped_in_a_row = {self._config.max_skipped_in_a_row}); parameters are those before them:"
                " lower the learning rates, set optimizer.clip_norm, or look for NaN in the data."
            )

    def evaluation(self, state: TrainState, step: int, before_batch: Callable[[], None]) -> Evaluation:
        """Evaluates the EMA weights; writes figures, W's spectrum and pictures. before_batch: may raise to give up."""
        began = time.monotonic()
        variables = inference_variables(state)
        result = evaluate(self._scorer, variables, self._eval_data, self._mesh, before_batch=before_batch)
        self._writer.write_scalars(step, {k: v for k, v in result.metrics.items() if k not in CONSTANT})
        if result.singular_values.size:
            self._writer.write_histograms(step, {"eval/transform_singular_values": result.singular_values})
        if is_first() and len(result.originals):  # this process may have had none that can be read
            self._writer.write_images(step, {"eval/original_over_reconstruction": self._pairs(result)[..., :3]})
        self._writer.flush()  # an evaluation is made once; of steps, a resume makes those after the checkpoint again
        self._since += time.monotonic() - began  # throughput is that of training alone
        return result

    def _pairs(self, result: Evaluation):
        rows = [result.originals[:8], result.reconstructions[:8]]
        if of_sound(self._config):
            rate = self._config.data.sample_rate
            rows = [[mel_picture(sound, rate) for sound in row[:4]] for row in rows]
        return picture_grid(rows)

    def end(self, step: int) -> None:
        """Writes the row under way, and says what is left to do and what was left out."""
        if self._window:
            self._log(step)
        if step < self._config.steps:
            without = ", without --stop_at," if step == self._last else ""
            self._progress.note(f"stopped at step {step}, checkpointed: the same command{without} goes on from here")
        if self._skipped.count:
            listed = self._skipped.path  # none where the list could not be written, which was said
            where = f": see {self._workdir / listed.name}" if listed else ", as was said above"
            self._progress.note(f"{self._skipped.count} unreadable file(s) were skipped{where}")


def means_of(window: list[dict[str, float]]) -> dict[str, float]:
    """One row of several steps' figures: means over the steps that were not skipped, of NO_MEANS what stands now."""
    latest = window[-1]
    taken = [row for row in window if not row["train/skipped_in_a_row"]]
    means = {name: _finite_mean([row[name] for row in taken if name in row]) for name in latest}
    means |= {name: latest[name] for name in latest if any(part in name for part in NO_MEANS)}
    del means["train/skipped_in_a_row"]
    return means


def _finite_mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
