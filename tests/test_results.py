"""docs/RESULTS.md is what the committed results give, and counts in them stay whole."""

from pathlib import Path

import pytest

from benchmarks import findings, record, results
from simvq_jax import experiment

ROOT = Path(__file__).parents[1]


def test_the_page_and_its_pictures_are_those_of_the_committed_results(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    page, pictures = results.PAGE.read_text(), results.PICTURES
    monkeypatch.setattr(results, "PAGE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(results, "PICTURES", tmp_path / "results")
    results.write()
    assert (tmp_path / "RESULTS.md").read_text() == page
    made = sorted((tmp_path / "results").iterdir())
    assert [picture.name for picture in made] == sorted(picture.name for picture in (ROOT / pictures).iterdir())
    for picture in made:
        assert picture.read_text() == (ROOT / pictures / picture.name).read_text(), picture.name


def test_runs_are_counted_against_the_study_s_plan():
    command = "python launch/sweep.py --config=configs/study/estimators.py:reduced --workdir=runs/study/estimators"
    runs = [{"run": "dynamic", "config": {}}, {"run": "rotation"}]
    assert results._count(runs[:1], command) == "1 of 2 planned runs"
    assert results._count(runs, command).endswith("(1 of which kept their changes, not their whole config)")
    with pytest.raises(ValueError, match=r"estimators\.py:reduced has no runs lost but results of them: rename"):
        results._count([{"run": "lost"}], command)


def test_a_run_of_all_studies_is_recorded_as_its_own_study_s():
    run, alone = (experiment.Run(name, {"seed": 1}) for name in ("rate/recipe", "recipe"))
    of_all = record.in_its_study(run, "configs/study/whole.py:reduced", Path("runs/study"))
    assert of_all == (alone, "configs/study/rate.py:reduced", Path("runs/study/rate"))
    assert record.in_its_study(*of_all) == of_all


def test_a_run_that_a_study_shares_with_methods_stands_in_its_table_too():
    row = {"steps": 200, "batch_size": 32, "dim": 64, "codebook_size": 8192, "figures": {"eval/psnr": 19.5}}
    shared = results.of_methods("rate", [row | {"run": "cosine"}])
    assert {name: run["run"] for name, run in shared.items()} == {"recipe": "simvq_8192_seed0"}
    assert results.of_methods("rate", [row | {"run": "cosine", "codebook_size": 512}]) == {}


def test_of_three_seeds_their_own_spread_says_what_is_clearly_more():
    def bar(mean):
        return mean + 1.0

    assert findings._clearly_more([3.0], [1.9], bar) and not findings._clearly_more([3.0], [2.1], bar)
    assert findings._clearly_more([2.3, 2.4, 2.5], [2.0, 2.1, 2.2], bar)
    assert not findings._clearly_more([2.1, 9.0, 9.0], [2.0, 2.1, 2.2], bar)


def test_psnr_rises_with_k_beyond_the_seeds_spread_or_of_single_runs_beyond_like_runs():
    def made(method, k, *values):
        rows = [{"run": f"{method}_{k}_seed{i}", "codebook_size": k} for i in range(len(values))]
        return [row | {"figures": {"eval/psnr": value}} for row, value in zip(rows, values, strict=True)]

    seeded = [*made("vq", 8, 20.0, 20.5), *made("vq", 16, 20.4, 22.0), *made("vq", 32, 22.1, 22.2)]
    single = [*made("fsq", 8, 20.0), *made("fsq", 16, 21.1), *made("fsq", 32, 22.4)]
    assert findings.more_codes([*seeded, *single]) == (
        "From K = 8 to 16, PSNR does not rise beyond the spread of the seeds for vq."
        " From K = 8 to 16, PSNR does not rise by more than like runs differ for fsq."
        " From K = 16 to 32, PSNR rises beyond the spread of the seeds for vq."
        " From K = 16 to 32, PSNR rises by more than like runs differ for fsq."
    )


def test_counts_are_recorded_whole_and_fractions_to_five_digits():
    assert record._rounded(262_144.0) == 262_144 and record._rounded(0.1234567) == 0.12346
