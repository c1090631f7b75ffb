"""Packing a tokenizer, its model card, and the way to a hub and back through a server of this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fake_hub
import jax
import numpy as np
import pytest
from tiny import tiny_config

import simvq_jax
from simvq_jax import push
from simvq_jax.api import hub
from simvq_jax.models.pretrained.raw import WeightFileError
from simvq_jax.models.pretrained.safetensors import read_safetensors, write_safetensors


@pytest.fixture(scope="module")
def evaluated(trained_run, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("shared") / "run"
    shutil.copytree(trained_run, run)
    figures = {"data": "photos", "eval/psnr": 21.5, "eval/codebook_utilization": 0.75, "eval/code_scale": 3.0}
    figures |= {"eval/tokens": 262144.0}
    (run / "evaluation.json").write_text(json.dumps(figures))
    return run


@pytest.fixture(scope="module")
def packed(evaluated, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "tokenizer"
    push.pack(evaluated, out, "me/tiny", "apache-2.0")
    return out


def test_a_packed_tokenizer_is_the_run_s(evaluated, packed):
    ours, theirs = simvq_jax.load(evaluated), simvq_jax.load(packed)
    assert theirs.fingerprint(decoder=True) == ours.fingerprint(decoder=True) and theirs.step == ours.step
    assert jax.tree.structure(theirs.variables) == jax.tree.structure(ours.variables)
    assert theirs.config.to_dict() == ours.config.to_dict()
    assert set(simvq_jax.load(packed, decoder=False).variables["params"]) == {"encoder", "quantizer"}


def test_the_card_has_figures_samples_licence_and_the_lines_that_load(packed):
    text = (packed / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: simvq_jax\n") and "license: apache-2.0" in text
    assert 'simvq_jax.load("hf://me/tiny")' in text and "![Originals over reconstructions](samples.png)" in text
    assert "| PSNR (dB) | 21.50 |" in text and "| codes in use | 75.0% |" in text and "| tokens | 262,144 |" in text
    assert "code_scale" not in text and "quantizer.codebook_size = 96" in text
    assert (packed / "samples.png").stat().st_size > 1000


def test_without_figures_data_and_licence_the_card_says_so(evaluated, tmp_path):
    run = shutil.copytree(evaluated, tmp_path / "run")
    (run / "evaluation.json").unlink()
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = "folder:/no/such"
    (run / "config.json").write_text(json.dumps(config))
    push.main(str(run), "me/tiny", str(tmp_path / "out"), "", False)
    text = (tmp_path / "out/README.md").read_text()
    assert "It was not evaluated." in text and "None was stated for these weights." in text
    assert "samples.png" not in text and not (tmp_path / "out/samples.png").exists()


def test_figures_of_other_weights_are_not_published(evaluated, tmp_path):
    run = shutil.copytree(evaluated, tmp_path / "run")
    figures = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(figures | {"provenance": {"step": 2}}))
    with pytest.raises(ValueError, match=r"was evaluated at step 2 but is at step 4: run .*evaluate.* again"):
        push.pack(run, tmp_path / "out", "me/tiny")
    (run / "evaluation.json").write_text(json.dumps(figures | {"provenance": {"step": 4, "model_sha256": "ab"}}))
    with pytest.raises(ValueError, match=r"was evaluated with other weights of that step: run .*evaluate.* again"):
        push.pack(run, tmp_path / "out", "me/tiny")
    assert not (tmp_path / "out").exists()


def test_a_converted_tokenizer_names_its_source(evaluated, tmp_path):
    run = shutil.copytree(evaluated, tmp_path / "run")
    (run / "conversion.json").write_text(json.dumps({"checkpoint": "last.ckpt", "sha256": "ab12"}))
    push.pack(run, tmp_path / "out", "me/tiny")
    text = (tmp_path / "out/README.md").read_text()
    assert "converted from `last.ckpt` of the official SimVQ (SHA-256 ab12), then trained for 4 steps" in text
    assert json.loads((tmp_path / "out/conversion.json").read_text())["sha256"] == "ab12"


def test_folders_of_this_machine_are_not_shared(evaluated, tmp_path):
    run = shutil.copytree(evaluated, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"source": "folder:/home/me/cats", "data_dir": "/home/me/tfds"}
    config["losses"]["lpips_vgg"] = "/home/me/vgg.pth"
    (run / "config.json").write_text(json.dumps(config))
    push.pack(run, tmp_path / "out", "me/tiny")
    assert "/home/me" not in "".join((tmp_path / "out" / name).read_text() for name in ("README.md", "config.json"))
    packed = json.loads((tmp_path / "out/config.json").read_text())
    assert packed["data"]["source"] == "folder:cats" and packed["losses"]["lpips_vgg"] == "vgg.pth"


@pytest.mark.parametrize(
    ("name", "license", "sentence"),
    [("tiny", "", "--to=tiny is no repository's name"), ("me/tiny", "mit\nevil: yes", "is no licence")],
)
def test_names_that_the_hub_would_not_take(evaluated, tmp_path, name, license, sentence):
    with pytest.raises(ValueError, match=sentence):
        push.pack(evaluated, tmp_path / "out", name, license)


def test_a_packed_tokenizer_cannot_be_trained_on_and_a_run_is_never_taken_for_one(evaluated, packed, tmp_path):
    from simvq_jax import cli, train

    copy = shutil.copytree(packed, tmp_path / "packed")
    with pytest.raises(ValueError, match="is a packed tokenizer, without what training goes on from"):
        train.main(cli.Chosen(None, {}), str(copy), 0)
    run = shutil.copytree(evaluated, tmp_path / "run")
    (run / "weights.safetensors").write_bytes(b"something else")
    assert simvq_jax.load(run).step == 4


def test_a_folder_in_use_stays_as_it_is(evaluated, packed):
    with pytest.raises(FileExistsError, match="is in use"):
        push.pack(evaluated, packed, "me/tiny")


def test_weights_that_do_not_fit_are_listed(packed, tmp_path):
    broken = shutil.copytree(packed, tmp_path / "broken")
    weights = read_safetensors(broken / "weights.safetensors")
    del weights["params/encoder/conv_in/kernel"]
    write_safetensors(broken / "weights.safetensors", weights, {})
    with pytest.raises(WeightFileError, match=r"params/encoder/conv_in/kernel .* is missing"):
        simvq_jax.load(broken)


@pytest.mark.parametrize(("seeded", "stored"), [({}, True), ({"basis_seed": 5, "basis_dtype": "bfloat16"}, False)])
@pytest.mark.slow
def test_a_frozen_basis_is_stored_unless_a_seed_gives_it(tmp_path, seeded, stored):
    from simvq_jax.train import train

    small = {"model__multipliers": (1, 1), "data__size": 8, "discriminator__enabled": False, "eval_every": 1}
    basis = {f"quantizer__{key}": value for key, value in {"restart_after": 0.0, **seeded}.items()}
    train(tiny_config(steps=1, checkpoint_every=1, **small, **basis), tmp_path / "run")
    push.pack(tmp_path / "run", tmp_path / "out", "me/tiny")
    assert stored == any("basis" in name for name in read_safetensors(tmp_path / "out/weights.safetensors"))
    ours, theirs = simvq_jax.load(tmp_path / "run"), simvq_jax.load(tmp_path / "out")
    assert ours.variables["codebook"]["quantizer"]["basis"].dtype == seeded.get("basis_dtype", "float32")
    np.testing.assert_array_equal(ours.codebook(), theirs.codebook())


def test_every_type_survives_the_file(tmp_path):
    arrays = {
        "f": np.float32(1.5),
        "i": np.arange(3, dtype=np.int32),
        "b": np.array(jax.numpy.asarray([1.5, -2.0], jax.numpy.bfloat16)),
        "empty": np.zeros((0, 3), np.float16),
    }
    write_safetensors(tmp_path / "a.safetensors", arrays, {"note": "x"})
    read = read_safetensors(tmp_path / "a.safetensors")
    assert {name: array.shape for name, array in read.items()} == {name: np.shape(a) for name, a in arrays.items()}
    np.testing.assert_array_equal(read["b"], [1.5, -2.0])
    np.testing.assert_array_equal(read["i"], arrays["i"])
    with pytest.raises(ValueError, match=r"c is complex64 but \.safetensors holds"):
        write_safetensors(tmp_path / "c.safetensors", {"c": np.zeros(1, np.complex64)}, {})


THERE_AND_BACK = """
import sys
import numpy as np
import simvq_jax
from simvq_jax import push
run = sys.argv[1]
print(push.push(push.Path(run), "me/tiny", "mit"))
ours, theirs = simvq_jax.load(run), simvq_jax.load("hf://me/tiny")
assert ours.fingerprint(decoder=True) == theirs.fingerprint(decoder=True)
for address in ("hf://me/none", "hf://me"):
    try:
        simvq_jax.load(address)
    except (RuntimeError, ValueError) as error:
        print(error)
