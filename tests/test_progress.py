"""A bar with the time left on a terminal, sparse plain lines elsewhere."""

import io

import pytest

from simvq_jax import progress
from simvq_jax.progress import PLAIN_EVERY, WIDTH, Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until the test moves it: `clock[0] += seconds`."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m 00s"),
        (200, "3m 20s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (7500, "2h 05m"),
        (10**6, "277h 46m"),
        (float("nan"), "?"),
    ],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_plain_lines_are_sparse_and_the_last_is_always_there(clock):
    stream = io.StringIO()
    bar = Progress("train", 100, stream=stream)
    for step in range(1, 101):
        clock[0] += PLAIN_EVERY / 30
        bar.update(step, "loss 1")
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["30/100", "60/100", "90/100", "100/100"]
    assert all(line.startswith("train ") and line.endswith("loss 1") for line in lines)
    assert "\r" not in stream.getvalue() and "\033" not in stream.getvalue()


def test_the_time_left_follows_the_pace(clock):
    """Ten steps in 100 seconds leave 90 steps 900."""
    stream = io.StringIO()
    bar = Progress("train", 101, stream=stream)
    bar.update(1)
    clock[0] += 100
    bar.update(11)
    assert "15m 00s left" in stream.getvalue().splitlines()[-1]


def test_a_resumed_loop_measures_its_own_steps(clock):
    """A run taken up at step 900 has not made 900 steps in no time."""
    stream = io.StringIO()
    bar = Progress("train", 1000, stream=stream)
    bar.update(901)
    clock[0] += 50
    bar.update(906)
    assert "15m 40s left" in stream.getvalue().splitlines()[-1]


def test_a_terminal_gets_one_bar_that_fills(clock):
    stream = Terminal()
    bar = Progress("train", 4, stream=stream)
    for step in range(1, 5):
        clock[0] += 1
        bar.update(step)
    frames = stream.getvalue().split("\r\033[K")[1:]
    assert [frame.count("=") for frame in frames] == [WIDTH * step // 4 for step in range(1, 5)]
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().endswith("\n")
    assert "0s left" in frames[-1]


def test_a_note_has_a_line_of_its_own(clock):
    plain, terminal = io.StringIO(), Terminal()
    for stream in (plain, terminal):
        Progress("train", 4, stream=stream).note("resuming at step 2")
    assert plain.getvalue() == "resuming at step 2\n"
    assert terminal.getvalue() == "\r\033[Kresuming at step 2\n"


def test_nothing_to_do_and_a_first_step_are_no_errors(clock):
    stream = io.StringIO()
    Progress("evaluate", 0, stream=stream).update(0)
    clock[0] += PLAIN_EVERY
    bar = Progress("train", 9, stream=stream)
    clock[0] += PLAIN_EVERY
    bar.update(1)
    assert "evaluate 0/0" in stream.getvalue() and "? left" in stream.getvalue().splitlines()[-1]
