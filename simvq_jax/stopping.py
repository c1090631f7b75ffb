"""How a training is asked to stop: by SIGTERM, which schedulers send before they take a machine, or by the keyboard."""

import contextlib
import itertools
import os
import signal
import time

import jax
from jax.experimental import multihost_utils

PLACES = itertools.count(1)  # asked at so far, alike on every process; jax remembers the last one, so they never fall
SAME_SIGNAL = 2.0  # seconds within which a second one is the first, passed on


class Stopped(Exception):
    """What was under way has been given up, for the training is to stop."""


class StopRequest:
    """SIGTERM or SIGINT ask for the end of training after the step, or the batch of an evaluation, under way.

    Both save. SIGTERM, a preemption, is a clean end; after SIGINT, the keyboard's, the process reports it, so that a
    script does not go on to its next stage. A second signal ends a lone process at once, unless it comes with the
    first: schedulers signal a process and its parent, which passes it on. Of several processes all stop
    at the same place, whichever of them got the signal: jax's preemption service, which has taken SIGTERM for itself,
    chooses one that none has passed yet.
    """

    def __init__(self):
        self.interrupted = False  # by the keyboard: what started us must not go on as if we had finished
        self._requested = False
        self._since = 0.0  # seconds of a clock, of the first signal
        self._previous = {}

    def __enter__(self):
        handlers = {signal.SIGTERM: self._ask, signal.SIGINT: self._ask}
        if jax.process_count() > 1:
            handlers = {signal.SIGINT: self._pass_on}
        for number, handler in handlers.items():
            with contextlib.suppress(ValueError):  # not the main thread: the caller handles signals
                self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether to stop here. Every process must ask at the same places."""
        if jax.process_count() > 1 and not self._requested:
            self._requested = multihost_utils.reached_preemption_sync_point(next(PLACES))
        return self._requested

    def check(self) -> None:
        """Raises Stopped if it is time to stop. Every process must come to the same places."""
        if self.asked():
            raise Stopped

    def _ask(self, number, _):
        if not self._requested:
            self._requested, self._since = True, time.monotonic()
            self.interrupted = number == signal.SIGINT
        elif time.monotonic() - self._since > SAME_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _pass_on(self, *_):
        self.interrupted = True
        os.kill(os.getpid(), signal.SIGTERM)
