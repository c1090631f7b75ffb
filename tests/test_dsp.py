"""Spectra against torch's and torchaudio's values, and against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simvq_jax import dsp


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_the_mel_loss_of_the_official_code(fixtures):
    with np.load(fixtures / "B_audio_losses.npz") as official:
        np.testing.assert_allclose(dsp.mel_filters(24_000, 1024, 100), official["mel_fb"], atol=1e-5)
        ours = jax.jit(lambda x: dsp.log_mel(x, 24_000))(official["x"][:, 0])
        np.testing.assert_allclose(ours, official["logmel_x"].transpose(0, 2, 1), atol=2e-4)


@pytest.mark.parametrize(("n_fft", "hop", "samples"), [(64, 16, 100), (64, 64, 500), (30, 8, 77), (16, 1, 40)])
@pytest.mark.parametrize("windowed", [True, False])
def test_a_spectrum_is_that_of_each_window_by_the_definition(n_fft, hop, samples, windowed):
    x = noise(2, samples)
    window = dsp.hann(n_fft) if windowed else None
    padded = np.pad(x, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
    expected = [
        np.fft.rfft(padded[:, i : i + n_fft] * (1 if window is None else window)) for i in range(0, samples + 1, hop)
    ]
    found = dsp.stft(x, n_fft, hop, window)
    assert found.shape == (2, samples // hop + 1, n_fft // 2 + 1)
    np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop"), [(64, 16), (40, 10), (32, 16)])
def test_the_centred_inverse_undoes_the_spectrum(n_fft, hop):
    x = noise(3, 12 * hop)
    back = dsp.istft(dsp.stft(x, n_fft, hop, dsp.hann(n_fft)), n_fft, hop, dsp.hann(n_fft), centred=True)
    np.testing.assert_allclose(back, x, atol=1e-5)


def test_the_same_inverse_gives_hop_samples_a_frame_and_undoes_windows_of_the_padded_signal():
    n_fft, hop, count = 80, 20, 9
    x = noise(2, count * hop)
    trim = (n_fft - hop) // 2
    windows = dsp.frames(np.pad(x, ((0, 0), (trim, trim))), n_fft, hop) * dsp.hann(n_fft)[None, None]
    back = dsp.istft(jnp.fft.rfft(windows), n_fft, hop, dsp.hann(n_fft), centred=False)
    np.testing.assert_allclose(back, x, atol=1e-5)


@pytest.mark.parametrize("centred", [True, False])
def test_the_inverse_of_unequal_lengths_is_that_of_each_alone(centred):
    spectrum, lengths = dsp.stft(noise(3, 70), 20, 5, dsp.hann(20)), np.array([15, 9, 2])
    together = dsp.istft(spectrum, 20, 5, dsp.hann(20), centred=centred, lengths=lengths)
    for item, length in enumerate(lengths):
        alone = dsp.istft(spectrum[item, :length], 20, 5, dsp.hann(20), centred=centred)
        np.testing.assert_allclose(together[item, : len(alone)], alone, atol=1e-5)
        assert not np.any(together[item, len(alone) :])


def test_silence_has_a_finite_spectrum_and_gradient():
    silence = jnp.zeros((1, 4000))
    assert np.all(np.asarray(dsp.log_mel(silence, 24_000)) == np.float32(np.log(dsp.FLOOR)))
    gradient = jax.grad(lambda x: dsp.log_mel(x, 24_000).sum())(silence)
    assert np.all(np.asarray(gradient) == 0)


def test_bfloat16_sound_is_measured_in_float32():
    x = noise(1, 3000).astype(jnp.bfloat16)
    np.testing.assert_array_equal(dsp.log_mel(x, 16_000), dsp.log_mel(x.astype(jnp.float32), 16_000))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: dsp.stft(noise(1, 32), 64, 16), r"x has 32 samples but must have more than n_fft / 2 = 32: pad it\."),
        (lambda: dsp.stft(noise(1, 99), 64, 65), r"hop is 65 but must lie in 1 \.\. n_fft = 64\."),
        (
            lambda: dsp.istft(jnp.ones((1, 3, 33), complex), 64, 24, dsp.hann(64), centred=True),
            "must divide n_fft = 64",
        ),
        (lambda: dsp.istft(jnp.ones((1, 3, 33), complex), 64, 64, dsp.hann(64), centred=False), "leave a gap"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_spectra_of_unequal_lengths_are_those_of_each_alone():
    x, lengths = noise(3, 700), np.array([700, 333, 40])
    together = dsp.stft(x, 64, 16, dsp.hann(64), jnp.array(lengths))
    for item, length in enumerate(lengths):
        alone = dsp.stft(x[item, :length], 64, 16, dsp.hann(64))
        np.testing.assert_allclose(together[item, : length // 16 + 1], alone, atol=1e-4)
