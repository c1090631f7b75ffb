"""The table of evaluated runs."""

import json
import shutil
from pathlib import Path

import pytest

from simvq_jax import compare


@pytest.fixture
def runs(trained_run, tmp_path):
    """Two copies of a run's figures with evaluations of their own."""
    folders = []
    for name, utilization in (("one", 0.5), ("two", 1.0)):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "metrics.jsonl"):
            shutil.copy(trained_run / file, folder)
        figures = {"eval/codebook_utilization": utilization, "eval/psnr": 21.456, "eval/tokens": 262144.0}
        (folder / "evaluation.json").write_text(json.dumps({"data": "photos", **figures}))
        folders.append(folder)
    return folders


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_every_run_has_a_row_and_every_figure_its_column(runs):
    header, rule, *rows = cells(compare.compare(runs))
    assert header[:3] == ["run", "method", "K"] and all(set(cell) == {"-"} for cell in rule)
    assert [row[:3] for row in rows] == [["one", "simvq", "96"], ["two", "simvq", "96"]]
    assert [row[header.index("in use, held out")] for row in rows] == ["50.0%", "100.0%"]
    assert [row[header.index("PSNR (dB)")] for row in rows] == ["21.46"] * 2
    assert rows[0][header.index("held-out tokens")] == "262,144"


def test_several_codebooks_are_told_from_one(runs):
    config = json.loads((runs[1] / "config.json").read_text())
    config["quantizer"] |= {"stages": 4, "compound": "product"}
    (runs[1] / "config.json").write_text(json.dumps(config))
    _, _, *rows = cells(compare.compare(runs))
    assert [row[2] for row in rows] == ["96", "4 x 96 product"]


def test_figures_of_what_was_trained_on_are_told_from_those_of_what_is_held_out(runs):
    figures = json.loads((runs[1] / "evaluation.json").read_text())
    (runs[1] / "evaluation.json").write_text(
        json.dumps(figures | {"provenance": {"split": "train", "largest_file": "100 pixels"}})
    )
    header, _, *rows = cells(compare.compare(runs, ["a/one", "b/two"]))
    assert [row[header.index("evaluated on")] for row in rows] == [
        "photos",
        "photos, split train, files of at most 100 pixels",
    ]
    assert [row[0] for row in rows] == ["a/one", "b/two"]


def test_training_utilization_is_that_of_the_last_step(runs):
    last = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    value = [row["train/codebook_utilization"] for row in last if "train/codebook_utilization" in row][-1]
    header, _, *rows = cells(compare.compare(runs[:1]))
    assert rows[0][header.index("in use, last 262,144")] == f"{value:.1%}"


def test_the_table_is_markdown_with_aligned_columns(runs):
    lines = compare.compare(runs).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines)


def test_a_figure_that_one_run_lacks_is_a_dash_and_one_that_all_lack_no_column(runs):
    path = runs[1] / "evaluation.json"
    figures = json.loads(path.read_text())
    del figures["eval/psnr"]
    path.write_text(json.dumps(figures))
    header, _, *rows = cells(compare.compare(runs))
    assert [row[header.index("PSNR (dB)")] for row in rows] == ["21.46", "-"]
    assert "LPIPS" not in header


def test_a_run_that_was_not_evaluated_is_named_with_the_command(runs):
    (runs[1] / "evaluation.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"python -m simvq_jax\.evaluate --run={runs[1]} first"):
        compare.compare(runs)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        compare.compare([tmp_path])


def test_figures_of_other_weights_or_of_other_data_do_not_pass_for_those_of_these(runs):
    first, second = (run / "evaluation.json" for run in runs)
    figures = json.loads(first.read_text())
    first.write_text(json.dumps(figures | {"provenance": {"limit": 8, "data_identity": "2 pictures, sha256 abcdef12"}}))
    header, _, *rows = cells(compare.compare(runs))
    assert [row[header.index("evaluated on")] for row in rows] == ["photos, 8 of it (abcdef)", "photos"]
    (runs[1] / "checkpoints/4").mkdir(parents=True)
    second.write_text(json.dumps(figures | {"provenance": {"step": 2}}))
    with pytest.raises(ValueError, match=r"was evaluated at step 2 but is at step 4: run python -m simvq_jax.evaluate"):
        compare.compare(runs)


def test_a_converted_run_has_no_figures_of_training(runs):
    (runs[1] / "metrics.jsonl").unlink()
    header, _, *rows = cells(compare.compare(runs))
    assert rows[1][header.index("in use, last 262,144")] == "-" and rows[1][header.index("PSNR (dB)")] == "21.46"


def test_runs_of_one_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compare._names([Path("a/x"), Path("b/x"), Path("b/y")]) == ["a/x", "b/x", "y"]
    assert compare._names([Path()]) == [tmp_path.name]


def test_the_command_takes_runs_with_commas(runs, capsys):
    compare.main(f"{runs[0]},{runs[1]},")
    assert len(capsys.readouterr().out.splitlines()) == 4
