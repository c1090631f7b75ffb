"""Evaluation of a run: global counts, honest means, and what evaluation.json holds."""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from simvq_jax import api, evaluate
from simvq_jax.data.images import to_uint8
from simvq_jax.metrics.frechet import Moments, frechet_distance, preprocessed
from simvq_jax.metrics.image import official_square_error, official_ssim, psnr, ssim
from simvq_jax.models.tokenizer import as_float
from simvq_jax.scoring import evaluation

SIZE, F, K, D = 24, 4, 96, 4
TOKENS = (SIZE // F) ** 2


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory) -> Path:
    """A copy of the run, to write into."""
    copy = tmp_path_factory.mktemp("evaluated") / "tiny"
    shutil.copytree(trained_run, copy)
    return copy


@pytest.fixture(scope="module")
def tokenizer(run):
    return api.load(run)


@pytest.fixture(scope="module")
def result(run):
    return evaluate.evaluate_run(run)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """(folder, pixels): 19 held-out pictures of just one crop, which fill no whole number of batches of 16."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (19, SIZE, SIZE, 3), np.uint8)
    pixels[:9] //= 4  # some darker, so that their figures differ
    for split, chosen in (("train", pixels[:1]), ("val", pixels)):
        (folder / split).mkdir()
        for number, picture in enumerate(chosen):
            Image.fromarray(picture).save(folder / split / f"{number:02}.png")
    return folder, pixels


@pytest.fixture(scope="module")
def of_folder(run, pictures):
    return evaluate.evaluate_run(run, f"folder:{pictures[0]}")


def test_counts_are_of_every_token_once(result):
    """Three crops of each of eight photographs."""
    assert result.metrics["eval/pictures"] == 24
    assert result.counts.shape == (K,) and result.counts.dtype == np.int64
    assert result.counts.sum() == 24 * TOKENS == result.metrics["eval/tokens"]


def test_utilization_and_perplexity_follow_from_the_counts(result):
    share = result.counts[result.counts > 0] / result.counts.sum()
    assert result.metrics["eval/codebook_utilization"] == pytest.approx(np.mean(result.counts > 0))
    assert result.metrics["eval/codebook_perplexity"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)


def test_the_codebook_and_its_spectrum_are_the_tokenizer_s(tokenizer, result):
    codes = np.asarray(tokenizer.codebook())
    np.testing.assert_allclose(result.codes, codes, rtol=1e-5, atol=1e-6)
    kernel = np.asarray(tokenizer.variables["params"]["quantizer"]["transform"]["kernel"])
    np.testing.assert_allclose(result.singular_values, np.linalg.svd(kernel, compute_uv=False), rtol=1e-4)
    scale = np.sqrt((codes.astype(np.float64) ** 2).sum(-1).mean())
    assert result.metrics["eval/code_scale"] == pytest.approx(scale, rel=1e-5)
    assert 1 <= result.metrics["eval/transform_effective_rank"] <= D


def test_means_over_a_padded_last_batch_are_those_of_the_pictures_one_by_one(tokenizer, pictures, of_folder):
    """Every picture counts alike, and blanks that fill up a batch count for nothing."""
    pixels = pictures[1]
    x, y = as_float(pixels), np.clip(tokenizer.reconstruct(pixels), -1, 1)
    single = jax.jit(psnr)
    latents, indices = tokenizer.latents(pixels), tokenizer.encode(pixels)
    gap = np.asarray(latents) - np.asarray(tokenizer.codebook())[np.asarray(indices)]
    expected = {
        "psnr": np.mean([single(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]),
        "ssim": np.mean(jax.jit(ssim)(x, y)),
        "l1": np.mean(np.abs(x - y)),
        "l2": np.mean((x - y) ** 2),
        "commitment": np.mean(gap**2),
        "token_scale": np.sqrt(np.mean(np.sum(np.asarray(latents) ** 2, -1))),
        "pictures": 57,  # each three times, as its three crops are one and the same
    }
    for name, value in expected.items():
        np.testing.assert_allclose(of_folder.metrics[f"eval/{name}"], value, rtol=2e-4, err_msg=name)
    np.testing.assert_array_equal(of_folder.counts, 3 * np.bincount(np.ravel(indices), minlength=K))


def test_pictures_for_the_report_are_spread_over_the_set_and_stand_by_their_reconstructions(
    tokenizer, pictures, of_folder
):
    originals, reconstructions = np.stack(of_folder.originals), np.stack(of_folder.reconstructions)
    same = (originals[:, None] == pictures[1][None]).all(axis=(2, 3, 4))
    shown = same.argmax(axis=1)
    assert same.any(axis=1).all() and len(shown) <= evaluation.KEPT
    assert shown.min() < 6 and shown.max() == 18 and len(set(shown)) > 8
    expected = to_uint8(np.asarray(tokenizer.reconstruct(pictures[1])))[shown].astype(int)
    assert reconstructions.dtype == np.uint8
    assert np.abs(reconstructions.astype(int) - expected).max() <= 1


def test_tokens_for_the_report_are_encoder_outputs(tokenizer, pictures, of_folder):
    """Of many different ones, each equal to some latent of the set."""
    latents = np.reshape(tokenizer.latents(pictures[1]), (-1, D))
    assert 100 < len(of_folder.tokens) <= evaluation.TOKENS and of_folder.tokens.shape[1] == D
    gaps = np.abs(of_folder.tokens[:, None] - latents[None]).max(axis=-1)
    assert gaps.min(axis=1).max() < 1e-4
    assert len(set(gaps.argmin(axis=1))) > 100


def test_a_limit_spreads_over_the_set(run, pictures):
    limited = evaluate.evaluate_run(run, f"folder:{pictures[0]}", limit=19)
    assert limited.metrics["eval/pictures"] == 19
    latest = (limited.originals[-1] == pictures[1]).all(axis=(1, 2, 3)).argmax()
    assert latest == 18


def test_an_unreadable_picture_is_left_out_and_listed(run, pictures, tmp_path, capsys):
    folder = tmp_path / "some"
    shutil.copytree(pictures[0], folder)
    (folder / "val/00.png").write_text("no picture")
    result = evaluate.evaluate_run(run, f"folder:{folder}")
    assert " 57/57 " in capsys.readouterr().err.splitlines()[-1]
    assert result.metrics["eval/pictures"] == 54 and result.counts.sum() == 54 * TOKENS
    assert "00.png" in (run / "skipped_files.txt").read_text()
    (run / "skipped_files.txt").unlink()
    evaluate.main(str(run), f"folder:{folder}", limit=0, out=str(tmp_path / "out"))
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"evaluation.json", "skipped_files.txt"} and not (run / "skipped_files.txt").exists()


@pytest.mark.parametrize(
    ("data", "limit", "sentence"),
    [("folder:/no/such", 0, "/no/such"), ("fotos", 0, "'fotos' is unknown; give photos"), ("photos", -1, "-1")],
)
def test_data_that_is_none_gets_one_sentence(run, data, limit, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        evaluate.evaluate_run(run, data, limit)


def test_the_provenance_says_what_is_needed_to_repeat_it(run, tokenizer, of_folder, tmp_path):
    found = of_folder.provenance
    assert (found["split"], found["limit"], found["batch_size"], found["devices"]) == ("eval", 0, 16, "8 x cpu")
    assert found["step"] == 4 and found["model_sha256"] == tokenizer.fingerprint(decoder=True)
    assert found["data_identity"].startswith("folder of 19 images, sha256 ")
    assert found["preprocessing"] == "3 crop(s) of 24 x 24 a picture, at its own resolution"
    assert found["largest_file"] == "178,956,970 pixels"
    assert {"python", "jax", "flax", "numpy", "simvq_jax"} <= found["versions"].keys()
    assert found["weight_files"] == {}


def test_official_figures_stand_beside_ours(tokenizer, pictures, of_folder):
    """The official PSNR is of whole batches, here of 16, 16, 16 and 9 crops."""
    pixels = np.repeat(pictures[1], 3, axis=0)
    x, y = jnp.asarray(pixels), jnp.clip(tokenizer.reconstruct(pixels), -1, 1)
    errors = np.asarray(official_square_error(x, y))
    batches = [errors[i : i + 16].mean() for i in range(0, 57, 16)]
    np.testing.assert_allclose(of_folder.metrics["eval/psnr_official"], -10 * np.log10(batches).mean(), rtol=1e-4)
    np.testing.assert_allclose(of_folder.metrics["eval/ssim_official"], np.mean(official_ssim(x, y)), atol=1e-4)


@pytest.mark.slow
def test_frechet_distances_are_of_the_whole_set(run, tokenizer, pictures, monkeypatch, caplog):
    """With a network of two numbers a picture in Inception's place."""

    def two_numbers(params, x, variant):
        x = preprocessed(x, variant)
        return params * jnp.stack([jnp.mean(x, axis=(1, 2, 3)), jnp.mean(x**2, axis=(1, 2, 3))], axis=-1)

    monkeypatch.setattr(evaluation, "build_scoring_nets", lambda config: {"inception": jnp.float32(2.0)})
    monkeypatch.setattr("simvq_jax.scoring.pictures.inception_features", two_numbers)
    metrics = evaluate.evaluate_run(run, f"folder:{pictures[0]}", limit=19).metrics
    pixels = pictures[1]
    for name in ("rfid", "rfid_float"):
        totals = []
        for x in (as_float(pixels), np.clip(tokenizer.reconstruct(pixels), -1, 1)):
            totals.append(Moments(2))
            totals[-1].add(np.asarray(two_numbers(2.0, x, name)))
        np.testing.assert_allclose(metrics[f"eval/{name}"], frechet_distance(*totals), rtol=1e-3, err_msg=name)
    assert "rFID is of 19 pictures" in caplog.text


