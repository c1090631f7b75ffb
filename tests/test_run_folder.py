"""A run folder belongs to one training at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_config

from simvq_jax import train
from simvq_jax.run_folder import check_held_out, sole_writer

HOLD = "import sys, time; from pathlib import Path; from simvq_jax.run_folder import sole_writer\n"
HOLD += "with sole_writer(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"


def test_a_folder_that_another_training_writes_to_is_refused(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=rf"being written by process {other.pid} on .*: wait for its end"):
        train.train(tiny_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".writer"]
    other.kill()  # not even this leaves it locked
    other.communicate()
    with sole_writer(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".writer").read_text()


def test_what_was_held_out_is_not_trained_on_later(tmp_path):
    check_held_out(tmp_path, "folder of 9 pictures, sha256 ef", 0)
    check_held_out(tmp_path, "folder of 2 pictures, sha256 ab", 0)  # no step was saved: the run begins anew
    check_held_out(tmp_path, "folder of 2 pictures, sha256 ab", 5)
    with pytest.raises(ValueError, match=r"began with other held-out data \(folder of 2 pictures, sha256 ab\)"):
        check_held_out(tmp_path, "folder of 3 pictures, sha256 cd", 5)


def test_it_is_free_again_behind_a_training(tmp_path: Path):
    for _ in range(2):
        with sole_writer(tmp_path / "new"):
            pass
