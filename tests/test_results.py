"""docs/RESULTS.md is what the committed results give, and counts in them stay whole."""

from pathlib import Path

from benchmarks import record, results

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


def test_counts_are_recorded_whole_and_fractions_to_five_digits():
    assert record._rounded(262_144.0) == 262_144 and record._rounded(0.1234567) == 0.12346
