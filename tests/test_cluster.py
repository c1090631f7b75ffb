"""Several processes as one job: the same result as one, one mind, and no waiting for the dead."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import processes
import pytest
from tiny import flags_of, tiny_config

from simvq_jax import agreement, build, cluster, train
from simvq_jax.api.loading import restored_state
from simvq_jax.data.tokens import TokenSource
from simvq_jax.mesh import batch_share

NOWHERE = {"coordinator_address": "", "num_processes": 0, "process_id": -1}
TRAIN = ["-m", "simvq_jax.train"]
LONG = {"steps": 4000, "eval_every": 4000, "checkpoint_every": 5, "discriminator__enabled": False}


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory) -> Path:
    """A toy run trained by two processes of four devices each."""
    run = tmp_path_factory.mktemp("two") / "run"
    said = processes.run(*TRAIN, *flags_of(), f"--workdir={run}", processes=2, devices=4)
    assert "on 8 cpu device(s) of 2 processes" in said[0]
    assert str(run) not in said[1]  # progress is told once
    return run


@pytest.mark.slow
def test_two_processes_train_as_one(run_of_two, trained_run):
    """Free-running: later, rounding flips codes that are nearly as near as another."""
    ours, alone = rows_of(run_of_two), rows_of(trained_run)
    assert [row["step"] for row in ours] == [row["step"] for row in alone]
    for row, other in zip(ours, alone, strict=True):
        if "train/loss" in row:
            assert row["train/loss"] == pytest.approx(other["train/loss"], rel=1e-5), row["step"]
        if "eval/psnr" in row:
            assert row["eval/psnr"] == pytest.approx(other["eval/psnr"], rel=1e-4)
    assert sorted(path.name for path in run_of_two.iterdir()) == sorted(path.name for path in trained_run.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("count", "devices", "mesh"), [(2, 4, {"codebook": 8}), (4, 1, {"data": 2, "codebook": 2})])
def test_codes_over_processes_change_nothing(trained_run, tmp_path, count, devices, mesh):
    """Processes that share their rows read the same ones, and none is counted twice."""
    flags = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
    processes.run(*TRAIN, *flags_of(), *flags, f"--workdir={tmp_path / 'run'}", processes=count, devices=devices)
    ours, alone = rows_of(tmp_path / "run"), rows_of(trained_run)
    assert [row["step"] for row in ours] == [row["step"] for row in alone]
    for row, other in zip(ours, alone, strict=True):
        for name in {"train/loss", "train/codebook_perplexity", "eval/psnr", "eval/codebook_perplexity"} & other.keys():
            assert row[name] == pytest.approx(other[name], rel=1e-4), (row["step"], name)


def test_processes_that_would_share_a_part_of_their_rows_are_refused():
    devices = np.array([SimpleNamespace(process_index=i // 2) for i in range(6)])
    with pytest.raises(ValueError, match=r"mesh\.codebook is 3, .* a part of their rows only"):
        batch_share.__wrapped__(SimpleNamespace(devices=devices.reshape(2, 1, 3), shape={"codebook": 3}))


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(run_of_two, tmp_path):
    """On another mesh: the checkpoint is of the state, not of the devices."""
    run = Path(shutil.copytree(run_of_two, tmp_path / "run"))
    config = build.read_config(run)
    config.steps, config.mesh.codebook = 5, 8
    state = train.train(config, run)
    assert int(state.step) == 5 and int(restored_state(run).state.step) == 5


@pytest.mark.parametrize("axes", [{"fsdp": 2, "codebook": 2}, {"codebook": 2}, {}])
@pytest.mark.slow
def test_fewer_devices_go_on_with_the_same_batches(run_of_two, tmp_path, axes):
    """8 -> 4, 2, 1 devices."""
    devices = 2 ** len(axes)
    runs = {tmp_path / "fewer": (devices, axes), tmp_path / "eight": (8, {})}
    for run, (count, mesh) in runs.items():
        shutil.copytree(run_of_two, run)
        flags = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
        processes.run(*TRAIN, f"--workdir={run}", "--config.steps=6", *flags, processes=1, devices=count)
    fewer, eight = (
        {row["step"]: row["train/loss"] for row in rows_of(run) if row["step"] > 4 and "train/loss" in row}
        for run in runs
    )
    assert fewer.keys() == eight.keys() == {5, 6}
    for step in fewer:
        assert fewer[step] == pytest.approx(eight[step], rel=1e-5)


@pytest.mark.slow
def test_evaluation_report_and_tokens_of_two_processes(run_of_two, tmp_path):
    run = Path(shutil.copytree(run_of_two, tmp_path / "run"))
    said = processes.run("-m", "simvq_jax.report", f"--run={run}", processes=2, devices=4)
    assert "report.html" in said[0] and "report.html" not in said[1]
    assert "<html" in (run / "report.html").read_text()
    two = json.loads((run / "evaluation.json").read_text())
    alone = processes.run("-m", "simvq_jax.evaluate", f"--run={run}", processes=1, devices=8)[0]
    one = json.loads((run / "evaluation.json").read_text())
    assert f"{'eval/pictures':32} 24" in alone
    for name in ("eval/psnr", "eval/ssim", "eval/codebook_utilization", "eval/codebook_perplexity"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)

    flags = [f"--run={run}", "--shard_size=2", "--crops=ten"]
    processes.run("-m", "simvq_jax.extract_tokens", *flags, f"--out={tmp_path / 'two'}", processes=2, devices=2)
    processes.run("-m", "simvq_jax.extract_tokens", *flags, f"--out={tmp_path / 'one'}", processes=1, devices=2)
    of_two, of_one = TokenSource(tmp_path / "two"), TokenSource(tmp_path / "one")
    assert len(of_two) == len(of_one) == 80
    for i in range(80):
        np.testing.assert_array_equal(of_two[i]["tokens"], of_one[i]["tokens"])


def wait_for(path: Path, started) -> None:
    deadline = time.monotonic() + 240
    while not any(file.name.isdecimal() for file in path.glob("*")):  # whole ones: others have a longer name
        assert all(process.poll() is None for process in started) and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.slow
def test_the_death_of_one_ends_the_others(tmp_path, victim):
    """With a sentence, and long before anybody loses patience; the run is whole."""
    run = tmp_path / "run"
    with processes.job([[*TRAIN, *flags_of(**LONG), f"--workdir={run}"]] * 2, devices=1) as started:
        wait_for(run / "checkpoints", started)
        started[victim].kill()
        died = time.monotonic()
        said = processes.finish(started, seconds=60)
        assert time.monotonic() - died < 60
    other = 1 - victim
    assert started[other].returncode not in (0, None)
    assert "another process of the job is gone" in said[other] or "another task died" in said[other]
    assert int(restored_state(run).state.step) % 5 == 0


@pytest.mark.slow
def test_a_preemption_of_one_stops_all_at_the_same_step(tmp_path):
    run = tmp_path / "run"
    with processes.job([[*TRAIN, *flags_of(**LONG), f"--workdir={run}"]] * 2, devices=1) as started:
        wait_for(run / "checkpoints", started)
        started[1].send_signal(signal.SIGTERM)
        said = processes.finish(started, seconds=120)
    assert [process.returncode for process in started] == [0, 0], said
    stopped = int(said[0].rpartition("stopped at step ")[2].split(",")[0])
    assert int(restored_state(run).state.step) == stopped == rows_of(run)[-1]["step"]


def test_a_coordinator_that_cannot_be_reached(tmp_path):
    flags = ["--coordinator_address=127.0.0.1:1", "--num_processes=2", "--process_id=1"]
    command = [
        *TRAIN,
        *flags_of(),
        "--config.cluster.initialization_timeout=2",
        *flags,
        f"--workdir={tmp_path / 'run'}",
    ]
    with processes.job([command], devices=1) as started:
        (said,) = processes.finish(started, seconds=60)
    assert started[0].returncode == 75  # launchers start it again: the others may only be late
    assert "error: process 1 of 2 at 127.0.0.1:1 did not find all others within 2 seconds" in said


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_for_the_next_start(run_of_two, tmp_path):
    """Of several processes one cannot know whether the others could read it."""
    run = Path(shutil.copytree(run_of_two, tmp_path / "run"))
    for file in (run / "checkpoints/4/state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(b"")
    command = [*TRAIN, *flags_of(steps=5), f"--workdir={run}"]
    with processes.job([command] * 2, devices=1) as started:
        said = "".join(processes.finish(started, seconds=120))
    assert "checkpoint 4 of" in said and "start all processes again" in said
    assert (run / "damaged_checkpoints/4").is_dir() and not (run / "checkpoints/4").exists()


@pytest.mark.slow
def test_a_process_without_items_evaluates_with_the_others(run_of_two, tmp_path):
    """A set so small that the second process has filled-up rows alone."""
    run = Path(shutil.copytree(run_of_two, tmp_path / "run"))
    processes.run("-m", "simvq_jax.evaluate", f"--run={run}", "--limit=2", processes=2, devices=1)
    assert json.loads((run / "evaluation.json").read_text())["eval/pictures"] == 2


def test_what_counts_as_the_loss_of_another_process(monkeypatch):
    lost = jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
    wrapped = RuntimeError("a checkpoint could not be written")
    wrapped.__cause__ = lost
    assert not cluster.is_loss(lost)  # alone
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert cluster.is_loss(lost) and cluster.is_loss(wrapped)
    assert cluster.is_loss(ValueError(str(lost))) and not cluster.is_loss(ValueError("a mistake"))
    assert cluster.is_loss(jax.errors.JaxRuntimeError("UNAVAILABLE: Heartbeat request timed out"))
    for own in ("RESOURCE_EXHAUSTED: Out of memory", "INTERNAL: cuDNN launch failure", "FAILED_PRECONDITION: no ptxas"):
        assert not cluster.is_loss(jax.errors.JaxRuntimeError(own))


def test_where_a_place_comes_from():
    assert cluster.place_of(NOWHERE, {}) is None
    environment = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2"}
    assert cluster.place_of(NOWHERE, environment) == cluster.Place("a:1", 3, 2)
    flags = {"coordinator_address": "b:2", "num_processes": 0, "process_id": 0}
    assert cluster.place_of(flags, environment) == cluster.Place("b:2", 3, 0)


def test_only_tasks_of_a_scheduler_are_of_its_job():
    task = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "16"}
    assert cluster.scheduler_of(task) == "slurm"
    assert cluster.scheduler_of(task | {"SLURM_NTASKS": "1"}) is None
    assert cluster.scheduler_of({"SLURM_NTASKS": "16"}) is None  # the batch script itself


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_processes": 2}, "coordinator_address=none, num_processes=2, process_id=none but needs all three"),
        ({"coordinator_address": "a:1", "num_processes": 2, "process_id": 2}, "0 <= process_id < num_processes"),
        ({"coordinator_address": "a:99999", "num_processes": 2, "process_id": 1}, "the port below 65,536"),
        ({"coordinator_address": "a", "num_processes": 2, "process_id": 1}, "'a' but must be HOST:PORT"),
    ],
)
def test_half_a_place_is_a_mistake(flags, message):
    with pytest.raises(ValueError, match=message):
        cluster.place_of(NOWHERE | flags, {})


def test_timeouts_must_be_positive():
    config = tiny_config(cluster__heartbeat_timeout=0)
    with pytest.raises(ValueError, match=r"cluster.heartbeat_timeout is 0 but must be at least 1"):
        build.build_timeouts(config).check()


def test_alone_nothing_is_asked_of_others():
    assert agreement.is_first() and agreement.agreed(True) and not agreement.all_agree(False)
    assert agreement.total_over_processes(3) == 3
    agreement.check_alike("the config", "anything")
    with cluster.joined(cluster.Timeouts(1, 1, 1), NOWHERE):
        assert "JAX_PROCESS_ID" not in os.environ and jax.process_count() == 1
