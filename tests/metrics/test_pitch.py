"""Pitch of made sounds and of bundled speech, the network that finds it, and the official figures of its errors."""

import jax.numpy as jnp
import numpy as np
import pytest

from simvq_jax.metrics import pitch as metrics
from simvq_jax.metrics.crepe import crepe_tracker, decode
from simvq_jax.metrics.pyin import pyin_pitch
from simvq_jax.models.pretrained.crepe import BINS, WIDTHS, Crepe, crepe_params
from simvq_jax.models.pretrained.weights import WeightFileError


def voice(hertz: float, rate: int = 16_000, seconds: float = 0.5) -> np.ndarray:
    """Harmonics over a little noise, which keeps frames from counting as silent."""
    time = np.arange(int(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 8))
    return (0.1 * tone + 0.003 * np.random.default_rng(0).standard_normal(len(time))).astype(np.float32)


def test_the_official_pitch_figures(fixtures):
    with np.load(fixtures / "E_pitch.npz") as official:
        target, sound = (
            metrics.Pitch(official[f"per_{kind}_pitch"][0], official[f"per_{kind}_periodicity"][0])
            for kind in ("true", "pred")
        )
        errors = metrics.pitch_errors(sound, target)
        np.testing.assert_allclose(errors, official["per_loss_pitch_f1_f64"], rtol=1e-5)


def test_recordings_without_voice_have_no_pitch_figures():
    silent = metrics.Pitch(np.full(5, np.nan), np.zeros(5))
    errors = metrics.pitch_errors(silent, silent)
    assert errors.periodicity == 0 and np.isnan(errors.cents) and np.isnan(errors.vuv_f1)
    voiced = metrics.Pitch(np.full(5, 100.0), np.ones(5))
    assert metrics.pitch_errors(silent, voiced).vuv_f1 == 0
    assert metrics.pitch_errors(voiced, voiced)[1:] == (0, 1)


@pytest.mark.parametrize(("hertz", "rate"), [(60.0, 16_000), (101.3, 24_000), (220.5, 16_000), (440.0, 22_050)])
def test_pyin_finds_the_pitch_of_a_voice(hertz, rate):
    found = pyin_pitch(voice(hertz, rate), rate)
    assert np.isnan(found.hertz).mean() < 0.1 and found.periodicity.mean() > 0.8
    np.testing.assert_allclose(found.hertz[~np.isnan(found.hertz)], hertz, rtol=0.005)


def test_pyin_hears_no_pitch_in_noise_or_silence():
    quiet = 1e-3 * voice(200.0)
    for sound in (0.1 * np.random.default_rng(0).standard_normal(8000), quiet, np.zeros(8000), np.zeros(3)):
        found = pyin_pitch(sound.astype(np.float32), 16_000)
        assert np.isnan(found.hertz).mean() > 0.9
        assert found.periodicity.any() == (sound.std() > 0.01)


def test_frames_are_silent_below_a_mean_level():
    """White noise of deviation s has a mean level of 10 log10(384 s^2) - 2.5 dB, and A-weighting takes 0.6 from it."""
    noise = np.random.default_rng(0).standard_normal((50, 1024))
    limit = np.sqrt(10 ** ((-40 + 2.5 + 0.6) / 10) / 384)
    for decibels, silent in ((-2, True), (2, False)):
        assert (metrics.is_silent(noise * limit * 10 ** (decibels / 20)) == silent).all()


def test_what_is_80_db_under_the_loudest_counts_as_that_loud():
    tone = np.sin(2 * np.pi * 1000 * np.arange(1024) / 16_000)[None]
    assert not metrics.is_silent(tone).any() and metrics.is_silent(0.1 * tone).all()


def test_a_shift_of_pitch_is_measured_in_cents():
    low, high = (pyin_pitch(voice(hertz), 16_000) for hertz in (150.0, 150.0 * 2 ** (50 / 1200)))
    errors = metrics.pitch_errors(high, low)
    assert errors.cents == pytest.approx(50, abs=3) and errors.vuv_f1 > 0.95


def test_a_weighting_is_that_of_the_standard():
    np.testing.assert_allclose(metrics.a_weighting(np.array([100.0, 1000.0, 10_000.0])), [-19.1, 0.0, -2.5], atol=0.06)


def test_the_likeliest_path_is_that_of_all_paths():
    rng = np.random.default_rng(0)
    likelihood, transition = rng.random((5, 3)), rng.random((3, 3))
    paths = np.stack(np.meshgrid(*[range(3)] * 5, indexing="ij"), -1).reshape(-1, 5)
    chance = [np.prod(likelihood[range(5), path]) * np.prod(transition[path[:-1], path[1:]]) for path in paths]
    np.testing.assert_array_equal(metrics.viterbi(likelihood, transition), paths[np.argmax(chance)])


