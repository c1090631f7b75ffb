"""Signals and kills, in processes of their own: a run goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import flags_of

from simvq_jax.api.loading import restored_state

ROOT = Path(__file__).parents[1]
TRAIN = [sys.executable, "-m", "simvq_jax.train"]
STEPS = {"steps": 60, "eval_every": 30, "checkpoint_every": 10, "discriminator__enabled": False}


def start(run: Path, **overrides) -> subprocess.Popen:
    one_device = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    environment = os.environ | {"XLA_FLAGS": one_device}
    command = [*TRAIN, *flags_of(**STEPS | overrides), f"--workdir={run}"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return errors


def wait_for_checkpoint(run: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not any((run / "checkpoints").glob("[0-9]*")):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.01)


def wait_for_line(process: subprocess.Popen, text: str) -> None:
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the process ended without saying {text!r}")


@pytest.mark.slow
def test_sigterm_and_kill_lose_nothing(tmp_path):
    """One run is left alone; another gets SIGTERM, Ctrl-C, kill -9, and must end in the same state, bit for bit."""
    alone = start(tmp_path / "alone")
    finish(alone)

    run = tmp_path / "disturbed"
    first = start(run)
    wait_for_checkpoint(run, first)
    first.send_signal(signal.SIGTERM)
    said = finish(first)  # exits with 0
    assert "checkpointed: the same command goes on from here" in said

    keyboard = start(run)
    wait_for_line(keyboard, "resuming")
    keyboard.send_signal(signal.SIGINT)
    keyboard.communicate(timeout=240)
    assert keyboard.returncode == 130  # a script must not go on as if training had finished

    second = start(run)
    time.sleep(6)  # anywhere: starting, compiling, training or saving
    second.kill()
    second.communicate()
    finish(start(run))

    a, b = restored_state(tmp_path / "alone").state, restored_state(run).state
    assert int(a.step) == int(b.step) == 60
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_a_full_disk_while_saving_is_said_and_the_checkpoints_before_stay(tmp_path):
    """A limit on file size stands in for the full disk: writes fail in the same place."""
    run = tmp_path / "run"
    finish(start(run, steps=10))
    limited = (
        "import resource, signal, sys, runpy; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "sys.argv = ['train', *sys.argv[1:]]; runpy.run_module('simvq_jax.train', run_name='__main__')"
    )
    command = [sys.executable, "-c", limited, *flags_of(**STEPS | {"steps": 20}), f"--workdir={run}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "could not be written" in sentence and "free some space" in sentence
    assert int(restored_state(run).state.step) == 10


@pytest.mark.slow
def test_entry_points_start_from_another_folder(tmp_path):
    """As a module and as a script; a mistake gives one sentence and 2."""
    for command in (TRAIN, [sys.executable, str(ROOT / "simvq_jax/train.py")]):
        arguments = ["--config=configs/quickstart.py", "--workdir=x", "--config.batch_sise=3"]
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr == "error: config key 'batch_sise' does not exist; did you mean batch_size?\n"
