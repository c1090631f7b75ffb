"""The loop: resume bit for bit, errors before harm, one compilation, the device kept busy."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config
from tiny_sound import tiny_sound_config

from configs import recipes
from simvq_jax import build, cli, observer, train
from simvq_jax.build.quantizers import QUANTIZERS
from simvq_jax.drawing.curves import read_metrics
from simvq_jax.inputs import first_examples
from simvq_jax.mesh import make_mesh
from simvq_jax.scoring import make_scorer
from simvq_jax.stopping import StopRequest
from simvq_jax.writers import has_evaluation


def assert_same_state(a, b):
    """Every leaf equal, bit for bit."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))


def rows_without_speed(run):
    numbers = read_metrics(run).numbers
    return {name: steps for name, steps in numbers.items() if name != "train/examples_per_second"}


def test_four_steps_are_three_a_resume_and_one_more(tmp_path, trained_run):
    """Parameters, both optimisers, EMA, LeCAM, statistics and the data's order survive an early end."""
    whole = train.train(tiny_config(), trained_run)  # finished: no more than read
    half = train.train(tiny_config(), tmp_path / "halves", stop_at=3)
    assert int(half.step) == 3
    resumed = train.train(tiny_config(), tmp_path / "halves")
    assert_same_state(whole, resumed)
    assert rows_without_speed(trained_run) == rows_without_speed(tmp_path / "halves")


def test_a_run_folder_holds_what_is_promised(trained_run):
    for name in ("config.json", "metrics.jsonl", "tensorboard", "checkpoints/4"):
        assert (trained_run / name).exists()
    rows = [json.loads(line) for line in (trained_run / "metrics.jsonl").read_text().splitlines()]
    names = {name for row in rows for name in row}
    assert {"train/loss", "train/codebook_utilization", "train/examples_per_second", "eval/psnr", "eval/ssim"} <= names
    assert {"eval/codebook_utilization", "eval/codebook_perplexity", "eval/transform_singular_values"} <= names
    evaluated = {row["step"] for row in rows if "eval/psnr" in row}
    assert evaluated == {0, 2, 4}


def test_a_finished_run_started_again_trains_no_further(trained_run, capsys):
    before = (trained_run / "metrics.jsonl").read_text()
    state = train.train(tiny_config(), trained_run)
    assert int(state.step) == 4
    assert (trained_run / "metrics.jsonl").read_text() == before


def test_a_run_is_evaluated_behind_its_last_step_alone_where_that_is_asked_for(tmp_path):
    config = cli.Chosen(tiny_config(eval_every=0), {})
    with pytest.raises(SystemExit) as stopped:
        train.main(config, str(tmp_path / "run"), stop_at=2, evaluate=True, stopped_status=75)
    assert stopped.value.code == 75 and not (tmp_path / "run/evaluation.json").exists()
    for _ in range(2):  # a finished run is evaluated again
        train.main(config, str(tmp_path / "run"), stop_at=0, evaluate=True, stopped_status=75)
        evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
        assert evaluation["provenance"]["step"] == 4 and evaluation["eval/pictures"] == 24
        (tmp_path / "run/evaluation.json").unlink()
    numbers = read_metrics(tmp_path / "run").numbers
    assert "train/loss" in numbers and not [name for name in numbers if name.startswith("eval/")]


def test_another_config_is_refused_and_nothing_touched(trained_run):
    before = (trained_run / "config.json").read_text()
    with pytest.raises(ValueError, match=r"another config \(model.width: 8 -> 16, quantizer.beta: 0.25 -> 0.5\)"):
        train.train(tiny_config(model__width=16, quantizer__beta=0.5), trained_run)
    assert (trained_run / "config.json").read_text() == before


def test_resuming_with_or_without_lpips_is_another_training(trained_run):
    with pytest.raises(ValueError, match=r"another config \(losses.lpips_linear: '' -> 'b', losses.lpips_vgg"):
        train.check_run(tiny_config(losses__lpips_vgg="a", losses__lpips_linear="b"), trained_run)


