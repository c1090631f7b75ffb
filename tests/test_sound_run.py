"""Speech from training to a report, at toy size: figures, files, tokens of batches and streams, every mistake."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
import soundfile
from tiny_sound import tiny_sound_config

import simvq_jax
from simvq_jax import TokenSource, build, evaluate, reconstruct, report
from simvq_jax.api.loading import restored_state
from simvq_jax.extract_tokens import extract_tokens
from simvq_jax.metrics.sound import si_sdr, stoi
from simvq_jax.train import train

RATE, HOP, K = 8000, 40, 64


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "sound"
    train(tiny_sound_config(), folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(run):
    return simvq_jax.load(run)


@pytest.fixture(scope="module")
def evaluation(run):
    return evaluate.evaluate_run(run)


def sound(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


# Training


@pytest.mark.slow
def test_a_run_logs_the_losses_of_sound(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if "train/loss" in row)
    for name in ("mel", "adversarial_period", "adversarial_dac", "features_resolution", "discriminator_dac"):
        assert np.isfinite(last[f"train/{name}"]), name
    weights = [row["train/adversarial_weight"] for row in rows if "train/loss" in row]
    assert weights[:2] == [0, 0] and min(weights[2:]) > 0
    assert {0, 2, 4} == {row["step"] for row in rows if "eval/mel_distance" in row}


@pytest.mark.slow
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(run, tmp_path):
    """Muon's momentum included, which kernels alone have."""
    train(tiny_sound_config(), tmp_path / "run", stop_at=2)
    train(tiny_sound_config(), tmp_path / "run")
    resumed, alone = (restored_state(folder).state for folder in (tmp_path / "run", run))
    jax.tree.map(np.testing.assert_array_equal, resumed, alone)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_with_a_nan_is_skipped_and_training_goes_on(dtype):
    config = tiny_sound_config(dtype=dtype, discriminator__start=0)
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    clips = np.stack([sound(640, seed) for seed in range(8)])
    state = build.build_state(config, networks, optimizers, jax.random.key(0), clips)
    step = jax.jit(build.build_train_step(config, networks, optimizers))
    broken = clips.copy()
    broken[3, 100] = np.nan
    after, figures = step(state, broken, {})
    expected = replace(state, step=jnp.int32(1), skipped=jnp.int32(1), skipped_in_a_row=jnp.int32(1))
    jax.tree.map(np.testing.assert_array_equal, after, expected)
    assert figures["train/skipped"] == 1
    later, figures = step(after, clips, {})
    assert later.skipped_in_a_row == 0 and np.isfinite(figures["train/loss"])
    assert any(
        (a != b).any() for a, b in zip(*(jax.tree.leaves(s.generator.params) for s in (after, later)), strict=True)
    )


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("data__clip_seconds", 0.05, "400 samples, but losses and discriminators look at spectra of 1024"),
        ("discriminator__adaptive", True, "discriminator.adaptive is True"),
        ("losses__mel", 0.0, "losses.mel and losses.multiscale_mel are 0"),
        ("discriminator__periods", (), r"discriminator.periods is \(\) but must be 1 or more whole numbers"),
        ("discriminator__resolutions", (0,), r"discriminator.resolutions is \(0,\) but must be"),
        ("discriminator__share", 0.0, "discriminator.share is 0.0 but must be above 0"),
        ("data__max_seconds", 0.0, "data.max_seconds is 0.0 but must be finite and above 0"),
        ("schedule__discriminator_kind", "cosine", "schedule.discriminator_kind is 'cosine' but must be one of"),
        ("model__ratios", (1, 1), "multiply to 2 samples a token or more"),
        ("data__source", "photos", "of images, but the model takes sounds"),
    ],
)
def test_a_config_that_cannot_be_is_told_by_its_key(key, value, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        train(tiny_sound_config(**{key: value}), tmp_path / "run")


# Evaluation


@pytest.mark.slow
def test_every_held_out_recording_has_a_row(run, evaluation):
    assert len(evaluation.rows) == 17 == evaluation.metrics["eval/recordings"]
    evaluate.save_figures(run, "speech", evaluation)
    rows = list(csv.DictReader((run / "evaluation_files.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == sorted(evaluation.rows)
    assert {row["file"].split("/")[0] for row in rows} == {"held_out_sentences", "held_out_voices"}
    for name in ("mel_distance", "stoi", "si_sdr", "vuv_f1_pyin", "periodicity_error_pyin"):
        mean = np.mean([float(row[name]) for row in rows])
        assert evaluation.metrics[f"eval/{name}"] == pytest.approx(mean, rel=1e-4), name


@pytest.mark.slow
def test_figures_are_those_of_each_recording_by_itself(tokenizer, evaluation):
    """Batches are filled up in time and in rows; that must not show."""
    from simvq_jax.data import sounds
    from simvq_jax.data.sources import SPEECH
    from simvq_jax.losses.sound import mel_loss

    key = min(evaluation.rows)
    x = sounds.decode_sound(SPEECH / key, RATE, 60)
    y = np.asarray(tokenizer.reconstruct(x[None])[0])
    row = evaluation.rows[key]
    assert row["seconds"] == pytest.approx(len(x) / RATE)
    assert row["mel_distance"] == pytest.approx(float(mel_loss(y[None], x[None], RATE)), rel=1e-4)
    assert row["stoi"] == pytest.approx(stoi(y, x, RATE), abs=1e-3)
    assert row["si_sdr"] == pytest.approx(si_sdr(y, x), abs=1e-2)


@pytest.mark.slow
def test_tokens_are_counted_once(evaluation):
    tokens = sum(int(np.ceil(round(row["seconds"] * RATE) / HOP)) for row in evaluation.rows.values())
    assert evaluation.counts.sum() == tokens == evaluation.metrics["eval/tokens"]
    assert evaluation.metrics["eval/bits_per_second"] == 6 * RATE / HOP


@pytest.mark.slow
def test_a_folder_is_evaluated_and_what_cannot_be_read_is_listed(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (tmp_path / "data/val").mkdir(parents=True)
    (tmp_path / "data/train").mkdir()
    soundfile.write(tmp_path / "data/train/a.wav", sound(9000), 44_100)
    soundfile.write(tmp_path / "data/val/one.wav", sound(1), RATE)
    soundfile.write(tmp_path / "data/val/silent.flac", np.zeros(4000), RATE)
    (tmp_path / "data/val/text.wav").write_text("hello")
    result = evaluate.evaluate_run(copy, f"folder:{tmp_path / 'data'}")
    assert set(result.rows) == {"val/one.wav", "val/silent.flac"}
    assert np.isfinite(result.metrics["eval/mel_distance"])
    assert np.isnan(result.rows["val/silent.flac"]["stoi"]) and "eval/stoi" not in result.metrics
    assert np.isnan(result.rows["val/silent.flac"]["si_sdr"])
    assert "val/text.wav" in (copy / "skipped_files.txt").read_text()


@pytest.mark.slow
def test_two_processes_evaluate_as_one(run, evaluation, tmp_path):
    """Each reads its own recordings; the last batches have rows of one process alone."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    processes.run("-m", "simvq_jax.report", f"--run={copy}", processes=2, devices=2)
    figures = json.loads((copy / "evaluation.json").read_text())
    for name in evaluation.metrics.keys() - {"eval/transform_effective_rank"}:
        assert figures[name] == pytest.approx(evaluation.metrics[name], rel=1e-4), name
    rows = {row["file"]: row for row in csv.DictReader((copy / "evaluation_files.csv").read_text().splitlines())}
    assert rows.keys() == evaluation.rows.keys()
    for key, row in evaluation.rows.items():
        assert float(rows[key]["mel_distance"]) == pytest.approx(row["mel_distance"], rel=1e-4)
    assert "<audio" in (copy / "report.html").read_text()


@pytest.mark.slow
def test_the_report_has_players_and_spectra(run, evaluation):
    page = report.write_report(run, evaluation).read_text()
    assert page.count("<audio controls") == 2 * report.SOUNDS_SHOWN
    assert page.count('alt="mel spectrogram') == 2 * report.SOUNDS_SHOWN and "STOI" in page


# The tokenizer


@pytest.mark.slow
def test_tokens_of_any_length_and_sound_of_as_many(tokenizer):
    for samples in (1, 39, 40, 41, 1234):
        x = sound((2, samples))
        indices = tokenizer.encode(x, sample_rate=RATE)
        assert indices.shape == (2, -(-samples // HOP)) and indices.dtype == jnp.int32
        assert tokenizer.decode(indices).shape == (2, HOP * indices.shape[1])
        assert tokenizer.reconstruct(x).shape == x.shape
        assert tokenizer.latents(x).shape == (*indices.shape, 4)


@pytest.mark.slow
def test_unequal_lengths_give_what_each_gives_alone(tokenizer):
    x, lengths = sound((3, 900)), np.array([900, 333, 7])
    indices = np.asarray(tokenizer.encode(x, lengths))
    decoded, reconstructed = tokenizer.decode(indices), tokenizer.reconstruct(x, lengths)
    for item, length in enumerate(lengths):
        tokens = -(-length // HOP)
        alone = tokenizer.encode(x[item : item + 1, :length])
        np.testing.assert_array_equal(indices[item, :tokens], alone[0])
        assert (indices[item, tokens:] == -1).all()
        np.testing.assert_allclose(decoded[item, : HOP * tokens], tokenizer.decode(alone)[0], atol=1e-5)
        assert not np.any(decoded[item, HOP * tokens :]) and not np.any(reconstructed[item, length:])


@pytest.mark.parametrize("block", [1, 16])
@pytest.mark.parametrize("chunks", [[3001], [1] * 500 + [2501], [333] * 9 + [4], [200], []])
@pytest.mark.slow
def test_a_stream_gives_the_tokens_of_the_whole(tokenizer, block, chunks):
    x = sound(sum(chunks), seed=1)
    stream, place, found = tokenizer.stream(block), 0, []
    for size in chunks:
        found.append(stream.push(x[place : place + size]))
        place += size
        assert len(stream._pending) <= max(block, 20) * HOP and len(stream._before) <= 20 * HOP  # bounded
    found.append(stream.finish())
    expected = np.asarray(tokenizer.encode(x[None]))[0] if len(x) else np.zeros((0,), np.int32)
    np.testing.assert_array_equal(np.concatenate(found), expected)


@pytest.mark.slow
def test_tokens_of_several_stages_stream_and_are_whole_or_none():
    config = tiny_sound_config(quantizer__stages=2)
    autoencoder = build.build_autoencoder(config)
    rngs = {"params": jax.random.key(0), "quantizer": jax.random.key(1)}
    variables = jax.jit(autoencoder.init)(rngs, sound(build.example_shape(config)[0])[None])
    tokenizer = simvq_jax.SoundTokenizer(autoencoder, variables, config, 0)
    x, stream = sound(900), tokenizer.stream(block=4)
    indices = np.concatenate([stream.push(x[:500]), stream.push(x[500:]), stream.finish()])
    np.testing.assert_array_equal(indices, tokenizer.encode(x[None])[0])
    indices[-1, 1] = -1
    with pytest.raises(ValueError, match="a token is -1 in some stages but not in others"):
        tokenizer.decode(indices[None])


@pytest.mark.slow
def test_a_stream_answers_before_the_sound_ends(tokenizer):
    stream = tokenizer.stream(block=1)
    assert len(stream.push(sound(2000))) >= 2000 // HOP - 1
    stream.finish()
    with pytest.raises(ValueError, match="the stream is finished"):
        stream.push(sound(10))
    with pytest.raises(ValueError, match="block is 0"):
        tokenizer.stream(0)
    with pytest.raises(ValueError, match="trained at 8000: resample it"):
        tokenizer.stream(sample_rate=16_000)
    with pytest.raises(ValueError, match="finite floats"):
        tokenizer.stream().push(np.array([np.nan], np.float32))
    with pytest.raises(ValueError, match="a chunk has a peak of 32000 but floats must lie"):
        tokenizer.stream().push(np.array([0, -32_000], np.float32))


@pytest.mark.slow
def test_the_readme_s_example_runs(tokenizer):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "encode(sound)" in code]
    names = {"tokenizer": tokenizer, "sound": sound((2, 100)), "lengths": np.array([100, 50])}
    exec(code, names)
    assert (names["indices"][1, 2:] == -1).all() and names["stream"].push(sound(1000)).size


def test_an_encoder_that_looks_ahead_cannot_stream():
    config = tiny_sound_config(model__causal=False)
    tokenizer = simvq_jax.api.SoundTokenizer(build.build_autoencoder(config), {}, config, 0)
    with pytest.raises(ValueError, match=r"model.causal is False"):
        tokenizer.stream()


@pytest.mark.parametrize(
    ("x", "more", "sentence"),
    [
        (sound(10), {}, r"shape \(10,\) but must be \(batch, samples\)"),
        (sound((1, 0)), {}, "neither of them 0"),
        (np.zeros((1, 10), np.int16), {}, "int16 but must be floats"),
        (np.full((1, 10), np.nan, np.float32), {}, "not finite"),
        (np.full((1, 10), 3e4, np.float32), {}, r"a peak of 30000 but floats must lie in \[-1, 1\]"),
        (sound((1, 10)), {"sample_rate": 44_100}, "44100 samples a second but this tokenizer was trained at 8000"),
        (sound((2, 10)), {"lengths": [10, 11]}, r"lie in \[10, 11\] but must lie in \[1, 10\]"),
        (sound((2, 10)), {"lengths": [10]}, r"must be whole numbers \(2,\)"),
    ],
)
@pytest.mark.slow
def test_sound_that_cannot_be_encoded_is_told_why(tokenizer, x, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        tokenizer.encode(x, **more)


@pytest.mark.parametrize(
    ("indices", "sentence"),
    [
        ([[0, K]], r"lie in \[0, 64\]"),
        ([[-1, 0]], "only stand behind"),
        ([[-1, -1]], "only stand behind"),
        ([0, 1], r"must be whole numbers \(b, tokens\)"),
        ([[0.5]], "whole numbers"),
    ],
)
@pytest.mark.slow
def test_indices_that_cannot_be_decoded_are_told_why(tokenizer, indices, sentence):
    with pytest.raises(ValueError, match=sentence):
        tokenizer.decode(np.array(indices))


@pytest.mark.slow
def test_a_folder_is_reconstructed(run, tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    soundfile.write(tmp_path / "in/deep/stereo.wav", sound((4410, 2)), 44_100)
    (tmp_path / "in/broken.flac").write_bytes(b"fLaC")
    reconstruct.main(str(run), str(tmp_path / "in"), str(tmp_path / "out"), 100, 60.0)
    made, rate = soundfile.read(tmp_path / "out/deep/stereo.flac")
    assert rate == RATE and made.shape == (800,)
    assert "broken.flac" in (tmp_path / "out/skipped_files.txt").read_text()
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["skipped_files.txt", "stereo.flac"]


@pytest.mark.slow
def test_tokens_of_a_folder_are_those_of_each_recording_and_decode_to_its_sound(run, tokenizer, tmp_path):
    """Lengths that a batch fills up differently, and a file that cannot be read."""
    (tmp_path / "in").mkdir()
    sounds = {f"{n}.wav": sound(n, seed=n) for n in (700, 1500, 40, 9000)}
    for name, samples in sounds.items():
        soundfile.write(tmp_path / "in" / name, samples, RATE, subtype="FLOAT")
    (tmp_path / "in/broken.flac").write_bytes(b"fLaC")
    out = tmp_path / "tokens"
    done = extract_tokens(tokenizer, out, data=f"folder:{tmp_path / 'in'}", batch_size=2)
    assert done.records == 4 and list(done.skipped.reasons) == ["broken.flac"]
    source = TokenSource(out)
    assert [source[i]["key"] for i in range(4)] == sorted(sounds)
    for record in (source[i] for i in range(4)):
        samples = sounds[record["key"]]
        assert record["samples"] == len(samples) and record["tokens"].dtype == np.uint16
        np.testing.assert_array_equal(record["tokens"], tokenizer.encode(samples[None])[0])
    reconstruct.main(str(run), str(out), str(tmp_path / "decoded"), 100, 60.0)
    made, rate = soundfile.read(tmp_path / "decoded/700.wav.flac")
    assert rate == RATE
    np.testing.assert_allclose(made, np.clip(tokenizer.reconstruct(sounds["700.wav"][None])[0], -1, 1), atol=1e-4)
