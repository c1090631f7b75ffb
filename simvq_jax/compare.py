"""A table of evaluated runs side by side: `python -m simvq_jax.compare --runs=runs/a,runs/b`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simvq_jax import cli
from simvq_jax.build import codebooks_named, read_config, read_evaluation
from simvq_jax.drawing.curves import read_metrics
from simvq_jax.provenance import largest_file
from simvq_jax.store import path_of

COLUMNS = (
    ("eval/codebook_utilization", "in use, held out", "{:.1%}"),
    ("eval/codebook_perplexity", "perplexity", "{:,.0f}"),
    ("eval/psnr", "PSNR (dB)", "{:.2f}"),
    ("eval/ssim", "SSIM", "{:.4f}"),
    ("eval/lpips", "LPIPS", "{:.4f}"),
    ("eval/rfid", "rFID", "{:.3f}"),
    ("eval/mel_distance", "mel distance", "{:.3f}"),
    ("eval/stoi", "STOI", "{:.3f}"),
    ("eval/pesq", "PESQ", "{:.2f}"),
    ("eval/utmos", "UTMOS", "{:.2f}"),
    ("eval/vuv_f1", "V/UV F1", "{:.2f}"),
    ("eval/vuv_f1_pyin", "V/UV F1 (pYIN)", "{:.2f}"),
    ("train/codebook_utilization", "in use, last 262,144", "{:.1%}"),
    ("eval/tokens", "held-out tokens", "{:,.0f}"),
)


def compare(runs: list[Path], names: Sequence[str] = ()) -> str:
    """Markdown table, a row a run; where they were not evaluated on the same, also on what. names: instead of those of
    the runs' folders.

    Raises FileNotFoundError for a run that was not evaluated, ValueError for one that was trained on since.
    """
    figures = [_figures(run) for run in runs]
    columns = [column for column in COLUMNS if any(column[0] in row for row in figures)]
    if len({row["evaluated on"] for row in figures}) > 1:
        columns.append(("evaluated on", "evaluated on", "{}"))
    header = ["run", "method", "K", *[title for _, title, _ in columns]]
    rows = [
        [
            name,
            row["method"],
            row["K"],
            *[form.format(row[key]) if key in row else "-" for key, _, form in columns],
        ]
        for name, row in zip(names or _names(runs), figures, strict=True)
    ]
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def _names(runs: list[Path]) -> list[str]:
    """Of the folders; of several alike as they were given."""
    names = [run.name or run.resolve().name for run in runs]
    return [name if names.count(name) == 1 else f"{run}" for name, run in zip(names, runs, strict=True)]


def _figures(run: Path) -> dict[str, Any]:
    steps = [int(folder.name) for folder in (run / "checkpoints").glob("*") if folder.name.isdecimal()]
    config, evaluation = read_config(run), read_evaluation(run, max(steps, default=None))
    if not evaluation:
        raise FileNotFoundError(
            f"{run / 'evaluation.json'} does not exist: run python -m simvq_jax.evaluate --run={run} first."
        )
    trained = (run / "metrics.jsonl").exists()  # not where it was converted or packed
    numbers = read_metrics(run).numbers if trained else {}
    training = {name: by_step[max(by_step)] for name, by_step in numbers.items() if name.startswith("train/")}
    named = {"method": config.quantizer.kind, "K": codebooks_named(config.quantizer, config.quantizer.codebook_size)}
    return training | evaluation | named | {"evaluated on": _data(evaluation, largest_file(config))}


def _data(evaluation: dict[str, Any], largest: str) -> str:
    """The data, with the start of its digest: two folders of one name are not one. The split, if it is not held out,
    and how large files may be, if that is not as in training (`largest`)."""
    found = evaluation.get("provenance", {})
    most = found.get("largest_file", largest)
    files = f", files of at most {most}" if most != largest else ""
    split = f", split {found['split']}" if found.get("split", "eval") != "eval" else ""
    limit = f", {found['limit']:,} of it" if found.get("limit") else ""
    digest = found.get("data_identity", "").rpartition("sha256 ")
    return f"{evaluation['data']}{split}{files}{limit}{f' ({digest[2][:6]})' if digest[1] else ''}"


def main(runs: str) -> None:
    """Prints the table."""
    print(compare([path_of(run) for run in runs.split(",") if run]))


if __name__ == "__main__":
    cli.run_main(main, {"runs": cli.REQUIRED}, {"runs": "evaluated run folders, separated by commas"})
