"""One self-contained `report.html` of a training run: `python -m simvq_jax.report --run=runs/quickstart`.

The page needs no network and no script. It shows the headline figures, warnings of collapse, pictures or sounds beside
their reconstructions, curves, code usage, the transform's spectrum over training, tokens over codes, and the config.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from simvq_jax import agreement, build, cli, cluster
from simvq_jax.api.hub import folder_of
from simvq_jax.drawing import charts, curves, page
from simvq_jax.drawing.axes import number
from simvq_jax.drawing.curves import SPECTRUM, Metrics, read_metrics
from simvq_jax.drawing.pictures import DEAD, TOKEN, USED, picture_grid, png_data_uri, project, scatter_png
from simvq_jax.drawing.sounds import mel_picture, player, waveform
from simvq_jax.evaluate import evaluate_run, save_figures, with_known_figures
from simvq_jax.files import replace_text
from simvq_jax.health import CollapseWatch
from simvq_jax.inputs import READING, READING_HELP, reading_from
from simvq_jax.scoring import Evaluation

SKIPPED_SHOWN = 50
SOUNDS_SHOWN = 8
HEADLINE = (
    ("eval/psnr", "PSNR", "{:.2f} dB"),
    ("eval/ssim", "SSIM", "{:.4f}"),
    ("eval/lpips", "LPIPS", "{:.4f}"),
    ("eval/rfid", "rFID", "{:.3f}"),
    ("eval/mel_distance", "mel distance", "{:.3f}"),
    ("eval/stoi", "STOI", "{:.3f}"),
    ("eval/pesq", "PESQ", "{:.2f}"),
    ("eval/utmos", "UTMOS", "{:.2f}"),
    ("eval/vuv_f1", "V/UV F1", "{:.2f}"),
    ("eval/vuv_f1_pyin", "V/UV F1 (pYIN)", "{:.2f}"),
    ("eval/si_sdr", "SI-SDR", "{:.1f} dB"),
    ("eval/bits_per_second", "bits per second", "{:,.0f}"),
    ("eval/codebook_utilization", "codebook utilization", "{:.1%}"),
    ("eval/codebook_perplexity", "codebook perplexity", "{:,.0f}"),
)


def write_report(run: Path, evaluation: Evaluation) -> Path:
    """Write `run/report.html` and return its path; an older report is replaced in one move.

    Raises FileNotFoundError for a missing run folder or config, ValueError for a run without metrics.
    """
    metrics = _logged(run)
    config = build.read_config(run)
    watch = CollapseWatch(config.quantizer, config.batch_size * build.tokens_an_example(config))
    path = run / "report.html"
    replace_text(path, _document(run, config.to_dict(), metrics, watch.look_back(metrics.numbers), evaluation))
    return path


def _logged(run: Path) -> Metrics:
    """What training logged: nothing of a tokenizer that was converted and not trained on."""
    converted = build.read_conversion(run) and not (run / "metrics.jsonl").exists()
    return Metrics({}, {}, []) if converted else read_metrics(run)


def _document(run: Path, config: dict[str, Any], metrics: Metrics, warnings: list[str], evaluation: Evaluation) -> str:
    size, dim = evaluation.codes.shape
    codes = build.codebooks_named(config["quantizer"], size)
    subtitle = f"codebook of {codes} codes, {dim} dimensions · data {config['data']['source']}"
    sections = [
        _headline(config, metrics, evaluation),
        _damage_note(metrics),
        *[f'<p class="note">Training warned at {escape(sentence)}</p>' for sentence in warnings],
        page.section("Originals over reconstructions", _pairs(config, evaluation)),
        page.section("Curves", page.grid(curves.draw(metrics))),
        page.section("Other curves", page.grid(curves.draw_others(metrics))),
        page.section("Codebook", _codebook(metrics, evaluation)),
        page.section("Details", _details(run, config, evaluation)),
    ]
    return page.document(run.resolve().name, subtitle, charts.STYLE, sections)


def _headline(config: dict[str, Any], metrics: Metrics, evaluation: Evaluation) -> str:
    values, size = evaluation.metrics, len(evaluation.counts)
    cells = []
    for name, label, pattern in HEADLINE:
        if name in values:
            cells.append((label, pattern.format(values[name])))
    if "eval/codebook_perplexity" in values:
        cells.append(("perplexity / K", f"{values['eval/codebook_perplexity'] / size:.3f}"))
    cells += [
        ("codes K", build.codebooks_named(config["quantizer"], size)),
        ("dimensions d", f"{evaluation.codes.shape[1]:,}"),
    ]
    if metrics.numbers:
        last = max(max(by_step) for by_step in metrics.numbers.values())
        cells.append(("steps", f"{last:,} of {config['steps']:,}"))
    cells += _speed(config, metrics)
    return page.tiles(cells)


def _speed(config: dict[str, Any], metrics: Metrics) -> list[tuple[str, str]]:
    """Median throughput, and the time that training took at the throughput of each stretch of steps."""
    by_step = metrics.numbers.get("train/examples_per_second", {})
    steps = np.array(sorted(step for step, rate in by_step.items() if rate > 0))
    if not steps.size:
        return []
    rates = np.array([by_step[step] for step in steps.tolist()])
    seconds = round(float(np.sum(np.diff(steps, prepend=0) * config["batch_size"] / rates)))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    duration = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"
    return [("examples per second", number(float(np.median(rates)))), ("training time", f"≈ {duration}")]


def _damage_note(metrics: Metrics) -> str:
    if not metrics.damaged:
        return ""
    lines = ", ".join(map(str, metrics.damaged[:10])) + (", ..." if len(metrics.damaged) > 10 else "")
    noun = "line" if len(metrics.damaged) == 1 else "lines"
    return (
        f'<p class="note">metrics.jsonl has {len(metrics.damaged)} damaged {noun} ({lines}); '
        "what could not be read there is left out.</p>"
    )


def _pairs(config: dict[str, Any], evaluation: Evaluation) -> str:
    if len(evaluation.originals) and evaluation.originals[0].ndim == 1:
        return _sounds(evaluation, config["data"]["sample_rate"])
    return _pictures(evaluation)


def _sounds(evaluation: Evaluation, rate: int) -> str:
    """Waveforms, mel spectrograms and players, a card a recording."""
    pairs = list(zip(evaluation.originals, evaluation.reconstructions, strict=True))
    step = max(len(pairs) // SOUNDS_SHOWN, 1)
    cards = []
    for pair in pairs[::step][:SOUNDS_SHOWN]:
        rows = []
        for sound, label, series in zip(pair, ("original", "reconstruction"), (0, 1), strict=True):
            picture = f'<img src="{png_data_uri(mel_picture(sound, rate))}" alt="mel spectrogram of the {label}">'
            wave = waveform(sound, f"var(--series-{series})")
            rows.append(f"<h3>{label}, {len(sound) / rate:.1f} s</h3>{wave}{picture}{player(sound, rate, label)}")
        cards.append(f'<div class="sound">{"".join(rows)}</div>')
    return page.grid(cards)


def _pictures(evaluation: Evaluation) -> str:
    figures = []
    for original, reconstruction in zip(evaluation.originals, evaluation.reconstructions, strict=True):
        error = np.mean((original.astype(np.float64) - reconstruction) ** 2)
        psnr = f"{10 * np.log10(255**2 / error):.1f} dB" if error else "exact"
        picture = picture_grid([[original], [reconstruction]])
        small = ' class="pixelated"' if max(original.shape[:2]) < 200 else ""
        image = f'<img{small} src="{png_data_uri(picture)}" alt="original above, reconstruction below">'
        figures.append(f"<figure>{image}<figcaption>{psnr}</figcaption></figure>")
    return f'<div class="card pairs">{"".join(figures)}</div>' if figures else ""


def _codebook(metrics: Metrics, evaluation: Evaluation) -> str:
    cards = [charts.usage_chart(evaluation.counts, "Sorted code usage over the evaluation set")]
    if SPECTRUM in metrics.lists:
        spectra = metrics.lists[SPECTRUM]
        cards.append(charts.spectrum_chart(spectra, "Singular values of W over training", "value"))
    return page.grid(cards) + _projection(evaluation)


def _projection(evaluation: Evaluation) -> str:
    used = evaluation.counts > 0
    tokens, codes, share = project(evaluation.tokens, evaluation.codes)
    image = png_data_uri(scatter_png(codes, tokens, used))
    dead = len(used) - int(used.sum())
    legend = page.legend(
        [
            (TOKEN, f"{len(tokens):,} tokens"),
            (USED, f"{int(used.sum()):,} used codes"),
            (DEAD, f"{dead:,} dead codes"),
        ]
    )
    caption = (
        "Encoder outputs and codes on the first two principal components of the tokens, which carry "
        f"{share:.0%} of their variance. Dead codes took no token of the evaluation set. The outermost "
        "points are drawn on the border."
    )
    return (
        f'<div class="card projection"><div><h3>Tokens over codes</h3>{legend}<p>{caption}</p></div>'
        f'<img src="{image}" alt="projection of tokens and codes"></div>'
    )


def _details(run: Path, config: dict[str, Any], evaluation: Evaluation) -> str:
    figures = [(name, number(value)) for name, value in sorted(evaluation.metrics.items())]
    lists = sorted(run.glob("skipped_files*.txt"))  # a process each
    lines = [line for file in lists for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    parts = [page.details("Every figure of the evaluation", page.table(figures))]
    if lines:
        rows = [tuple(line.partition("\t")[::2]) for line in lines[:SKIPPED_SHOWN]]
        more = len(lines) - len(rows)
        rest = f"<p>and {more:,} more in skipped_files.txt</p>" if more else ""
        noun = "file" if len(lines) == 1 else "files"
        parts.append(page.details(f"{len(lines):,} skipped {noun}", page.table(rows) + rest))
    parts.append(page.details("Config", f"<pre>{escape(json.dumps(config, indent=2))}</pre>"))
    return "".join(parts)


def main(run: str, data: str, **rest) -> None:
    """Evaluate the run folder `run`, on the source `data` if one is given, and write its report.

    What an evaluation of the same that stands there has beside, as of weight files that it was given, is kept. rest:
    the flags of `inputs.READING` and `cluster.FLAGS`.
    """
    folder = folder_of(run)
    _logged(folder)  # a wrong folder fails here, in a moment, not after a long evaluation
    config, known = build.read_config(folder), build.read_evaluation(folder)
    job = cluster.taken_from(rest)
    with cluster.joined(build.build_timeouts(config), job):
        agreement.check_alike("the command", f"{run} {data} {rest} {config.to_dict()}")
        evaluation = with_known_figures(known, evaluate_run(folder, data or None, reading=reading_from(rest)))
        save_figures(folder, data or config.data.source, evaluation)
        if agreement.is_first():
            print(write_report(folder, evaluation))


if __name__ == "__main__":
    cli.run_main(
        main,
        {"run": cli.REQUIRED, "data": "", **READING, **cluster.FLAGS},
        help={
            "run": "folder of the training run",
            "data": "pictures or recordings to evaluate on; by default those of the run",
            **READING_HELP,
            **cluster.HELP,
        },
    )