def test_what_may_change_is_said(tmp_path, trained_run, caplog):
    run = shutil.copytree(trained_run, tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        train.check_run(tiny_config(log_every=3), run)
    assert "log_every is now 3, was 1" in caplog.text


def test_fewer_steps_than_the_run_has_are_refused(tmp_path, trained_run):
    run = shutil.copytree(trained_run, tmp_path / "run")
    with pytest.raises(ValueError, match=r"steps is 2 but .* is at step 4 already"):
        train.train(tiny_config(steps=2), run)
    assert (run / "config.json").read_text() == (trained_run / "config.json").read_text()


@pytest.mark.parametrize(
    ("overrides", "stop_at", "sentence"),
    [
        ({"data__eval_limit": -1}, 0, "The limit -1 is negative"),
        ({"data__threads": 0}, 0, "data.threads is 0 but must be at least 1"),
        ({"data__source": "folder:/no/such"}, 0, "another config"),
        ({}, 2, "stop_at is 2 but .* is at step 4 already: give 4 or more, or leave it out"),
    ],
)
def test_what_is_refused_leaves_the_run_as_it_was(tmp_path, trained_run, overrides, stop_at, sentence):
    run = shutil.copytree(trained_run, tmp_path / "run")
    with pytest.raises(ValueError, match=sentence):
        train.train(tiny_config(**overrides), run, stop_at)
    for name in ("config.json", "metrics.jsonl", "held_out.txt"):
        assert (run / name).read_text() == (trained_run / name).read_text()


def test_data_that_are_not_there_leave_no_run_behind(tmp_path):
    with pytest.raises(FileNotFoundError, match="/no/such is not a folder"):
        train.train(tiny_config(data__source="folder:/no/such", quantizer__start_scale=0.0), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".writer", "checkpoints"}


def test_checkpoints_without_a_config_are_refused(tmp_path):
    (tmp_path / "checkpoints/3").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds checkpoints but no config\.json"):
        train.train(tiny_config(), tmp_path)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"quantizer__codebook_size": 0}, "quantizer.codebook_size is 0 but must be at least 1"),
        ({"quantizer__dim": 0}, "quantizer.dim is 0 but must be at least 1"),
        ({"batch_size": 12}, "batch_size 12 is no positive multiple of 8"),
        ({"accumulate": 3}, "batch_size 16 is no positive multiple of 24"),
        ({"data__eval_batch_size": 3}, "data.eval_batch_size 3 is no positive multiple of 8"),
        ({"mesh__data": 3}, "needs 3 devices but 8 are present: set mesh.data to 8, or to -1"),
        ({"mesh__data": 2, "mesh__codebook": 3}, "so that their product divides 8"),
        ({"mesh__codebook": 8, "quantizer__codebook_size": 36}, "mesh.codebook is 8 but does not divide the 36 codes"),
        ({"model__width": 12}, "12 x 1 = 12 is no positive multiple of norm_groups = 8"),
        ({"steps": 0}, "steps is 0"),
        ({"data__size": 30}, "data.size is 30 but must be a multiple of 4"),
        ({"model__norm_groups": 0}, "model.norm_groups is 0 but must be at least 1"),
        ({"max_skipped_in_a_row": 0}, "max_skipped_in_a_row is 0"),
        ({"optimizer__ema_decay": 2.0}, r"optimizer.ema_decay is 2.0 but must lie in \[0, 1\)"),
        ({"optimizer__clip_norm": -1.0}, "optimizer.clip_norm is -1.0 but must be at least 0"),
        ({"losses__l2": -1.0}, "losses.l2 is -1.0 but must be at least 0"),
        ({"quantizer__beta": -1.0}, "quantizer.beta is -1.0 but must be at least 0"),
        ({"quantizer__ema_decay": 1.0}, r"quantizer.ema_decay is 1.0 but must lie in \[0, 1\)"),
        ({"losses__l1": 0.0, "losses__l2": 0.0}, "losses.l1 and losses.l2 are 0 and no LPIPS is given"),
        ({"discriminator__layers": 0}, "discriminator.layers is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"eval_every": -1}, "eval_every is -1 but must be at least 0"),
        ({"dtype": "float8"}, "dtype is 'float8' but must be one of float32, bfloat16"),
        ({"quantizer__kind": "gumbel"}, "quantizer.kind is 'gumbel' but must be one of"),
        ({"discriminator__loss": "wgan"}, "discriminator.loss is 'wgan'"),
        ({"schedule__kind": "linear"}, "schedule's kind is 'linear'"),
        ({"schedule__warmup_fraction": 1.5}, "must lie in"),
        ({"losses__lpips_vgg": "a.pth"}, "LPIPS needs two files"),
        ({"data__size": 8}, "discriminator got a 8x8 picture but 3 layers need 24"),
        ({"data__source": "foldr:x"}, "foldr:x"),
        ({"data__source": "folder:/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_impossible_values_get_one_sentence(tmp_path, overrides, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        train.train(tiny_config(**overrides), tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_step_compiles_once(tmp_path, monkeypatch):
    compiled = []
    original = train.jit_step
    monkeypatch.setattr(train, "jit_step", lambda *a: compiled.append(original(*a)) or compiled[-1])
    train.train(tiny_config(), tmp_path / "run")
    assert compiled[0]._cache_size() == 1


@pytest.mark.slow
def test_a_step_is_dispatched_before_the_figures_of_the_one_before_are_read(tmp_path, monkeypatch):
    events = []
    original_compile, original_step = train.jit_step, train.Observer.step

    def recording_compile(*arguments):
        compiled = original_compile(*arguments)
        return lambda state, *rest: (events.append(f"dispatch {len(events)}"), compiled(state, *rest))[1]

    def recording_step(self, step, metrics):
        events.append(f"read {step}")
        original_step(self, step, metrics)

    monkeypatch.setattr(train, "jit_step", recording_compile)
    monkeypatch.setattr(train.Observer, "step", recording_step)
    train.train(tiny_config(steps=4, eval_every=4, checkpoint_every=4), tmp_path / "run")
    assert [event.split()[0] for event in events] == ["dispatch", *["dispatch", "read"] * 3, "read"]


@pytest.mark.slow
def test_a_vanilla_run_trains_too(tmp_path):
    config = tiny_config(steps=1, discriminator__enabled=False)
    recipes.vanilla(config)
    state = train.train(config, tmp_path / "vq")
    assert state.discriminator.params == {} and state.codebook == {}
    assert state.generator.params["quantizer"]["codebook"].shape == (96, 4)


@pytest.mark.slow
def test_bfloat16_accumulation_and_remat_run_together(tmp_path):
    config = tiny_config(steps=1, dtype="bfloat16", accumulate=2, model__remat=True, discriminator__width=2)
    state = train.train(config, tmp_path / "run")
    assert int(state.skipped) == 0
    assert {leaf.dtype for leaf in jax.tree.leaves(state.generator.params)} == {jnp.dtype("float32")}


def test_going_without_lpips_is_said_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        build.build_perceptual(tiny_config(losses__lpips=1.0))
        build.build_perceptual(tiny_config(losses__lpips=0.0))
    assert sum("without LPIPS" in record.message for record in caplog.records) == 1


def poisoned(original, steps):
    """The training stream with NaN pictures at some steps."""

    def batches(config, source, start, share):
        def stream():
            for step, batch in enumerate(original(config, source, start, share), start=start):
                image = batch["image"].astype(np.float32) / 127.5 - 1
                yield {"image": np.full_like(image, np.nan) if step in steps else image}

        return stream()

    return batches


@pytest.mark.slow
def test_a_batch_of_nan_is_skipped_counted_and_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "build_train_batches", poisoned(train.build_train_batches, {1}))
    state = train.train(tiny_config(discriminator__enabled=False), tmp_path / "run")
    assert int(state.skipped) == 1 and int(state.skipped_in_a_row) == 0 and int(state.step) == 4
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.generator))
    assert read_metrics(tmp_path / "run").numbers["train/skipped"][4] == 1


