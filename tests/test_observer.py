"""What the loop tells the outside of its steps."""

import math

from simvq_jax.observer import means_of


def row(loss: float, skipped_in_a_row: int = 0, skipped: int = 0) -> dict[str, float]:
    return {"train/loss": loss, "train/skipped": skipped, "train/skipped_in_a_row": skipped_in_a_row}


def test_a_step_that_was_skipped_for_its_gradient_is_in_no_mean():
    assert means_of([row(1.0), row(1e30, 1, 1), row(2.0, 0, 1)]) == {"train/loss": 1.5, "train/skipped": 1}


def test_where_all_were_skipped_there_is_no_mean():
    assert math.isnan(means_of([row(1e30, 1, 1), row(1e30, 2, 2)])["train/loss"])
