"""The report page: what it shows, what it forgives in a run folder, and what it refuses."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from simvq_jax import build, report
from simvq_jax.drawing.curves import CHARTS, read_metrics
from simvq_jax.evaluate import save_figures, with_known_figures
from simvq_jax.report import write_report
from simvq_jax.scoring import Evaluation

VOID = {"meta", "img"}


class Balance(HTMLParser):
    """Collects the text of a page, and fails on a tag that is not closed by its own end tag."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        assert not {"onclick", "onload"} & {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def page_text(page: str) -> str:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return "\n".join(parser.text)


def rows(vanilla: bool = False) -> list[dict]:
    known = [name for chart in CHARTS for name in chart.names]
    logged = []
    for step in range(0, 60, 10):
        row = {"step": step} | dict.fromkeys(known, 0.5 + step / 100) | {"train/restart_pace": 0.1}
        if not vanilla:
            row["eval/transform_singular_values"] = [2.0, 1.0 + step / 100, 0.1]
        logged.append(row)
    return logged


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "a<run>"
    folder.mkdir()
    config = {"steps": 60, "batch_size": 8, "data": {"source": "folder:<b>&"}, "quantizer": {"dim": 4}}
    (folder / "config.json").write_text(json.dumps(config))
    write_rows(folder, rows())
    return folder


def write_rows(folder: Path, logged: list[dict], tail: str = "") -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged) + tail)


@pytest.fixture
def evaluation() -> Evaluation:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    counts = np.zeros(50, np.int64)
    counts[:37] = rng.integers(1, 30, 37)
    metrics = {
        "eval/psnr": 27.3123,
        "eval/ssim": 0.85314,
        "eval/codebook_utilization": 0.74,
        "eval/codebook_perplexity": 31.5,
        "eval/unheard_of": 1.25,
    }
    tokens, codes = (rng.normal(size=(n, 4)).astype(np.float32) for n in (100, 50))
    return Evaluation(
        metrics, counts, pictures, pictures // 2, tokens, codes, singular_values=np.ones(4), rows={}, provenance={}
    )


def test_page_repeats_the_warnings_of_training(run: Path, evaluation: Evaluation):
    assert "Training warned" not in write_report(run, evaluation).read_text()
    fallen = {"train/codebook_utilization_recent": 0.01, "train/codebook_utilization_recent_least": 0.01}
    write_rows(run, [*rows(), rows()[-1] | fallen | {"step": 60}])
    assert "Training warned at step 60: codes in use fell from" in page_text(write_report(run, evaluation).read_text())


def test_page_shows_every_figure_and_chart(run: Path, evaluation: Evaluation):
    page = write_report(run, evaluation).read_text()
    text = page_text(page)
    for shown in (
        "27.31 dB",
        "0.8531",
        "74.0%",
        "0.630",
        "50 of 60",
        "dead codes",
        "13 (26.0%)",
        "13 dead codes",
    ):
        assert shown in text
    for chart in CHARTS:
        assert chart.title in text
        assert all(name in text for name in chart.names)
    assert "Singular values of W over training" in text
    assert all(name in text for name in evaluation.metrics)
    assert "Other curves" not in text


def test_every_svg_is_well_formed(run: Path, evaluation: Evaluation):
    drawings = re.findall(r"<svg.*?</svg>", write_report(run, evaluation).read_text())
    assert len(drawings) == len(CHARTS) + 2
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_page_is_self_contained_and_escaped(run: Path, evaluation: Evaluation):
    page = write_report(run, evaluation).read_text()
    assert "<title>a&lt;run&gt;</title>" in page and "<b>" not in page and "folder:&lt;b&gt;&amp;" in page
    assert "<script" not in page and "<link" not in page and "url(" not in page
    assert all(source.startswith("data:image/png") for source in re.findall(r'src="([^"]*)"', page))
    assert page.count("http") == page.count('xmlns="http://www.w3.org/2000/svg"')


def test_pairs_hold_each_picture_with_its_psnr(run: Path, evaluation: Evaluation):
    exact = evaluation._replace(reconstructions=evaluation.originals)
    page = write_report(run, exact).read_text()
    assert page.count('<img class="pixelated"') == 3
    assert page_text(page).count("exact") == 3


def test_same_inputs_give_the_same_bytes(run: Path, evaluation: Evaluation):
    first = write_report(run, evaluation).read_bytes()
    assert write_report(run, evaluation).read_bytes() == first
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "metrics.jsonl", "report.html"]


def test_a_damaged_line_is_left_out_and_named(run: Path, evaluation: Evaluation):
    write_rows(run, rows(), '{"step": 60, "train/lo')
    text = page_text(write_report(run, evaluation).read_text())
    assert "1 damaged line (7)" in text and "50 of 60" in text


@pytest.mark.parametrize("line", ["17", "[]", '{"train/loss": 1}', '{"step": 9, "train/loss": "x"}', "\x00\x00"])
def test_lines_that_are_no_rows_are_damaged(run: Path, line: str):
    write_rows(run, rows(), line + "\n")
    metrics = read_metrics(run)
    assert metrics.damaged == [7]
    assert len(metrics.numbers["train/loss"]) == 6


def test_a_resumed_run_keeps_the_later_row_of_a_step(run: Path):
    write_rows(run, [*rows(), {"step": 50, "train/loss": 9.0}, {"step": 60, "train/loss": None}])
    loss = read_metrics(run).numbers["train/loss"]
    assert loss[50] == 9.0 and np.isnan(loss[60])