def tiny_weights() -> dict[str, np.ndarray]:
    """Random weights under torchcrepe's names."""
    rng, widths = np.random.default_rng(0), WIDTHS["tiny"]
    weights = {}
    for i, (width, before) in enumerate(zip(widths, (1, *widths[:-1]), strict=True), start=1):
        size = 512 if i == 1 else 64
        weights[f"conv{i}.weight"] = rng.standard_normal((width, before, size, 1)) / np.sqrt(before * size)
        for name in ("conv{}.bias", "conv{}_BN.weight", "conv{}_BN.bias", "conv{}_BN.running_mean"):
            weights[name.format(i)] = rng.standard_normal((width,))
        weights[f"conv{i}_BN.running_var"] = rng.random((width,)) + 0.5
    weights["classifier.weight"] = rng.standard_normal((BINS, 256)) / 16
    weights["classifier.bias"] = rng.standard_normal((BINS,))
    return {name: value.astype(np.float32) for name, value in weights.items()}


def crepe_in_numpy(weights, frames) -> np.ndarray:
    """The published layers one by one, in float64: (n, 1024) -> (n, 360)."""
    x = frames[:, None].astype(np.float64)  # (n, channels, samples)
    for i in range(1, 7):
        kernel = weights[f"conv{i}.weight"][..., 0].astype(np.float64)
        x = np.pad(x, ((0, 0), (0, 0), (254, 254) if i == 1 else (31, 32)))
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2], axis=2)[:, :, :: 4 if i == 1 else 1]
        x = np.einsum("ncts,ocs->not", windows, kernel) + weights[f"conv{i}.bias"][None, :, None]
        scale, shift, mean, variance = (
            weights[f"conv{i}_BN.{name}"][None, :, None] for name in ("weight", "bias", "running_mean", "running_var")
        )
        x = (np.maximum(x, 0) - mean) / np.sqrt(variance + 0.0010000000474974513) * scale + shift
        x = x.reshape(*x.shape[:2], -1, 2).max(axis=-1)
    logits = x.transpose(0, 2, 1).reshape(len(x), -1) @ weights["classifier.weight"].T + weights["classifier.bias"]
    return 1 / (1 + np.exp(-logits))


def test_crepe_gives_what_its_layers_give_one_by_one():
    weights, frames = tiny_weights(), np.random.default_rng(1).standard_normal((3, 1024)).astype(np.float32)
    size, params = crepe_params(weights)
    assert size == "tiny"
    found = Crepe(size).apply({"params": params}, jnp.asarray(frames))
    np.testing.assert_allclose(found, crepe_in_numpy(weights, frames), atol=1e-5)


def test_crepe_s_likeliest_pitch_is_decoded():
    """A clear peak at the pitch of bin 150."""
    likely = np.full((9, BINS), 0.01)
    likely[:7, 150] = 0.9
    found = decode(likely, np.arange(9) == 3)
    np.testing.assert_allclose(found.hertz[[0, 6]], 10 * 2 ** ((20 * 150 + 1997.3794084376191) / 1200))


def test_crepe_s_path_keeps_to_the_band_and_does_not_jump():
    likely = np.full((9, BINS), 0.01)
    likely[:, 100] = 0.5
    likely[:, 300] = likely[4, 200] = 0.95  # of 1,384 Hz, and of one frame alone
    found = decode(likely, np.zeros(9, bool))
    np.testing.assert_allclose(found.hertz, 10 * 2 ** ((20 * 100 + 1997.3794084376191) / 1200))


def test_silence_has_no_periodicity_by_crepe():
    likely = np.full((9, BINS), 0.01)
    likely[:7, 150] = 0.9
    found = decode(likely, np.arange(9) == 3)
    assert np.isnan(found.hertz[[3, 7, 8]]).all() and found.periodicity[3] == 0 and found.periodicity[0] == 0.9


def test_crepe_is_read_from_a_file(tmp_path):
    np.savez(tmp_path / "tiny.npz", **tiny_weights())
    sound = voice(200.0, seconds=5.3)
    frames = metrics.frames_of(sound, 16_000)
    assert len(frames) > 512, "more than one batch"
    found = crepe_tracker(str(tmp_path / "tiny.npz"))(sound, 16_000)
    frames = frames - frames.mean(axis=1, keepdims=True)
    likely = crepe_in_numpy(tiny_weights(), frames[-20:] / frames[-20:].std(axis=1, ddof=1, keepdims=True))
    of_path = np.isclose(found.periodicity[-20:, None], likely, atol=1e-4)
    assert of_path.any(axis=1).all(), "each frame's periodicity is that of one of its pitches"
    np.savez(tmp_path / "other.npz", nothing=np.zeros(3))
    with pytest.raises(WeightFileError, match=r"The CREPE weights in .*other\.npz do not fit: conv1\.weight"):
        crepe_tracker(str(tmp_path / "other.npz"))
