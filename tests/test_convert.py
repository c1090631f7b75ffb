"""Official checkpoints into run folders and out again: the official outputs, faults, and nothing run or lost."""

import json
import lzma
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import detrand
import jax
import numpy as np
import pytest
from reference_pictures import nhwc, quick_jit

import simvq_jax
from simvq_jax import convert
from simvq_jax.api import restored_state
from simvq_jax.models.pretrained.raw import WeightFileError
from simvq_jax.models.pretrained.safetensors import write_safetensors
from simvq_jax.models.pretrained.weights import read_weights

TRAIN_ON = {
    "data.source": "photos",
    "data.size": 16,
    "data.resize_short": 0,
    "batch_size": 16,
    "data.eval_batch_size": 16,
    "data.eval_limit": 16,
    "losses.lpips": 0.0,
    "steps": 2,
    "log_every": 1,
    "eval_every": 2,
}


@pytest.fixture(scope="module")
def lightning(fixtures: Path, tmp_path_factory) -> Path:
    """A file that Lightning's trainer saved after two official steps."""
    path = tmp_path_factory.mktemp("official") / "last.ckpt"
    with lzma.open(fixtures / "A_image_tiny_lightning.ckpt.xz") as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return path


@pytest.fixture(scope="module")
def run(lightning, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "run"
    convert.convert(lightning, out, overrides=TRAIN_ON)
    return out


@pytest.fixture(scope="module")
def reference(fixtures: Path) -> dict[str, np.ndarray]:
    with np.load(fixtures / "A_image_tiny_lightning_eval.npz") as stored:
        return dict(stored)


def forward(tokenizer, x):
    return quick_jit(tokenizer.autoencoder.apply)(tokenizer.variables, x)


@pytest.mark.parametrize(("weights", "suffix"), [("ema", "_ema"), ("raw", "")])
@pytest.mark.slow
def test_a_lightning_checkpoint_gives_the_official_outputs(lightning, run, reference, tmp_path, weights, suffix):
    if weights == "raw":
        run = tmp_path / "raw"
        convert.convert(lightning, run, weights="raw", overrides=TRAIN_ON)
    tokenizer = simvq_jax.load(run)
    out = forward(tokenizer, nhwc(reference["x"]))
    np.testing.assert_allclose(out.latents, nhwc(reference[f"h{suffix}"]), atol=6e-6)
    np.testing.assert_array_equal(out.quantized.indices.ravel(), reference[f"indices{suffix}"])
    np.testing.assert_allclose(out.quantized.z_q, nhwc(reference[f"z_q{suffix}"]), atol=1e-6)
    np.testing.assert_allclose(out.quantized.loss, reference[f"commit{suffix}"], rtol=1e-5)
    np.testing.assert_allclose(out.reconstruction, nhwc(reference[f"rec{suffix}"]), atol=4e-6)
    np.testing.assert_array_equal(tokenizer.encode(nhwc(reference["x"])).ravel(), reference[f"indices{suffix}"])


@pytest.mark.slow
def test_a_run_trains_on_from_the_plain_weights_and_the_average(run, lightning, tmp_path):
    """By `train --workdir` alone: the run brings its config."""
    from simvq_jax import cli, train

    copy = shutil.copytree(run, tmp_path / "run")
    before = restored_state(copy).state
    stored = read_weights(lightning, "state_dict")
    np.testing.assert_array_equal(
        before.generator.params["decoder"]["conv_out"]["bias"], stored["decoder.conv_out.bias"]
    )
    np.testing.assert_array_equal(before.ema["decoder"]["conv_out"]["bias"], stored["model_ema.decoderconv_outbias"])
    main = stored["loss.discriminator.main.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(before.discriminator.params["conv0"]["kernel"], main)
    train.main(cli.Chosen(None, {"checkpoint_every": 1}), str(copy), 0)
    after = restored_state(copy).state
    assert int(after.step) == 2 and int(after.skipped) == 0
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before.generator.params, after.generator.params)
    assert all(jax.tree.leaves(moved))
    np.testing.assert_array_equal(before.codebook["quantizer"]["basis"], after.codebook["quantizer"]["basis"])


@pytest.mark.parametrize("weights", ["ema", "raw"])
@pytest.mark.slow
def test_a_run_goes_out_under_the_official_names_and_comes_back(run, lightning, tmp_path, weights):
    file = tmp_path / "out.safetensors"
    stored, written = read_weights(lightning, "state_dict"), convert.export(run, file, weights)
    tensors = read_weights(file)
    assert written == len(tensors) == 61
    for name, array in tensors.items():
        averaged = weights == "ema" and not name.startswith("loss.") and name != "quantize.embedding.weight"
        expected = stored["model_ema." + name.replace(".", "") if averaged else name]
        np.testing.assert_array_equal(array, expected, err_msg=name)
    back = convert.convert(file, tmp_path / "back")
    assert back.official.average == {}
    for name, array in back.official.weights.items():
        np.testing.assert_array_equal(array, tensors[name])


@pytest.mark.slow
def test_a_speech_checkpoint_gives_the_official_outputs(fixtures, tmp_path):
    described = json.loads((fixtures / "B_audio_small_keys.json").read_text())
    left_out = tuple(described["not_in_ckpt_prefixes"])
    tensors = {
        name: detrand.weight_for_key(*tag_and_name(name, described), tuple(shape), described["gains"])
        for name, (shape, dtype) in described["state_dict"].items()
        if not name.startswith(left_out) and dtype == "float32" and "window" not in name and "mel_scale" not in name
    }
    write_safetensors(tmp_path / "speech.safetensors", tensors, {})
    convert.convert(tmp_path / "speech.safetensors", tmp_path / "run")
    tokenizer = simvq_jax.load(tmp_path / "run")
    for samples in (24_000, 1000):
        with np.load(fixtures / f"B_audio_small_eval_T{samples}.npz") as official:
            x = official["x"][:, 0]
            out = quick_jit(tokenizer.autoencoder.apply)(tokenizer.variables, x)
            np.testing.assert_allclose(out.latents, official["h_ema"].transpose(0, 2, 1), atol=6e-6)
            np.testing.assert_array_equal(tokenizer.encode(x).ravel(), official["indices_ema"].ravel())
            sound = tokenizer.decode(tokenizer.encode(x))
            np.testing.assert_allclose(sound, official["y_ema"][:, 0], atol=1e-5)


def tag_and_name(name: str, described: dict) -> tuple[str, str]:
    """The reference formula names an average by the parameter's own name."""
    if name.startswith("model_ema."):
        plain = {"model_ema." + key.replace(".", ""): key for key in described["state_dict"]}
        return "B.ema", plain.get(name, name)
    return ("B.ema" if name == "quantize.embedding.weight" else "B.main"), name


class Trap:
    """Runs a command when an ordinary unpickler meets it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(tmp_path):
    sprung, file = tmp_path / "sprung", tmp_path / "evil.ckpt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": {"a": Trap(sprung)}}))
        archive.writestr("archive/version", "3")
    with pytest.raises(WeightFileError, match=r"evil\.ckpt names the pickle global posix\.system"):
        convert.convert(file, tmp_path / "run")
    assert not sprung.exists() and not (tmp_path / "run").exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists(), "the trap itself is sound"


def test_a_truncated_file_is_refused_and_nothing_is_left(lightning, tmp_path):
    file = tmp_path / "short.ckpt"
    file.write_bytes(lightning.read_bytes()[:20_000_000])
    with pytest.raises(WeightFileError, match=r"short\.ckpt is truncated or corrupt"):
        convert.convert(file, tmp_path / "run")
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_folder_in_use_stays_as_it_is(lightning, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is in use: give another --out"):
        convert.convert(lightning, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_failure_while_writing_leaves_no_folder(lightning, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(convert, "replace_text", full)
    with pytest.raises(OSError, match="No space left"):
        convert.convert(lightning, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_record_says_what_was_converted(run, lightning):
    record = json.loads((run / "conversion.json").read_text())
    assert record["checkpoint"] == "last.ckpt" and record["modality"] == "image" and record["weights"] == "ema"
    assert len(record["sha256"]) == 64 and record["left_out"]["LPIPS, read from its own two files"] == 33


def test_the_command_line_prints_what_it_read(lightning, tmp_path, capsys):
    from simvq_jax.cli import Chosen

    convert.main(str(lightning), "", str(tmp_path / "run"), "", "ema", Chosen(None, {}))
    printed = capsys.readouterr().out
    assert "image tokenizer of 165,372 numbers" in printed and "quantizer.codebook_size = 64" in printed
    assert "33 tensors are left out: LPIPS" in printed
    convert.main("", str(tmp_path / "run"), str(tmp_path / "out.safetensors"), "", "ema", Chosen(None, {}))
    assert "61 tensors, load them with strict=False" in capsys.readouterr().out
    for checkpoint, of_run in (("", ""), ("a", "b")):
        with pytest.raises(ValueError, match="not both"):
            convert.main(checkpoint, of_run, "x", "", "ema", Chosen(None, {}))
    with pytest.raises(ValueError, match=r"written as \.safetensors"):
        convert.export(tmp_path / "run", tmp_path / "out.pth")
    with pytest.raises(ValueError, match="must be one of ema, raw"):
        convert.export(tmp_path / "run", tmp_path / "out.safetensors", "both")
    with pytest.raises(FileExistsError, match="is there already: give another --out"):
        convert.export(tmp_path / "run", tmp_path / "out.safetensors")
    for modality, config in (("speech", Chosen(None, {})), ("", Chosen(None, {"model.width": 7}))):
        with pytest.raises(ValueError, match="--modality and --config are of official checkpoints"):
            convert.main("", str(tmp_path / "run"), str(tmp_path / "b.safetensors"), modality, "ema", config)
