"""A run's logged metrics: reading `metrics.jsonl`, and which figures share a chart of the report."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simvq_jax.drawing import charts

SPECTRUM = "eval/transform_singular_values"


class Chart(NamedTuple):
    """The series `names` on one pair of axes; `include` are values the y axis reaches in any case."""

    title: str
    unit: str
    names: tuple[str, ...]
    log: bool = False
    include: tuple[float, ...] = ()


CHARTS = (
    Chart("Loss", "", ("train/loss",), log=True),
    Chart("Mel distance", "log-mel magnitudes", ("train/mel", "eval/mel_distance"), log=True),
    Chart("STOI", "1 = intelligible", ("eval/stoi",), include=(1.0,)),
    Chart("PESQ", "1 to 4.64", ("eval/pesq",)),
    Chart("SI-SDR", "dB", ("eval/si_sdr",)),
    Chart("Reconstruction", "mean error", ("train/l1", "train/l2", "eval/l1", "eval/l2"), log=True),
    Chart(
        "Codebook utilization",
        "share of the codes in use",
        (
            "train/codebook_utilization",
            "train/codebook_utilization_recent",
            "train/codebook_utilization_least",
            "train/codebook_utilization_recent_least",
            "eval/codebook_utilization",
        ),
        include=(0.0, 1.0),
    ),
    Chart(
        "Codebook perplexity",
        "codes",
        ("train/codebook_perplexity", "eval/codebook_perplexity"),
        include=(0.0,),
    ),
    Chart("Perplexity over K", "1 = all codes equally often", ("train/codebook_perplexity_share",), include=(0.0,)),
    Chart("Codes never used", "share of the codes", ("train/codes_never_used",), include=(0.0,)),
    Chart("Mean age of codes fallen out of use", "tokens", ("train/dead_code_age",), include=(0.0,)),
    Chart("PSNR", "dB", ("eval/psnr",)),
    Chart("SSIM", "", ("eval/ssim",)),
    Chart("LPIPS", "lower is better", ("eval/lpips",)),
    Chart(
        "Quantizer losses",
        "squared distance",
        ("train/commitment", "train/codebook_loss", "eval/commitment"),
        log=True,
    ),
    Chart(
        "Scale of tokens and codes",
        "root mean square",
        ("train/token_scale", "train/token_spread", "train/code_scale", "eval/token_scale", "eval/code_scale"),
        log=True,
    ),
    Chart("Spread of codes over that of tokens", "", ("train/spread_ratio",), include=(1.0,)),
    Chart("Codes that restart while one waits to", "share of the codes", ("train/restart_pace",), include=(0.0,)),
    Chart(
        "Effective rank of W",
        "dimensions",
        ("train/transform_effective_rank", "eval/transform_effective_rank"),
        include=(0.0,),
    ),
    Chart("Gradient norms", "", ("train/grad_norm", "train/transform_grad_norm"), log=True),
    Chart("Learning rates", "", ("train/learning_rate", "train/transform_learning_rate"), log=True),
    Chart("Discriminator loss", "", ("train/discriminator_loss",)),
    Chart("Throughput", "examples per second", ("train/examples_per_second",), include=(0.0,)),
    Chart("Skipped steps", "steps with a value that is not finite", ("train/skipped",), include=(0.0, 1.0)),
)


class Metrics(NamedTuple):
    """What `metrics.jsonl` holds: per name, step -> value; for lists, step -> (n,) array."""

    numbers: dict[str, dict[int, float]]
    lists: dict[str, dict[int, np.ndarray]]
    damaged: list[int]  # numbers of the lines that could not be read


def read_metrics(run: Path) -> Metrics:
    """Read a run's `metrics.jsonl`; a step written twice (the run resumed) keeps its last value.

    Raises FileNotFoundError for a missing run folder and ValueError for a run without a readable row.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"there is no run folder {run}; give the --workdir of a training run.")
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    metrics = Metrics({}, {}, [])
    for line_number, line in enumerate(lines, 1):
        row = _row(line)
        if row is None:
            metrics.damaged.append(line_number)
            continue
        step, values = row
        for name, value in values.items():
            if value.ndim:
                metrics.lists.setdefault(name, {})[step] = value.ravel()
            else:
                metrics.numbers.setdefault(name, {})[step] = float(value)
    if not metrics.numbers:
        raise ValueError(f"{path} holds no metrics yet; a report needs at least one logged step.")
    return metrics


def _row(line: bytes) -> tuple[int, dict[str, np.ndarray]] | None:
    """Step and values of a line, or None if it is damaged, as the last one is after a kill in mid-write."""
    try:
        row = json.loads(line)
        step = row.pop("step")
        values = {name: np.array(value, np.float64) for name, value in row.items()}
    except (ValueError, TypeError, AttributeError, KeyError):  # not JSON, not an object, no step, not numbers
        return None
    return (step, values) if isinstance(step, int) else None


def draw(metrics: Metrics, wanted: Iterable[Chart] = CHARTS) -> Iterator[str]:
    """An SVG for each chart of which the run logged at least one series."""
    for title, unit, names, log, include in wanted:
        series = {
            name: (sorted(metrics.numbers[name]), [y for _, y in sorted(metrics.numbers[name].items())])
            for name in names
            if name in metrics.numbers
        }
        if series:
            negative = any(y < 0 for _, ys in series.values() for y in ys)  # as a GAN's loss may be
            log_y = log and not negative
            yield charts.line_chart(series, title, "step", unit, log_y=log_y, include_y=include)


def draw_others(metrics: Metrics) -> Iterator[str]:
    """A chart for each name that `CHARTS` does not know, `train/x` and `eval/x` in one: nothing is lost."""
    known = {name for chart in CHARTS for name in chart.names}
    groups: dict[str, list[str]] = {}
    for name in sorted(metrics.numbers.keys() - known):
        groups.setdefault(name.removeprefix("train/").removeprefix("eval/"), []).append(name)
    yield from draw(metrics, [Chart(title, "", tuple(names)) for title, names in groups.items()])
    for name in sorted(metrics.lists.keys() - {SPECTRUM}):
        yield charts.spectrum_chart(metrics.lists[name], name, "", log_y=False)
