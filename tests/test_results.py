"""docs/RESULTS.md is what the committed results give, and counts in them stay whole."""

from pathlib import Path

import pytest

from benchmarks import findings, record, results

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
    runs = [{"run": "straight_through", "config": {}}, {"run": "rotation"}]
    assert results._count(runs[:1], command) == "1 of 3 planned runs"
    assert results._count(runs, command).endswith("(1 of which kept their changes, not their whole config)")
    with pytest.raises(ValueError, match=r"estimators\.py:reduced has no runs lost but results of them: rename"):
        results._count([{"run": "lost"}], command)


def test_of_three_seeds_their_own_spread_says_what_is_clearly_more():
    def bar(mean):
        return mean + 1.0

    assert findings._clearly_more([3.0], [1.9], bar) and not findings._clearly_more([3.0], [2.1], bar)
    assert findings._clearly_more([2.3, 2.4, 2.5], [2.0, 2.1, 2.2], bar)
    assert not findings._clearly_more([2.1, 9.0, 9.0], [2.0, 2.1, 2.2], bar)


def test_counts_are_recorded_whole_and_fractions_to_five_digits():
    assert record._rounded(262_144.0) == 262_144 and record._rounded(0.1234567) == 0.12346
