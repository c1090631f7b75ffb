"""Damaged checkpoints are found and stepped over; sound ones come back bit for bit."""

import functools
import gc
import logging
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec
from tiny import tiny_config

from simvq_jax import api, build, checkpoint, train
from simvq_jax.checkpoint import Checkpointer, CheckpointError, checksums
from simvq_jax.mesh import make_mesh, state_sharding


@pytest.fixture(autouse=True)
def quiet_leftovers(monkeypatch):
    """Reads of damaged files leave futures of orbax and tensorstore behind, which complain when they are collected."""
    monkeypatch.setattr(sys, "unraisablehook", lambda args: None)
    yield
    gc.collect()


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A copy, to be damaged, of a run with checkpoints 2 and 4."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def data_files(run: Path, step: int) -> list[Path]:
    """The array files of a checkpoint, largest first. Some, even the largest, may be superseded and read by nobody:
    how many orbax leaves behind depends on timing."""
    files = [
        file for file in (run / f"checkpoints/{step}/state").rglob("*") if file.is_file() and file.parent.name == "d"
    ]
    return sorted(files, key=lambda file: file.stat().st_size, reverse=True)


def truncate(run):
    for file in data_files(run, 4):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove_data(run):
    for file in data_files(run, 4):
        file.unlink()


def flip_bytes(run):
    for file in data_files(run, 4):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))


def empty(run):
    for file in (run / "checkpoints/4/state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, remove_data, flip_bytes, empty])
@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(run, caplog, damage):
    """Training goes on from step 2 to the same end, and says so; the damaged one is kept aside."""
    whole = api.load(run).variables
    damage(run)
    with caplog.at_level(logging.ERROR):
        assert api.load(run).step == 2  # reading alone changes nothing on disk
        assert (run / "checkpoints/4").is_dir()
        train.train(tiny_config(), run)
    assert sum("Checkpoint 4 is damaged" in record.getMessage() for record in caplog.records) == 2
    assert (run / "damaged_checkpoints/4").is_dir()
    tokenizer = api.load(run)
    assert tokenizer.step == 4
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(tokenizer.variables), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_all_damaged_is_an_error(run):
    for file in (run / "checkpoints").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"all 2 checkpoints of .* are damaged"):
        api.load(run)
    before = (run / "metrics.jsonl").read_text()
    for _ in range(2):  # the second start must find the run as the first one did, and not begin anew
        with pytest.raises(CheckpointError, match=r"all 2 checkpoints of .* are damaged"):
            train.train(tiny_config(), run)
    assert (run / "metrics.jsonl").read_text() == before
    assert sorted(folder.name for folder in (run / "checkpoints").iterdir()) == ["2", "4"]


def test_an_architecture_that_does_not_fit_is_no_silent_restart(run):
    """Past the check of the config, shapes that differ are caught on restore, and are no damage."""
    (run / "config.json").write_text((run / "config.json").read_text().replace('"dim": 4', '"dim": 6'))
    sentence = (
        r"checkpoint 4 of .* is not of its config\.json: its \S+ is \([\d, ]*4[\d, ]*\), by the config \([\d, ]*6"
    )
    with pytest.raises(CheckpointError, match=sentence):
        api.load(run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "4"]


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "bfloat16", "bool"])
def test_a_checksum_sees_every_flipped_bit(dtype):
    leaf = (jnp.arange(12) % 2).astype(dtype).reshape(3, 4)
    before = checksums({"a": leaf})
    raw = np.asarray(leaf).view(np.uint8).copy()
    bits = 1 if dtype == "bool" else 8
    for place in range(raw.size):
        for bit in range(bits):
            flipped = raw.copy().ravel()
            flipped[place] ^= 1 << bit
            changed = flipped.view(np.asarray(leaf).dtype).reshape(3, 4)
            assert checksums({"a": jnp.asarray(changed)}) != before


def test_a_checksum_sees_two_swapped_values():
    assert checksums({"a": jnp.array([1.0, 2.0])}) != checksums({"a": jnp.array([2.0, 1.0])})


def test_too_little_space_is_said_before_anything_is_written(trained_run, tmp_path, monkeypatch):
    with Checkpointer(trained_run, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 4]
    state = {"a": jnp.ones((1000, 1000))}
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
    with Checkpointer(tmp_path / "run") as checkpoints:
        with pytest.raises(CheckpointError, match=r"5 MB could not be written .*: 1 MB are free"):
            checkpoints.save(state, 1)
        assert checkpoints.steps() == []


@pytest.mark.parametrize("error", [MemoryError(), OSError("Stale file handle"), RuntimeError("UNAVAILABLE: 503")])
def test_what_the_machine_is_to_blame_for_condemns_no_checkpoint(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    with Checkpointer(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save({"a": jnp.ones(3)}, step)
        checkpoints.wait()
        with monkeypatch.context() as patched, pytest.raises(type(error)):
            patched.setattr(checkpoints, "restore_step", fail)
            checkpoints.restore({"a": jnp.ones(3)})
        assert checkpoints.steps() == [1, 2]


def test_a_save_leaves_the_count_of_places_to_stop_alone(tmp_path, monkeypatch):
    """Of jax's preemption service, whose only caller is the training: orbax would put it back, and a stop be lost."""
    counts = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", counts.append)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save({"a": jnp.ones(3)}, 1)
    assert counts == []


@pytest.mark.slow
def test_a_seeded_basis_is_drawn_anew_and_not_stored(tmp_path):
    """On another mesh too; and a seed that gives another basis is found out."""
    basis = {"quantizer__basis_seed": 5, "quantizer__basis_dtype": "bfloat16", "quantizer__restart_after": 0.0}
    config = tiny_config(discriminator__enabled=False, **basis)
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    state = jax.jit(functools.partial(build.build_state, config, networks, optimizers))(jax.random.key(0))
    with Checkpointer(tmp_path, redraw=build.seeded_codebook(config)) as checkpoints:
        checkpoints.save(state, 1)
    stored = ocp.StandardCheckpointer().metadata(tmp_path / "checkpoints/1/state").item_metadata
    assert stored.tree["codebook"] == {} and stored.tree["codebook_stats"] != {}

    mesh = make_mesh(codebook=8)
    shardings = state_sharding(state, mesh)
    template = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state, shardings)
    with Checkpointer(tmp_path, redraw=build.seeded_codebook(config)) as checkpoints:
        restored = checkpoints.restore(template)
    assert restored is not None and restored.codebook["quantizer"]["basis"].sharding.spec == PartitionSpec("codebook")
    jax.tree.map(np.testing.assert_array_equal, restored, state)

    config.quantizer.basis_seed = 6
    with (
        Checkpointer(tmp_path, redraw=build.seeded_codebook(config)) as checkpoints,
        pytest.raises(CheckpointError, match="all 1 checkpoints"),
    ):
        checkpoints.restore(template)
