"""What the loop tells the outside of its steps."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import tiny_config

from simvq_jax.data.encoded import SkipLog
from simvq_jax.observer import Observer, means_of


def row(loss: float, skipped_in_a_row: int = 0, skipped: int = 0) -> dict[str, float]:
    return {"train/loss": loss, "train/skipped": skipped, "train/skipped_in_a_row": skipped_in_a_row}


def test_a_step_that_was_skipped_for_its_gradient_is_in_no_mean():
    assert means_of([row(1.0), row(1e30, 1, 1), row(2.0, 0, 1)]) == {"train/loss": 1.5, "train/skipped": 1}


def test_where_all_were_skipped_there_is_no_mean():
    assert math.isnan(means_of([row(1e30, 1, 1), row(1e30, 2, 2)])["train/loss"])


@pytest.mark.parametrize(("folder", "said"), [("", ": see runs/a/skipped.txt"), ("gone", ", as was said above")])
def test_the_end_tells_what_was_skipped_even_where_it_could_not_be_listed(tmp_path, capsys, folder, said):
    skipped, config = SkipLog(tmp_path / folder / "skipped.txt"), tiny_config()
    observer = Observer(config, Path("runs/a"), None, SimpleNamespace(autoencoder=None), {}, None, None, skipped)
    observer.begin(0, config.steps)
    skipped.record("a.png", "no picture")
    observer.end(config.steps)
    assert capsys.readouterr().err.splitlines()[-1] == f"1 unreadable file(s) were skipped{said}"
