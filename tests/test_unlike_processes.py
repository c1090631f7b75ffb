"""Processes of one job that are not alike, or of which one has a fault of its own: a sentence, and nobody waits."""

import json
import shutil
from pathlib import Path

import numpy as np
import processes
import pytest
from tiny import flags_of

from simvq_jax.data.tokens import TokenSource

TRAIN = ["-m", "simvq_jax.train"]

# Runs a module of the project in which the lines before have changed something.
PATCHED = """
import os, runpy, sys, warnings
warnings.simplefilter("ignore", RuntimeWarning)  # of a module that is imported already
process = int(os.environ["JAX_PROCESS_ID"])
{change}
sys.argv = ["{module}", *sys.argv[1:]]
runpy.run_module("simvq_jax.{module}", run_name="__main__")
"""


def patched(change: str, *arguments: str, module: str = "train") -> list[str]:
    return ["-c", PATCHED.format(change=change, module=module), *arguments]


def said_by_two(command: list[str], seconds: float = 120) -> tuple[list[str], list[int]]:
    """What two processes of a job said, and their exit statuses."""
    with processes.job([command] * 2, devices=1) as started:
        said = processes.finish(started, seconds)
    return said, [process.returncode for process in started]


def test_processes_of_different_configs_are_told_apart(tmp_path):
    commands = [[*TRAIN, *flags_of(seed=seed), f"--workdir={tmp_path / 'run'}"] for seed in (0, 1)]
    with processes.job(commands, devices=1) as started:
        said = processes.finish(started, seconds=120)
    assert [process.returncode for process in started] == [2, 2]
    assert "error: process 1: the config of process 1 differs from that of process 0" in said[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_several_processes_do_not_evaluate_behind_a_training(tmp_path):
    said, statuses = said_by_two([*TRAIN, *flags_of(), f"--workdir={tmp_path / 'run'}", "--evaluate"])
    assert statuses == [2, 2]
    assert "--evaluate is of a training in one process but this one has 2: leave it out" in said[0] + said[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_must_share_the_run_folder(tmp_path):
    change = """
from simvq_jax import agreement
agreement.SEEN_WITHIN = 1.0
"""
    commands = [patched(change, *flags_of(), f"--workdir={tmp_path / name}") for name in ("a", "b")]
    with processes.job(commands, devices=1) as started:
        said = processes.finish(started, seconds=120)
    assert "the processes do not see the same folder" in said[0]


@pytest.mark.slow
def test_unlike_commands_are_told_apart(trained_run):
    commands = [["-m", "simvq_jax.evaluate", f"--run={trained_run}", f"--limit={limit}"] for limit in (2, 3)]
    with processes.job(commands, devices=1) as started:
        said = processes.finish(started, seconds=120)
    assert "the command of process 1 differs from that of process 0" in said[1]


@pytest.mark.slow
def test_processes_must_see_the_same_checkpoints(trained_run, tmp_path):
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    change = """
from simvq_jax import agreement, checkpoint
agreement.SEEN_WITHIN = 1.0
if process == 1:
    checkpoint.Checkpointer.steps = lambda _: []
"""
    said, statuses = said_by_two(patched(change, *flags_of(steps=6), f"--workdir={run}"))
    assert statuses[0] == 2 and "the processes do not see the same checkpoints" in said[0]
    assert (run / "checkpoints/4").is_dir()


@pytest.mark.slow
def test_processes_must_see_the_same_data(tmp_path):
    """Folders of one name and one number of pictures."""
    from skimage.io import imsave

    for process, side in enumerate((30, 31)):
        folder = tmp_path / f"home{process}/pictures"
        folder.mkdir(parents=True)
        for i in range(3):
            imsave(folder / f"{i}.png", np.full((side, side, 3), 50 * i, np.uint8), check_contrast=False)
    change = f'os.environ["HOME"] = f"{tmp_path}/home{{process}}"'
    flags = [*flags_of(), "--config.data.source=folder:~/pictures", f"--workdir={tmp_path / 'run'}"]
    said, statuses = said_by_two(patched(change, *flags))
    assert statuses == [2, 2]
    assert "what folder:~/pictures holds to train of process 1 differs from that of process 0" in said[1]


@pytest.mark.slow
def test_a_fault_of_one_ends_the_others(tmp_path):
    """One that no sentence was written for: its traceback is shown."""
    change = """
from simvq_jax import train
if process == 1:
    from simvq_jax import observer
    observer.Observer.step = lambda *_: 1 // 0
"""
    said, statuses = said_by_two(patched(change, *flags_of(), f"--workdir={tmp_path / 'run'}"), seconds=90)
    assert statuses[1] == 1 and "ZeroDivisionError" in said[1] and "Traceback" in said[1]
    assert statuses[0] in (75, 134, -6), said[0]


@pytest.mark.slow
def test_shards_that_were_seen_late_come_into_the_manifest(trained_run, tmp_path):
    """No process saw all of them when its own were done; process 0 looks again."""
    change = """
from simvq_jax.data import tokens
is_whole, asked = tokens.is_whole, []
def late(path):
    foreign = int(path.name.split("-")[1]) % 2 != process
    asked.append(path) if foreign else None
    return is_whole(path) and not (foreign and len(asked) == 1)
tokens.is_whole = late
"""
    out = tmp_path / "tokens"
    flags = [f"--run={trained_run}", f"--out={out}", "--shard_size=2"]
    said, statuses = said_by_two(patched(change, *flags, module="extract_tokens"))
    assert statuses == [0, 0], said
    assert all("manifest.json will be written by the process that finishes last" in one for one in said)
    assert len(TokenSource(out)) == json.loads((out / "manifest.json").read_text())["records"] == 8


@pytest.mark.slow
def test_a_death_while_restoring_condemns_no_checkpoint(trained_run, tmp_path):
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    change = """
from simvq_jax import checkpoint
if process == 1:
    checkpoint.Checkpointer.restore_step = lambda *_: os._exit(9)
"""
    said, statuses = said_by_two(patched(change, *flags_of(steps=6), f"--workdir={run}"), seconds=90)
    assert statuses[0] in (75, 134, -6), said[0]
    assert (run / "checkpoints/4").is_dir() and not (run / "damaged_checkpoints").exists()