def test_weights_that_score_sound_are_refused_for_pictures(run):
    with pytest.raises(ValueError, match="is a tokenizer of pictures but crepe is of sound: leave it out"):
        evaluate.evaluate_run(run, crepe="full.pth")
    with pytest.raises(ValueError, match="inceptoin names no file of weights: give one of lpips_vgg, "):
        evaluate.evaluate_run(run, inceptoin="inception.pth")


def test_a_file_that_only_the_config_names_may_be_elsewhere(run, caplog):
    """As after copying a run to another machine; one that a flag names must be there."""
    copy = Path(str(run) + "_moved")
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["losses"] |= {"lpips_vgg": "/gone/vgg16.pth", "lpips_linear": "/gone/vgg.pth"}
    (copy / "config.json").write_text(json.dumps(config))
    metrics = evaluate.evaluate_run(copy, limit=3).metrics
    assert "eval/psnr" in metrics and "eval/lpips" not in metrics
    assert "/gone/vgg16.pth of the run is not here: going on without it (give --lpips_vgg)" in caplog.text
    assert "metrics.inception is '': going on without rFID" in caplog.text
    (copy / "here.pth").touch()
    config["losses"]["lpips_linear"] = str(copy / "here.pth")  # of no use without the other
    (copy / "config.json").write_text(json.dumps(config))
    assert "eval/lpips" not in evaluate.evaluate_run(copy, limit=3).metrics
    with pytest.raises(FileNotFoundError, match=r"There is no weight file /gone/inception\.pth"):
        evaluate.evaluate_run(copy, limit=3, inception="/gone/inception.pth")


