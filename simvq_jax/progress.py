"""Progress of a loop: a bar with the time left on a terminal, plain lines elsewhere."""

import io
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

PLAIN_EVERY = 15.0  # seconds between plain lines at least
BAR_EVERY = 0.2
WIDTH = 24
Item = TypeVar("Item")


class Progress:
    """Prints `label step/total`, the rate, the time left and a few figures."""

    def __init__(self, label: str, total: int, stream=None, silent: bool = False):
        """stream: by default standard error. silent: print nothing, for all but one of several processes."""
        self._label, self._total, self._stream = label, total, io.StringIO() if silent else stream or sys.stderr
        self._bar = self._stream.isatty()
        self._began = self._last = time.monotonic()
        self._first: tuple[int, float] | None = None  # where the rate is measured from: compilation is over by then

    def update(self, step: int, figures: str = "") -> None:
        """Shows that `step` steps are done; cheap to call every step."""
        now = time.monotonic()
        self._first = self._first or (step, now)
        wait = BAR_EVERY if self._bar else PLAIN_EVERY
        done = step >= self._total
        if now - self._last < wait and not done:
            return
        self._last = now
        first_step, first_time = self._first
        pace = (now - first_time) / (step - first_step) if step > first_step else float("nan")
        left = 0.0 if done else pace * (self._total - step)
        passed = duration(now - self._began)
        line = f"{self._label} {step}/{self._total}  {passed} passed, {duration(left)} left  {figures}".rstrip()
        if self._bar:
            filled = WIDTH * step // max(self._total, 1)
            self._stream.write(f"\r\033[K[{'=' * filled}{' ' * (WIDTH - filled)}] {line}" + ("\n" if done else ""))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def over(self, items: Iterable[Item], done: int = 0) -> Iterator[Item]:
        """The items, each shown as done once the next is asked for. done: before them."""
        for number, item in enumerate(items, start=done + 1):
            yield item
            pace = number / max(time.monotonic() - self._began, 1e-9)
            self.update(number, f"{pace:,.1f} a second")

    def note(self, text: str) -> None:
        """Prints a line of its own."""
        self._stream.write(("\r\033[K" if self._bar else "") + text + "\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """Seconds -> "4s", "3m 20s", "2h 05m", or "?" where unknown."""
    if seconds != seconds:
        return "?"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
