"""A run folder belongs to one training at a time."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_config

from simvq_jax import train
from simvq_jax.run_folder import check_held_out, check_run, check_training_data, set_old_evaluation_aside, sole_writer

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


def test_other_training_data_than_before_a_stop_are_told(tmp_path, caplog):
    for items, start in ((9, 0), (12, 0), (12, 5)):
        check_training_data(tmp_path, items, start)
    assert not caplog.records
    check_training_data(tmp_path, 13, 7)
    assert "has trained on 12 items until now, and goes on with 13, in another order" in caplog.text
    caplog.clear()
    check_training_data(tmp_path, 13, 8)
    assert not caplog.records


@pytest.mark.parametrize(
    "files", [{"config.json": '{"name": "other"}'}, {"config.json": "[]"}, {"metrics.jsonl": '{"loss": 3}'}]
)
def test_a_folder_of_something_else_is_not_written_over(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"holds files of something else, which a training would overwrite"):
        check_run(tiny_config(), tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_figures_of_weights_that_are_trained_anew_are_set_aside(tmp_path, caplog):
    evaluation, old = tmp_path / "evaluation.json", tmp_path / "before.evaluation.json"
    for begun, evaluated, start, kept in (
        (False, 4, 0, False),
        (True, 4, 2, False),
        (True, None, 2, False),
        (True, 4, 4, True),
        (True, 0, 0, True),
    ):
        figures = json.dumps({"eval/psnr": 8.5, "provenance": {"step": evaluated}})
        evaluation.write_text(figures if evaluated is not None else figures[:20])
        (tmp_path / "evaluation_files.csv").write_text(f"{evaluated}")
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        if begun:
            (tmp_path / "checkpoints" / str(start)).mkdir(parents=True)
        set_old_evaluation_aside(tmp_path, start)
        assert evaluation.exists() == (tmp_path / "evaluation_files.csv").exists() == kept
    assert not old.read_text().endswith("}")
    assert (tmp_path / "before.evaluation_files.csv").read_text() == "None"
    assert caplog.text.count("is of weights that are trained anew") == 3


def test_it_is_free_again_behind_a_training(tmp_path: Path):
    for _ in range(2):
        with sole_writer(tmp_path / "new"):
            pass
