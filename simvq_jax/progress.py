"""Progress of a loop: a bar with the time left on a terminal, plain lines elsewhere."""

import sys
import time

PLAIN_EVERY = 15.0  # seconds between plain lines at least
BAR_EVERY = 0.2
WIDTH = 24


class Progress:
    """Prints `label step/total`, the rate, the time left and a few figures."""

    def __init__(self, label: str, start: int, total: int, stream=sys.stderr):
        self._label, self._start, self._total, self._stream = label, start, total, stream
        self._bar = stream.isatty()
        self._began = time.monotonic()
        self._last = self._began

    def update(self, step: int, figures: str = "") -> None:
        """Shows that `step` steps are done; cheap to call every step."""
        now = time.monotonic()
        wait = BAR_EVERY if self._bar else PLAIN_EVERY
        done = step >= self._total
        if now - self._last < wait and not done:
            return
        self._last = now
        passed, steps = now - self._began, step - self._start
        left = passed / steps * (self._total - step) if steps > 0 else float("nan")
        line = f"{self._label} {step}/{self._total}  {duration(passed)} passed, {duration(left)} left  {figures}"
        if self._bar:
            filled = WIDTH * step // max(self._total, 1)
            self._stream.write(f"\r\033[K[{'=' * filled}{' ' * (WIDTH - filled)}] {line}" + ("\n" if done else ""))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

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
