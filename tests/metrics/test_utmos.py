"""UTMOS against the same layers in PyTorch: tests/fixtures/utmos_tiny.npz holds weights of a small network under the
authors' names, three sounds, and the scores that torch.nn's convolutions, attention and LSTM give for each alone."""

import numpy as np
import pytest

from simvq_jax.metrics import utmos
from simvq_jax.models.pretrained.utmos import Utmos, utmos_params
from simvq_jax.models.pretrained.wav2vec2 import Sizes
from simvq_jax.models.pretrained.weights import WeightFileError

SMALL = {
    "sizes": Sizes(channels=16, width=24, hidden=32, depth=2, heads=4, reach=8, groups=4),
    "memory": 12,
    "hidden": 20,
}


@pytest.fixture(scope="module")
def reference(fixtures):
    with np.load(fixtures / "utmos_tiny.npz") as file:
        weights = {name.removeprefix("weights/"): file[name] for name in file.files if name.startswith("weights/")}
        return weights, [file[f"sound{i}"] for i in range(3)], file["scores"]


@pytest.mark.slow
def test_scores_are_those_of_pytorch_in_a_batch_and_alone(reference):
    weights, sounds, scores = reference
    params = utmos_params(weights, **SMALL)
    lengths = np.array([len(sound) for sound in sounds])
    batch = np.stack([np.pad(sound, (0, lengths.max() - len(sound)), constant_values=7.0) for sound in sounds])
    found = Utmos(**SMALL).apply({"params": params}, batch, lengths)
    np.testing.assert_allclose(found, scores, rtol=1e-5)
    alone = Utmos(**SMALL).apply({"params": params}, sounds[1][None], lengths[1:2])
    np.testing.assert_allclose(alone, scores[1:2], rtol=1e-5)


def test_what_does_not_fit_is_listed(reference):
    weights, _, _ = reference
    lacking = {name: tensor for name, tensor in weights.items() if "fc1" not in name}
    with pytest.raises(WeightFileError, match=r"encoder\.layers\.0\.fc1\.weight \(32, 24\) is missing"):
        utmos_params(lacking, **SMALL)
    with pytest.raises(WeightFileError, match=r"is \(80, 24\) instead of"):
        utmos_params(weights | {"output_layers.1.net.0.weight": np.zeros((80, 24))}, **SMALL)


def test_a_file_of_weights_scores_sound_at_any_rate(reference, tmp_path, monkeypatch):
    weights, sounds, scores = reference
    monkeypatch.setattr(utmos, "Utmos", lambda: Utmos(**SMALL))
    monkeypatch.setattr(utmos, "utmos_params", lambda weights, name: utmos_params(weights, name, **SMALL))
    np.savez(tmp_path / "utmos.npz", **weights)
    score = utmos.utmos_scorer(str(tmp_path / "utmos.npz"))
    assert score(sounds[0], 16_000) == pytest.approx(scores[0], rel=1e-5)
    assert score(np.repeat(sounds[0], 2), 32_000) == pytest.approx(scores[0], abs=0.05)
    assert np.isnan(score(sounds[0][:300], 16_000)) and np.isfinite(score(np.tile(sounds[0], 5), 16_000))
    (tmp_path / "utmos.ckpt").write_bytes(b"nothing")
    with pytest.raises(WeightFileError, match="save the state_dict alone"):
        utmos.utmos_scorer(str(tmp_path / "utmos.ckpt"))