def test_a_set_without_a_readable_picture_is_refused(run, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"none of the 3 crops of .*, split eval, can be read"):
        evaluate.evaluate_run(run, f"folder:{tmp_path}")


def test_the_command_prints_and_writes_every_figure_and_its_data(run, pictures, of_folder, capsys):
    evaluate.main(str(run), f"folder:{pictures[0]}", 0)
    written = json.loads((run / "evaluation.json").read_text())
    assert written.pop("data") == f"folder:{pictures[0]}"
    assert written.pop("provenance") == json.loads(json.dumps(of_folder.provenance))
    assert written == pytest.approx(of_folder.metrics, abs=1e-6)
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert {name: float(value) for name, value in printed.items()} == pytest.approx(written, rel=1e-5, abs=1e-6)


def test_all_of_a_folder_can_be_evaluated_not_only_what_is_held_out(run, tmp_path):
    for i in range(21):
        Image.new("RGB", (24, 24), (10 * i, 0, 0)).save(tmp_path / f"{i:02}.png")
    parts = {split: evaluate.evaluate_run(run, f"folder:{tmp_path}", split=split) for split in ("eval", "all")}
    assert {split: part.provenance["split"] for split, part in parts.items()} == {"eval": "eval", "all": "all"}
    assert [part.metrics["eval/pictures"] for part in parts.values()] == [3 * 2, 3 * 21]
    with pytest.raises(ValueError, match="The split 'test' is unknown; give one of train, eval, all"):
        evaluate.evaluate_run(run, f"folder:{tmp_path}", split="test")
    with pytest.raises(ValueError, match=r"none of the 6 crops of folder:.*, split eval, can be read"):
        evaluate.evaluate_run(run, f"folder:{tmp_path}", reading={"max_pixels": 100})


def test_figures_are_printed_where_they_cannot_be_saved(run, result, capsys):
    with pytest.raises(FileNotFoundError):
        evaluate.print_and_save(run / "no/such/folder", "photos", result)
    assert "eval/psnr" in capsys.readouterr().out


def test_a_recording_s_name_that_is_not_utf_8_has_its_bytes_escaped():
    assert evaluate._table({os.fsdecode(b"a\xff.wav"): {"psnr": 1.0}}) == "file,psnr\na\\xff.wav,1\n"


def test_without_data_the_run_s_own_is_named(run, result):
    evaluate.main(str(run), "", 3)
    written = json.loads((run / "evaluation.json").read_text())
    assert written["data"] == "photos" and written["eval/pictures"] == 3
