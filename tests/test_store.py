"""A run in a bucket: trained, interrupted, gone on with and evaluated there, on a store of this machine."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import fake_gcs
import numpy as np
import pytest
from tiny import flags_of

import simvq_jax
from simvq_jax import cli, convert, export, reconstruct, run_folder, store

RUN = f"gs://{fake_gcs.BUCKET}/runs/tiny"
PLAIN = {"discriminator__enabled": False}


@pytest.fixture(scope="module")
def bucket():
    """A store that this process's gcsfs and tensorstore find."""
    fake = fake_gcs.FakeStore()
    before = {name: os.environ.get(name) for name in fake.environment()}
    os.environ.update(fake.environment())
    yield fake
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    fake.close()


def train_with(*arguments: str) -> tuple[int, str]:
    import processes

    command = ["-m", "simvq_jax.train", *arguments, f"--workdir={RUN}"]
    with processes.job([command], devices=1) as started:
        (said,) = processes.finish(started, seconds=200)
    return started[0].returncode, said


@pytest.fixture(scope="module")
def trained(bucket):
    """Stopped at step 2 by one process, gone on with by another."""
    status, said = train_with(*flags_of(**PLAIN), "--stop_at=2")
    assert status == 0, said
    assert {f"runs/tiny/{name}" for name in ("config.json", "metrics.jsonl")} <= set(bucket.objects)
    rows_at_two = bucket.objects["runs/tiny/metrics.jsonl"]
    status, said = train_with(*flags_of(**PLAIN))
    assert status == 0 and "resuming at step 2, to step 4" in said, said
    assert bucket.objects["runs/tiny/metrics.jsonl"].startswith(rows_at_two)
    return bucket


@pytest.mark.slow
def test_a_run_in_a_bucket_has_all_that_one_on_disk_has(trained, trained_run):
    rows = [json.loads(line) for line in trained.objects["runs/tiny/metrics.jsonl"].decode().splitlines()]
    on_disk = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [row["step"] for row in on_disk]
    assert any(name.startswith("runs/tiny/tensorboard/events") for name in trained.objects)
    committed = [name for name in trained.objects if name.endswith("checkpoints/4/commit_success.txt")]
    assert committed


@pytest.mark.slow
def test_figures_come_before_the_checkpoint_that_they_lead_to(trained):
    """So that what resumes there lacks no row."""
    first = trained.writes.index("runs/tiny/checkpoints/2/commit_success.txt")
    assert "runs/tiny/metrics.jsonl" in trained.writes[:first]


@pytest.mark.slow
def test_it_loads_evaluates_and_is_reported(trained):
    import processes

    tokenizer = simvq_jax.load(RUN)
    pictures = np.zeros((1, 24, 24, 3), np.uint8)
    assert tokenizer.encode(pictures).shape == (1, 6, 6) and tokenizer.step == 4
    command = ["-m", "simvq_jax.report", f"--run={RUN}"]
    with processes.job([command], devices=1) as started:
        (said,) = processes.finish(started, seconds=200)
    assert started[0].returncode == 0, said
    assert f"{RUN}/report.html" in said
    assert json.loads(trained.objects["runs/tiny/evaluation.json"])["eval/pictures"] == 24


