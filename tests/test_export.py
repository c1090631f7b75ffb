"""Exported programs: equal to the tokenizer's own, of any size, without this package and any device's kernel."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from tiny import tiny_config
from tiny_sound import tiny_sound_config

from simvq_jax import build, export, load
from simvq_jax.api import ImageTokenizer, SoundTokenizer
from simvq_jax.state import inference_variables


def untrained(config, module):
    """A tokenizer with the weights that training starts from."""
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    init = jax.jit(lambda key: build.build_state(config, networks, optimizers, key))
    return module(networks.autoencoder, inference_variables(init(jax.random.key(0))), config, 0)


def loaded(folder: Path):
    """encode, decode as the folder's README has them."""
    weights = dict(np.load(folder / "weights.npz"))
    programs = [jax.export.deserialize((folder / f"{name}.stablehlo").read_bytes()) for name in ("encoder", "decoder")]
    return [lambda x, program=program: np.asarray(program.call(weights, x)) for program in programs]


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "tokenizer"
    export.main(str(trained_run), str(out))
    return out


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 24, 24), (2, 4, 20)])
@pytest.mark.slow
def test_images_of_any_size_give_the_tokenizer_s_tokens_and_pictures(trained_run, exported, shape):
    tokenizer, (encode, decode) = load(trained_run), loaded(exported)
    x = np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)
    indices = encode(x)
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(indices, tokenizer.encode(x))
    np.testing.assert_allclose(decode(indices), tokenizer.decode(indices), atol=1e-5)


def test_the_readme_s_lines_load_it_without_this_package(exported):
    """In ten lines, from another folder, where the package cannot be imported."""
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.S)[1]
    statements = [line for line in code.splitlines() if line.strip()]
    assert len(statements) <= 12
    code = code.replace('folder = "."', f"folder = {str(exported)!r}")
    check = "import sys; sys.modules['simvq_jax'] = None\n"
    check += code + "\nprint(indices.shape, indices.dtype, reconstruction.shape, reconstruction.dtype)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", check], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "(1, 8, 8) int32 (1, 32, 32, 3) float32", done.stderr


def test_one_artefact_serves_three_platforms_by_plain_operations(exported, trained_run):
    for name in ("encoder", "decoder"):
        program = jax.export.deserialize((exported / f"{name}.stablehlo").read_bytes())
        assert program.platforms == ("cpu", "cuda", "tpu")
        text = program.mlir_module()
        calls = set(re.findall(r"stablehlo\.custom_call @(\w+)", text))
        assert calls <= {"shape_assertion", "annotate_device_placement", "Sharding"}, calls
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["codebook_sizes"] == [96] and manifest["pixels_a_token"] == 4
    assert manifest["model"] == load(trained_run).fingerprint()


@pytest.mark.slow
def test_sound_of_any_length(tmp_path):
    tokenizer = untrained(tiny_sound_config(), SoundTokenizer)
    export.export_tokenizer(tokenizer, tmp_path / "out")
    encode, decode = loaded(tmp_path / "out")
    for batch, tokens in ((1, 7), (2, 33)):
        x = np.random.default_rng(tokens).standard_normal((batch, tokens * tokenizer.hop)).astype(np.float32)
        indices = encode(x)
        np.testing.assert_array_equal(indices, tokenizer.encode(x))
        np.testing.assert_allclose(decode(indices), tokenizer.decode(indices), atol=1e-5)
    with pytest.raises(ValueError, match="refining shapes"):  # as jax says that a size is not allowed
        encode(np.zeros((1, 6 * tokenizer.hop), np.float32))


@pytest.mark.parametrize(
    "quantizer",
    [
        {"kind": "fsq", "levels": (4, 4, 3, 2)},
        {"kind": "lfq", "codebook_size": 64},
        {"kind": "factorized_vq", "code_dim": 2},
        {"kind": "simvq", "stages": 2},
        {"kind": "simvq", "stages": 2, "basis_dtype": "bfloat16"},  # which .npz lacks
        {"kind": "simvq", "hidden": 5, "restart_after": 0},
    ],
    ids=lambda quantizer: "-".join(map(str, quantizer.values())),
)
@pytest.mark.slow
def test_other_quantizers_are_exported_too(quantizer, tmp_path):
    fields = {f"quantizer__{name}": value for name, value in quantizer.items()}
    config = tiny_config(model__multipliers=(1, 1), data__size=8, discriminator__enabled=False, **fields)
    tokenizer = untrained(config, ImageTokenizer)
    assert len(tokenizer.fingerprint()) == 64
    export.export_tokenizer(tokenizer, tmp_path / "out")
    encode, decode = loaded(tmp_path / "out")
    x = np.random.default_rng(0).uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
    indices = encode(x)
    np.testing.assert_array_equal(indices, tokenizer.encode(x))
    np.testing.assert_allclose(decode(indices), tokenizer.decode(indices), atol=1e-5)


def test_a_folder_in_use_stays_as_it_is_and_a_failure_leaves_none(trained_run, tmp_path, monkeypatch):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is in use"):
        export.main(str(trained_run), str(tmp_path / "used"))
    monkeypatch.setattr(export, "readme", lambda tokenizer: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.main(str(trained_run), str(tmp_path / "new"))
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "note.txt"]
