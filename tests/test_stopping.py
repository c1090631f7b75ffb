"""Signals ask for the end; one that comes twice at once is one."""

import os
import signal
import time

import pytest

from simvq_jax import stopping
from simvq_jax.stopping import Stopped, StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_asked_for(number):
    with StopRequest() as stop:
        assert not stop.asked()
        os.kill(os.getpid(), number)
        assert stop.asked() and stop.interrupted == (number == signal.SIGINT)
        with pytest.raises(Stopped):
            stop.check()


def test_a_signal_that_is_passed_on_as_well_is_the_same():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked()


def test_a_second_signal_ends_at_once(monkeypatch):
    monkeypatch.setattr(stopping, "SAME_SIGNAL", 0.01)
    with StopRequest(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        monkeypatch.setattr(signal, "SIG_DFL", signal.default_int_handler)  # or it would end the tests
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
