"""Where figures go: `metrics.jsonl`, TensorBoard and the log. The only file that knows clu's writers."""

import json
import math
import sys
import types
from collections.abc import Mapping
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

from clu import metric_writers
from clu.metric_writers import interface
from tensorboardX import SummaryWriter

from simvq_jax.files import replace_text


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
        self._file = path.open("a", encoding="utf-8")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]):
        self._append(step, {name: float(value) for name, value in scalars.items()})

    def write_histograms(self, step: int, arrays: Mapping[str, Any], num_buckets=None):
        self._append(step, {name: [float(v) for v in np.ravel(array)] for name, array in arrays.items()})

    def _append(self, step: int, row: dict) -> None:
        # JSON has no NaN or infinity; null keeps the line readable everywhere.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._file.write(json.dumps({"step": int(step), **finite}) + "\n")

    def flush(self):
        self._file.flush()

    def close(self):
        self._file.close()


class TensorBoard(_Writer):
    """Event files through tensorboardX, so that TensorFlow is not needed."""

    def __init__(self, folder: Path, resumed_at: int):
        self._writer = SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else None)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]):
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)

    def write_images(self, step: int, images: Mapping[str, Any]):
        for name, image in images.items():
            self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")

    def write_histograms(self, step: int, arrays: Mapping[str, Any], num_buckets=None):
        for name, array in arrays.items():
            self._writer.add_histogram(name, np.asarray(array), step)

    def write_texts(self, step: int, texts: Mapping[str, str]):
        for name, text in texts.items():
            self._writer.add_text(name, text, step)

    def flush(self):
        self._writer.flush()

    def close(self):
        self._writer.close()


def make_writer(run: Path, resumed_at: int) -> interface.MetricWriter:
    """Writer of a run that writes in the background. resumed_at: step of the restored checkpoint, 0 for a new run.

    Rows of later steps, which a killed run left behind, are dropped first: they will be written again.
    """
    path = run / "metrics.jsonl"
    _drop_rows_after(path, resumed_at)
    return metric_writers.AsyncMultiWriter(
        [metric_writers.LoggingWriter(), JsonLines(path), TensorBoard(run / "tensorboard", resumed_at)]
    )


def _drop_rows_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    if step == 0:
        kept = []
    replace_text(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    """Step of a row; infinity for one that a crash cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