def test_unknown_names_get_their_own_charts(run: Path, evaluation: Evaluation):
    extra = [{"step": 1, "train/new": 1.0, "eval/new": 2.0, "odd": 3, "eval/list": [3, 2, 1]}]
    write_rows(run, rows() + extra)
    text = page_text(write_report(run, evaluation).read_text())
    assert "Other curves" in text
    for name in ("train/new", "eval/new", "odd", "eval/list"):
        assert name in text


def test_a_run_without_transform_has_no_spectrum(run: Path, evaluation: Evaluation):
    write_rows(run, [{"step": 3, "train/loss": float("nan")}])
    text = page_text(write_report(run, evaluation).read_text())
    assert "Singular values" not in text and "PSNR" in text and "LPIPS" not in text


def test_a_loss_below_zero_is_not_drawn_on_a_log_scale(run: Path, evaluation: Evaluation):
    write_rows(run, [{"step": step, "train/loss": 1.0 - step} for step in range(4)])
    assert "log scale" not in re.findall(r"<svg.*?</svg>", write_report(run, evaluation).read_text())[0]


def test_skipped_files_are_counted_and_the_first_listed(run: Path, evaluation: Evaluation):
    lines = "".join(f"pictures/{i}<x>.png\ttruncated file\n" for i in range(60))
    (run / "skipped_files.txt").write_text(lines)
    page = write_report(run, evaluation).read_text()
    text = page_text(page)
    assert "60 skipped files" in text and "and 10 more" in text
    assert "pictures/49<x>.png" in text and "pictures/50<x>.png" not in text
    assert text.count("truncated file") == 50


def test_a_missing_run_folder_is_one_sentence(tmp_path: Path, evaluation: Evaluation):
    with pytest.raises(FileNotFoundError, match=r"there is no run folder .*nowhere; give the --workdir"):
        write_report(tmp_path / "nowhere", evaluation)


@pytest.mark.parametrize("content", [None, "", '{"step": 1'])
def test_a_run_without_metrics_is_one_sentence(run: Path, evaluation: Evaluation, content: str | None):
    (run / "metrics.jsonl").unlink()
    if content is not None:
        (run / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match="holds no metrics yet"):
        write_report(run, evaluation)


def test_a_converted_tokenizer_has_a_report_without_curves(run: Path, evaluation: Evaluation):
    (run / "metrics.jsonl").unlink()
    (run / "conversion.json").write_text('{"checkpoint": "last.ckpt"}')
    text = write_report(run, evaluation).read_text()
    assert "<h2>Curves</h2>" not in text and "<h2>Codebook</h2>" in text


def test_a_missing_or_damaged_config_is_one_sentence(run: Path, evaluation: Evaluation):
    (run / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is no readable JSON"):
        write_report(run, evaluation)
    (run / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json does not exist"):
        write_report(run, evaluation)


def test_a_failed_write_keeps_the_older_report(run: Path, evaluation: Evaluation, monkeypatch):
    older = write_report(run, evaluation).read_bytes()

    def full_disk(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(run, evaluation)
    assert (run / "report.html").read_bytes() == older
    assert not list(run.glob(".report*"))


def test_main_evaluates_and_writes(run: Path, evaluation: Evaluation, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(report, "evaluate_run", lambda *given, **_: asked.append(given) or evaluation)
    report.main(run=str(run), data="")
    report.main(run=str(run), data="photos")
    assert asked == [(run, None), (run, "photos")]
    assert capsys.readouterr().out.split() == [str(run / "report.html")] * 2


def test_main_keeps_figures_of_weight_files_that_it_is_not_given(
    run: Path, evaluation: Evaluation, monkeypatch, caplog
):
    scored = evaluation._replace(metrics=evaluation.metrics | {"eval/lpips": 0.25}, provenance={"step": 8})
    save_figures(run, "photos", scored)
    better = evaluation._replace(metrics=evaluation.metrics | {"eval/psnr": 27.5}, provenance={"step": 8})
    monkeypatch.setattr(report, "evaluate_run", lambda *_, **__: better)
    report.main(run=str(run), data="")
    written = json.loads((run / "evaluation.json").read_text())
    assert "0.2500" in (run / "report.html").read_text() and written["eval/lpips"] == 0.25
    assert written["eval/psnr"] == 27.5 and "27.50" in (run / "report.html").read_text()  # as measured now
    larger = better._replace(provenance={"step": 8, "largest_file": "9 pixels"})  # as before it was said
    monkeypatch.setattr(report, "evaluate_run", lambda *_, **__: larger)
    report.main(run=str(run), data="")
    assert json.loads((run / "evaluation.json").read_text())["eval/lpips"] == 0.25
    for key, value in (("largest_file", "8 pixels"), ("step", 9)):
        other = better._replace(provenance=larger.provenance | {key: value})
        assert "eval/lpips" not in with_known_figures(build.read_evaluation(run), other).metrics
        assert f"eval/lpips: left out, of an evaluation of other {key}" in caplog.text
    monkeypatch.setattr(report, "evaluate_run", lambda *_, **__: evaluation._replace(provenance={"step": 9}))
    report.main(run=str(run), data="")
    assert "0.2500" not in (run / "report.html").read_text() and "lpips" not in (run / "evaluation.json").read_text()


def test_main_refuses_a_wrong_folder_before_it_evaluates(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(report, "evaluate_run", lambda *_: pytest.fail("evaluated"))
    with pytest.raises(FileNotFoundError, match="there is no run folder"):
        report.main(run=str(tmp_path / "nowhere"), data="")
