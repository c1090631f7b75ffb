"""Where figures go: `metrics.jsonl`, TensorBoard and the log. The only file that knows clu's writers."""

import contextlib
import json
import math
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

try:
    import tensorflow  # noqa: F401
except ImportError:
    # clu.metric_writers imports its TensorFlow writer, which we do not use.
    _stub: Any = types.ModuleType("clu.metric_writers.summary_writer")
    _stub.SummaryWriter = None
    sys.modules.setdefault("clu.metric_writers.summary_writer", _stub)

from clu import asynclib, metric_writers
from clu.metric_writers import interface
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from simvq_jax.agreement import is_first
from simvq_jax.files import replace_text


class WriteError(OSError):
    """Figures could not be written; the message says where, why and what to do."""


class _Writer(interface.MetricWriter):
    """A writer that leaves out the kinds it has no place for."""

    def write_summaries(self, step, values, metadata=None):
        pass

    def write_scalars(self, step, scalars):
        pass

    def write_images(self, step, images):
        pass

    def write_videos(self, step, videos):
        pass

    def write_audios(self, step, audios, *, sample_rate):
        pass

    def write_texts(self, step, texts):
        pass

    def write_histograms(self, step, arrays, num_buckets=None):
        pass

    def write_pointcloud(self, step, point_clouds, *, point_colors=None, configs=None):
        pass

    def write_hparams(self, hparams):
        pass

    def flush(self):
        pass

    def close(self):
        self.flush()


class JsonLines(_Writer):
    """One JSON object a row: `step` and the figures; an array (of `write_histograms`) is a list."""

    def __init__(self, path: Path):
        self._path, self._file = path, path.open("a", encoding="utf-8")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]):
        self._append(step, {name: float(value) for name, value in scalars.items()})

    def write_histograms(self, step: int, arrays: Mapping[str, Any], num_buckets=None):
        self._append(step, {name: [float(v) for v in np.ravel(array)] for name, array in arrays.items()})

    def _append(self, step: int, row: dict) -> None:
        # JSON has no NaN or infinity; null keeps the line readable everywhere.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._file.write(json.dumps({"step": int(step), **finite}) + "\n")

    def flush(self):
        try:
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self):
        self._file.close()


class TensorBoard(_Writer):
    """Event files through tensorboardX's record writer, so that TensorFlow is not needed.

    Its `SummaryWriter` is not used: on a full disk its thread dies, and the next write then waits for ever.
    """

    def __init__(self, folder: Path, resumed_at: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._events = EventsWriter(str(folder / "events"))
        if resumed_at:  # TensorBoard then hides what a killed run wrote of later steps
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(resumed_at + 1, session_log=start)

    def _write(self, step: int, **content) -> None:
        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=int(step), **content))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]):
        for name, value in scalars.items():
            if math.isfinite(value):
                self._write(step, summary=summary.scalar(name, float(value)))

    def write_images(self, step: int, images: Mapping[str, Any]):
        for name, image in images.items():
            self._write(step, summary=summary.image(name, np.asarray(image), dataformats="HWC"))

    def write_histograms(self, step: int, arrays: Mapping[str, Any], num_buckets=None):
        for name, array in arrays.items():
            self._write(step, summary=summary.histogram(name, np.ravel(array), bins=64))

    def flush(self):
        try:
            self._events.flush()
        except OSError as error:
            raise _unwritable(self._folder, error) from error

    def close(self):
        self._events.close()


@contextlib.contextmanager
def open_writer(run: Path, resumed_at: int) -> Iterator[interface.MetricWriter]:
    """Writer of a run, which writes in the background and is closed on leaving; of other processes than the first one
    that writes nothing.

    resumed_at: step of the restored checkpoint, 0 for a new run. Rows of later steps, which a killed run left
    behind, are dropped first: they will be written again. Raises WriteError where something cannot be written.
    """
    if not is_first():
        yield _Writer()
        return
    path = run / "metrics.jsonl"
    _drop_rows_after(path, resumed_at)
    writer = metric_writers.AsyncMultiWriter(
        [metric_writers.LoggingWriter(), JsonLines(path), TensorBoard(run / "tensorboard", resumed_at)]
    )
    try:
        yield writer
        writer.flush()
    except asynclib.AsyncError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise _unwritable(run, cause) from error
    finally:
        with contextlib.suppress(asynclib.AsyncError, OSError):  # said above, or less telling than what ended the run
            writer.close()


def _unwritable(place: Path, cause: BaseException) -> WriteError:
    return WriteError(
        f"the figures of {place} could not be written ({cause}): free some space, or make the folder writable, and"
        " start the same command again."
    )


def _drop_rows_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    if step == 0:
        kept = []
    replace_text(path, "".join(f"{line}\n" for line in kept))


def has_evaluation(run: Path, step: int) -> bool:
    """Whether the run's figures have those of an evaluation at this step."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return any(_step_of(line) == step and "eval/commitment" in json.loads(line) for line in lines)


def _step_of(line: str) -> float:
    """Step of a row; infinity for one that a crash cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