"""


def test_what_is_pushed_is_loaded_from_its_address(evaluated, tmp_path):
    """In a process of its own, for the package reads the hub's address once."""
    with fake_hub.serving() as (server, url):
        environment = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_made_up"}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", THERE_AND_BACK, str(evaluated)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    address, missing, malformed = done.stdout.splitlines()
    assert address.endswith("/me/tiny")
    assert missing.startswith("hf://me/none could not be downloaded (404") and "check the name" in missing
    assert malformed.startswith("hf://me is no address on the hub: write hf://OWNER/NAME")
    assert {"README.md", "config.json", "weights.safetensors", "samples.png"} <= server.repositories["me/tiny"].keys()


@pytest.mark.slow
def test_without_a_network_there_is_one_sentence(evaluated, tmp_path):
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_made_up"}
    command = [sys.executable, "-m", "simvq_jax.push", f"--run={evaluated}", "--to=me/tiny"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: hf://me/tiny could not be uploaded" in done.stderr


def test_an_address_is_no_folder_to_write_to():
    from simvq_jax import evaluate

    with pytest.raises(ValueError, match="hf download me/tiny --local-dir=FOLDER"):
        evaluate.main("hf://me/tiny", "", 0)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'simvq_jax\[hub\]'"):
        hub.downloaded("hf://me/tiny")
    assert hub.is_address("hf://me/tiny") and not hub.is_address(Path("runs/tiny"))