@pytest.mark.slow
def test_too_many_bad_steps_in_a_row_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "build_train_batches", poisoned(train.build_train_batches, range(1, 9)))
    config = tiny_config(max_skipped_in_a_row=3, discriminator__enabled=False)
    with pytest.raises(observer.Diverged, match="last 3 steps, to step 4"):
        train.train(config, tmp_path / "run")


@pytest.mark.slow
def test_an_evaluation_that_is_given_up_is_made_up_for(tmp_path, monkeypatch):
    """The run stops there, checkpointed; the resume evaluates first."""
    config, places = tiny_config(discriminator__enabled=False), []
    monkeypatch.setattr(StopRequest, "asked", lambda self: places.append(len(places)) or len(places) >= 5)
    state, whole = train.train_on(config, tmp_path / "run", 0)  # two batches at step 0, two steps, a batch at step 2
    assert int(state.step) == 2 and not has_evaluation(tmp_path / "run", 2) and not whole
    assert has_evaluation(tmp_path / "run", 0)
    monkeypatch.undo()
    for _ in range(2):
        train.train(config, tmp_path / "run")
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [steps.count(step) for step in range(5)] == [2, 1, 3, 1, 3]  # figures and W's spectrum, each once


@pytest.mark.slow
def test_a_run_is_whole_once_its_last_step_is_evaluated(tmp_path, monkeypatch):
    config, places = tiny_config(discriminator__enabled=False), []
    monkeypatch.setattr(StopRequest, "asked", lambda self: places.append(len(places)) or len(places) >= 9)
    state, whole = train.train_on(config, tmp_path / "run", 0)  # evaluations of two batches, and four steps between
    assert int(state.step) == config.steps and not has_evaluation(tmp_path / "run", config.steps) and not whole
    monkeypatch.undo()
    assert train.train_on(config, tmp_path / "run", 0).whole and has_evaluation(tmp_path / "run", config.steps)
    assert train.train_on(config, tmp_path / "run", 0).whole


