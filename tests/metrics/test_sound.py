"""Figures of reconstructed speech against the official code's, and by their definitions."""

import numpy as np
import pytest

from simvq_jax.losses.sound import mel_loss
from simvq_jax.metrics import sound as metrics


def noise(samples=24_000, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def test_the_official_intelligibility(fixtures):
    with np.load(fixtures / "E_pitch.npz") as official, np.load(fixtures / "B_audio_losses.npz") as sounds:
        for i, expected in enumerate(official["stoi_Blosses_x_xrec_24k_f64"]):
            found = metrics.stoi(sounds["xrec"][i, 0], sounds["x"][i, 0], 24_000)
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_intelligibility_falls_with_noise_and_has_no_figure_for_silence_or_a_blink():
    speech = noise() * (1 + np.sin(2 * np.pi * 4 * np.arange(24_000) / 24_000)).astype(np.float32)
    steps = [metrics.stoi(speech + level * noise(seed=1), speech, 24_000) for level in (0.0, 0.5, 2.0)]
    assert steps[0] > 0.999 and steps[0] > steps[1] > steps[2]
    assert np.isnan(metrics.stoi(speech[:500], speech[:500], 24_000))


def test_the_distortion_ratio_is_that_of_the_noise_whatever_the_scale():
    target = noise()
    added = noise(seed=1)
    added -= added.mean() + (added @ target) / (target @ target) * target
    ratio = 10 * np.log10(np.sum((target - target.mean()) ** 2) / np.sum((0.1 * added) ** 2))
    for scale in (1.0, 0.01, -3.0):
        np.testing.assert_allclose(metrics.si_sdr(scale * (target + 0.1 * added) + 0.5, target), ratio, atol=1e-2)
    assert metrics.si_sdr(np.zeros(9), noise(9)) == -120 and metrics.si_sdr(noise(9), noise(9)) > 100
    assert metrics.si_sdr(np.array([1.0, -1.0]), np.array([1.0, -1.0])) == 120
    assert np.isnan(metrics.si_sdr(noise(9), np.zeros(9)))


def test_bits_per_second():
    assert metrics.bits_per_second((4096,), 75.0) == 900
    assert metrics.bits_per_second((1024, 1024), 50.0) == 1000


def test_quality_falls_with_noise_and_has_no_figure_for_silence():
    pytest.importorskip("pesq")
    place = np.arange(32_000) / 16_000
    voiced = sum(np.sin(2 * np.pi * 120 * k * place + k) / k for k in range(1, 20))
    speech = (0.1 * voiced * (1 + np.sin(2 * np.pi * 3 * place))).astype(np.float32)
    same, *noisy = [metrics.pesq(speech + level * noise(32_000, 1), speech, 16_000) for level in (0.0, 0.05, 0.5)]
    assert same == pytest.approx(4.64, abs=0.01) and same > noisy[0] > noisy[1] >= 1
    assert metrics.pesq(np.repeat(speech, 2), np.repeat(speech, 2), 32_000) > 4.6  # resampled
    assert np.isnan(metrics.pesq(speech, np.zeros_like(speech), 16_000))


def test_an_absent_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pesq", None)
    with pytest.raises(ModuleNotFoundError, match=r"^pesq is not installed, .* pip install 'simvq_jax\[pesq\]'\.$"):
        metrics.pesq(noise(), noise(), 16_000)


def test_the_mel_distance_of_a_batch_is_each_recording_s_mel_loss():
    lengths = np.array([5000, 1600, 600, 3])
    places = np.arange(5000)[None] < lengths[:, None]
    ours, theirs = (np.stack([noise(5000, 4 * k + i) for i in range(4)]) * places for k in range(2))
    distances = metrics.mel_distance(ours, theirs, lengths, 16_000)
    for item, length in enumerate(lengths[:3]):
        alone = mel_loss(ours[item : item + 1, :length], theirs[item : item + 1, :length], 16_000)
        assert float(distances[item]) == pytest.approx(float(alone), rel=1e-4)
    alone = mel_loss(ours[3:, :513], theirs[3:, :513], 16_000)  # filled up with silence to what a frame needs
    assert float(distances[3]) == pytest.approx(float(alone), rel=1e-4)