@pytest.mark.slow
def test_two_processes_train_and_evaluate_in_a_bucket(trained):
    """Started by launch/local.sh, whose logs stay on this machine."""
    import processes

    name = f"two_of_{os.getpid()}"
    logs = [processes.ROOT / f"runs/{name}.process{i}.log" for i in range(2)]
    command = ["bash", "launch/local.sh", "2", *flags_of(**PLAIN), f"--workdir=gs://{fake_gcs.BUCKET}/runs/{name}"]
    env = processes.environment(1) | {"PYTHON": sys.executable}
    try:
        done = subprocess.run(command, cwd=processes.ROOT, env=env, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "on 2 cpu device(s) of 2 processes" in logs[0].read_text() and logs[1].is_file()
    finally:
        for log in logs:
            log.unlink(missing_ok=True)
    ours, alone = (
        [json.loads(line) for line in trained.objects[f"runs/{run}/metrics.jsonl"].decode().splitlines()]
        for run in (name, "tiny")
    )
    ours, alone = ([row for row in rows if "train/loss" in row] for rows in (ours, alone))
    assert [row["step"] for row in ours] == [row["step"] for row in alone]
    assert [row["train/loss"] for row in ours] == pytest.approx([row["train/loss"] for row in alone], rel=1e-5)
    assert f"runs/{name}/checkpoints/4/commit_success.txt" in trained.objects
    assert json.loads(trained.objects[f"runs/{name}/evaluation.json"])["eval/pictures"] == 24


@pytest.mark.slow
def test_the_latest_training_has_the_folder(trained):
    place = store.path_of(f"gs://{fake_gcs.BUCKET}/runs/contested")
    with run_folder.sole_writer(place) as check_ours:
        check_ours()
        with (
            run_folder.sole_writer(place),
            pytest.raises(ValueError, match=r"being written by process \d+ on .* since"),
        ):
            check_ours()


@pytest.mark.slow
def test_a_training_that_lost_its_folder_uploads_nothing(trained):
    place = store.path_of(f"gs://{fake_gcs.BUCKET}/runs/lost")

    def refuse():
        raise ValueError("another has it")

    with pytest.raises(ValueError, match="another has it"), store.staged(place, before_upload=refuse) as stage:
        (stage.folder / "metrics.jsonl").write_text("{}")
    assert not (place / "metrics.jsonl").exists()


@pytest.mark.slow
def test_pictures_in_a_bucket(trained, tmp_path):
    from skimage.io import imsave

    from simvq_jax.data.kinds import pictures
    from simvq_jax.data.sources import SkipLog, open_source

    for i in range(3):
        imsave(tmp_path / "a.png", np.full((20, 30, 3), 50 * i, np.uint8), check_contrast=False)
        trained.objects[f"pictures/{i}/a.png"] = (tmp_path / "a.png").read_bytes()
        trained._generations[f"pictures/{i}/a.png"] = 1
    skipped = SkipLog(None)
    source = open_source(f"folder:gs://{fake_gcs.BUCKET}/pictures", "all", kind=pictures(10**6), skipped=skipped)
    assert len(source) == 3
    assert source[1]["key"] == "1/a.png" and source[1]["label"] == "1"
    assert source[2]["image"].shape == (20, 30, 3) and source[2]["image"].mean() == 100
    trained.objects["pictures/1/a.png"] = b"nothing"
    assert source.read(1) is None and skipped.count == 1


def test_addresses(monkeypatch):
    assert store.path_of("a/b") == Path("a/b") and not store.is_remote("a/b")
    with pytest.raises(ValueError, match="gs://bucket names no folder of a bucket"):
        store.path_of("gs://bucket")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'simvq_jax\[gcs\]'"):
        store.path_of("gs://bucket/run")


def test_what_is_written_to_disks_is_refused_in_a_bucket():
    assert store.local_path("out", "~/a") == Path.home() / "a"
    for main, flags in (
        (export.main, {"run": "nowhere"}),
        (reconstruct.main, {"run": "nowhere", "inputs": "a", "max_pixels": 1, "max_seconds": 1.0}),
        (
            convert.main,
            {"checkpoint": "a", "run": "", "modality": "", "weights": "ema", "config": cli.Chosen(None, {})},
        ),
    ):
        with pytest.raises(ValueError, match=r"--out=gs://bucket/a lies in a bucket, .*: give a path on one"):
            main(out="gs://bucket/a", **flags)


def test_staged_files_of_a_local_folder_are_its_own(tmp_path):
    with store.staged(tmp_path, "metrics.jsonl") as stage:
        assert stage.folder == tmp_path
        stage.upload()
    assert list(tmp_path.iterdir()) == []