class Spy:
    """A config that remembers which keys were read by name."""

    def __init__(self, config, read, prefix=""):
        self._config, self._read, self._prefix = config, read, prefix

    def __getattr__(self, name):
        value = getattr(self._config, name)
        if name in ("items", "keys", "to_dict"):
            return value
        key = self._prefix + name
        if hasattr(value, "items"):
            return Spy(value, self._read, f"{key}.")
        self._read.add(key)
        return value

    def __getitem__(self, name):
        return getattr(self, name)


@pytest.mark.slow
def test_every_key_is_read(tmp_path):
    """A key that nobody reads would look like a setting and be none."""
    from simvq_jax.cli import flatten

    read = set()
    simvq = tiny_config()
    train.train(Spy(simvq, read), tmp_path / "simvq")
    build.build_timeouts(Spy(simvq, read))
    for kind in QUANTIZERS:
        other = tiny_config(quantizer__kind=kind, quantizer__levels=(4, 4), quantizer__codebook_size=16)
        build.build_quantizer(Spy(other, read), jnp.float32)
    build.build_autoencoder(Spy(tiny_config(model__kind="vit", quantizer__stages=2), read))
    sound = Spy(tiny_sound_config(data__vary_loudness=True), read)
    make_scorer(sound, build.build_networks(sound).autoencoder, {}, make_mesh())
    build.build_objective(sound)
    first_examples(sound, 1)
    assert set(flatten(simvq)) - read == set()
