"""Decoding of sound of every kind and fault, and cutting."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from simvq_jax.data.kinds import recordings
from simvq_jax.data.sounds import (
    UnreadableSound,
    change_loudness,
    decode_sound,
    random_clip,
    random_clip_at_speed,
    tile,
)


def sine(seconds=0.5, rate=24_000, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


def encoded(sound, rate=24_000, kind="WAV", subtype=None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def decode(data, rate=24_000, max_seconds=60.0):
    return decode_sound(data, rate, max_seconds)


@pytest.mark.parametrize(
    ("kind", "subtype", "error"),
    [
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "FLOAT", 0),
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", None, 0.1),
    ],
)
def test_every_format_is_read(kind, subtype, error):
    x = sine()
    np.testing.assert_allclose(decode(encoded(x, 24_000, kind, subtype)), x, atol=error)


def test_mp3_is_read(tmp_path):
    soundfile.write(tmp_path / "a.mp3", sine(1.0), 24_000)
    found = decode(tmp_path / "a.mp3")
    assert abs(len(found) - 24_000) < 3000 and 0.4 < np.abs(found).max() < 0.6


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 96_000])
def test_other_rates_are_converted(rate):
    found = decode(encoded(sine(0.5, rate), rate, "FLAC"))
    assert found.dtype == np.float32 and len(found) == 12_000
    np.testing.assert_allclose(found[1000:-1000], sine()[1000:-1000], atol=2e-3)


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(channels):
    x = np.stack([sine(hertz=200.0 * (i + 1)) for i in range(channels)], axis=1)
    np.testing.assert_allclose(decode(encoded(x, subtype="FLOAT")), x.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("rate", [24_000, 96_000])
def test_silent_clipped_and_one_sample_sounds_are_sounds(rate):
    assert not np.any(decode(encoded(np.zeros(1000), rate)))
    assert np.abs(decode(encoded(np.sign(sine()), rate))).max() >= 0.99
    assert decode(encoded(np.array([0.25]), rate, subtype="FLOAT")).tolist() == [0.25]


def half(kind: str) -> bytes:
    whole = encoded(np.random.default_rng(0).uniform(-0.5, 0.5, 20_000), kind=kind)
    return whole[: len(whole) // 2]


def piped_flac(seconds: float) -> bytes:
    """A FLAC whose header does not tell how many samples it has."""
    whole = bytearray(encoded(sine(seconds), kind="FLAC"))
    whole[21] &= 0xF0  # the count is 36 bits, behind "fLaC", the block's header and 13 bytes and a half
    whole[22:26] = bytes(4)
    return bytes(whole)


@pytest.mark.parametrize("size", [0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_that_does_not_tell_its_length_is_read_to_its_end(size):
    whole = bytearray(encoded(sine(0.5), subtype="PCM_16"))
    place = whole.index(b"data") + 4
    whole[place : place + 4] = size.to_bytes(4, "little")
    np.testing.assert_allclose(decode(bytes(whole)), sine(0.5), atol=1e-4)


def test_a_flac_that_does_not_tell_its_length_is_read_to_its_end():
    np.testing.assert_allclose(decode(piped_flac(0.5)), sine(0.5), atol=1e-4)
    assert len(decode(piped_flac(0.5), max_seconds=0.5)) == 12_000


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", r"The 0 bytes cannot be decoded: .*"),
        (b"these are words" * 100, r"The 1500 bytes cannot be decoded: .*"),
        (encoded(np.zeros(0)), "The sound has no sample; replace or remove the file"),
        (half("WAV"), r"The sound is cut short or damaged, for it has \d+ of 40000 bytes of samples; .*"),
        (half("OGG"), "The sound is cut short or damaged, for it has no last page; .*"),
        (half("FLAC"), r"(The sound ends after|The \d+ bytes cannot be decoded).*"),
        (encoded(np.array([0.1, np.nan]), subtype="FLOAT"), "The sound has samples that are not finite; .*"),
        (
            encoded(3e38 * sine(), 48_000, subtype="FLOAT"),
            r"The sound has a peak of 1\.5e\+38, over the limit of 100 .*",
        ),
        (
            encoded(32_767 * 2 * sine(), subtype="FLOAT"),
            r"The sound has a peak of 32767, over the limit of 100 times .*",
        ),
        (piped_flac(1.0), r"The sound has 0\.9 seconds or more, over the limit of max_seconds=0\.9; cut it or .*"),
        (
            encoded(sine(1.0)),
            r"The sound has 1\.0 seconds, over the limit of max_seconds=0\.9; cut it or raise the limit",
        ),
        (Path("nowhere.wav"), "nowhere.wav cannot be opened: No such file or directory; .*"),
    ],
    ids=[
        "empty",
        "text",
        "no sample",
        "half a WAV",
        "half an Ogg",
        "half a FLAC",
        "NaN",
        "huge",
        "integers",
        "piped and long",
        "too long",
        "no file",
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(data, sentence):
    with pytest.raises(UnreadableSound, match=rf"^{sentence}\.$"):
        decode(data, max_seconds=0.9)


@pytest.mark.parametrize("seconds", [0.5, 20.0])
def test_an_ogg_with_a_flipped_bit_is_refused(seconds):
    """Its decoder leaves the damaged page out: the sound would be shorter."""
    whole, rng = encoded(sine(seconds), kind="OGG"), np.random.default_rng(0)
    for place in rng.integers(4, len(whole), 100):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        with pytest.raises(UnreadableSound, match=r"damaged, for it has (a damaged|no last) page; restore"):
            decode(bytes(damaged))
    assert len(decode(whole + b"TAG and a title")) == len(decode(whole))


def test_a_limit_that_is_none_is_refused():
    for seconds in (0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"max_seconds is .* but must be finite and above 0"):
            recordings(24_000, seconds)


def test_a_clip_is_a_part_or_repeats_a_shorter_sound():
    x = np.arange(10, dtype=np.float32)
    starts = {int(random_clip(x, 4, np.random.default_rng(seed))[0]) for seed in range(100)}
    assert starts == set(range(7))
    clip = random_clip(x, 4, np.random.default_rng(0))
    np.testing.assert_array_equal(clip, clip[0] + np.arange(4))
    np.testing.assert_array_equal(random_clip(x, 25, np.random.default_rng(0)), np.tile(x, 3)[:25])
    np.testing.assert_array_equal(tile(x[:1], 3), np.zeros(3))


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_a_faster_clip_is_higher(speed):
    tone = np.sin(2 * np.pi * 400 * np.arange(16_000) / 16_000).astype(np.float32)
    clip = random_clip_at_speed(tone, 8000, speed, speed, np.random.default_rng(0))
    assert clip.shape == (8000,) and clip.dtype == np.float32
    assert np.abs(np.fft.rfft(clip * np.hanning(8000))).argmax() * 2 == pytest.approx(400 * speed, abs=3)


def test_clips_at_other_speeds_have_their_length_however_short_the_sound():
    for seed, length in enumerate((1, 50, 999, 1000, 1001, 5000)):
        sound = np.ones(length, np.float32)
        assert random_clip_at_speed(sound, 1000, 0.7, 1.6, np.random.default_rng(seed)).shape == (1000,)


def test_loudness_lies_between_the_two_levels():
    peaks = [np.abs(change_loudness(sine(), -6, -1, np.random.default_rng(seed))).max() for seed in range(50)]
    assert 10 ** (-6 / 20) <= min(peaks) < 0.6 < 0.8 < max(peaks) <= 10 ** (-1 / 20) + 1e-6
    assert not np.any(change_loudness(np.zeros(5, np.float32), -6, -1, np.random.default_rng(0)))
