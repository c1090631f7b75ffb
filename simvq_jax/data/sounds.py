"""Decoding and cutting of sound, on numpy arrays of shape (samples,).

Every random function draws from the generator it is given and from nothing else, so a sound and a generator state fix
the result.
"""

import io
import math
from pathlib import Path

import numpy as np

from simvq_jax.data.cut_sounds import missing
from simvq_jax.data.files import Unreadable, file_bytes

EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".mp3"})
UNTOLD = 2**62  # samples from which on a header tells none: a FLAC that was written to a pipe
LOUDEST = 100.0  # peak over full scale, 40 dB: beyond it are integers that were stored as floats, and damage


class UnreadableSound(Unreadable):
    """A file that holds no sound this package can use."""


def decode_sound(data: bytes | Path, sample_rate: int, max_seconds: float) -> np.ndarray:
    """Decode a WAV, FLAC, OGG or MP3 file of any rate, width and number of channels.

    Channels are averaged; another rate is converted by soxr's high-quality filter. Loudness stays as it is.

    Args:
      data: the bytes of a file, or its path.
      sample_rate: samples a second of the result.
      max_seconds: longest sound accepted, checked on the header before any sample is decoded.

    Returns:
      float32 (samples,), integers as shares of their range; at least one sample.

    Raises:
      UnreadableSound: the file cannot be opened, is no sound, is damaged, empty or too long, or holds a value that is
        not finite or over LOUDEST.
      ModuleNotFoundError: soundfile or soxr is not installed; the message names the extra.
    """
    soundfile, soxr = _codecs()
    encoded = file_bytes(data, UnreadableSound) if isinstance(data, Path) else data
    lacking = missing(encoded)
    if lacking:
        raise UnreadableSound(f"The sound is cut short or damaged, for it {lacking}; restore or remove the file.")
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            rate, told = file.samplerate, file.frames
            if told < UNTOLD:
                _check_length(told, rate, max_seconds)
                samples = file.read(dtype="float32", always_2d=True)
            else:
                samples = _read_untold(file, int(max_seconds * rate) + 1)
                _check_length(len(samples), rate, max_seconds, more=" or more")
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise UnreadableSound(
            f"The {len(encoded)} bytes cannot be decoded: {reason}; convert or remove the file."
        ) from error
    if len(samples) < told < UNTOLD:
        raise UnreadableSound(f"The sound ends after {len(samples)} of {told} samples; restore or remove the file.")
    _check_samples(samples)
    mono = samples.mean(axis=1, dtype=np.float32)
    resampled = mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate)
    return resampled if len(resampled) else mono[:1]  # of a few samples a lower rate leaves none


def check_limit(max_seconds: float, key: str = "max_seconds") -> None:
    """Raises ValueError on a limit that is none: sounds that do not tell their length are read up to it."""
    if not 0 < max_seconds < math.inf:
        raise ValueError(f"{key} is {max_seconds} but must be finite and above 0.")


def check_level(sound: np.ndarray, name: str) -> None:
    """Raises ValueError where finite floats are integers that were stored as such. name: of the sound."""
    peak = float(np.abs(sound).max(initial=0.0))
    if peak > LOUDEST:
        raise ValueError(f"{name} has a peak of {peak:g} but floats must lie in [-1, 1]: divide integers by 32,768.")


def _codecs():
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed, which reads sound: pip install 'simvq_jax[audio]'."
        ) from error
    return soundfile, soxr


def _read_untold(file, longest: int) -> np.ndarray:
    """Up to `longest` samples of a file that does not tell how many it has: float32 (samples, channels).

    Having read, soundfile seeks to where it is, which fails at the end of such a file.
    """
    import soundfile

    samples = np.full((longest, file.channels), np.nan, np.float32)
    try:
        file.read(out=samples)
    except soundfile.LibsndfileError as error:
        if "seek" not in error.error_string:
            raise
    unread = np.isnan(samples[:, 0])
    return samples[: unread.argmax()] if unread.any() else samples


def _check_length(samples: int, rate: int, max_seconds: float, more: str = "") -> None:
    if samples < 1:
        raise UnreadableSound("The sound has no sample; replace or remove the file.")
    if samples > max_seconds * rate:
        raise UnreadableSound(
            f"The sound has {samples / rate:.1f} seconds{more}, over the limit of max_seconds={max_seconds:g}; "
            "cut it or raise the limit."
        )


def _check_samples(samples: np.ndarray) -> None:
    if not np.all(np.isfinite(samples)):
        raise UnreadableSound("The sound has samples that are not finite; write it anew or remove the file.")
    peak = np.abs(samples).max()
    if peak > LOUDEST:
        raise UnreadableSound(
            f"The sound has a peak of {peak:g}, over the limit of {LOUDEST:g} times full scale; scale it to [-1, 1]."
        )


def random_clip(sound: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Cut at a uniformly random place: (samples,); a shorter sound is repeated from its start."""
    if len(sound) <= samples:
        return tile(sound, samples)
    start = int(rng.integers(len(sound) - samples + 1))
    return sound[start : start + samples]


def random_clip_at_speed(
    sound: np.ndarray, samples: int, slowest: float, fastest: float, rng: np.random.Generator
) -> np.ndarray:
    """A random clip, played at a speed drawn log-uniformly: (samples,); full-scale peaks may grow a little."""
    if slowest == fastest == 1:
        return random_clip(sound, samples, rng)
    _, soxr = _codecs()
    speed = float(np.exp(rng.uniform(np.log(slowest), np.log(fastest))))
    clip = random_clip(sound, int(np.ceil(samples * speed)) + 1, rng)
    return soxr.resample(clip, speed, 1.0)[:samples]


def tile(sound: np.ndarray, samples: int) -> np.ndarray:
    """The sound over and over, cut at `samples`."""
    return np.resize(sound, samples)


def change_loudness(sound: np.ndarray, quietest: float, loudest: float, rng: np.random.Generator) -> np.ndarray:
    """Scale so that the peak lies uniformly between two levels in dB of full scale; silence stays."""
    peak = np.abs(sound).max()
    level = np.float32(10 ** (rng.uniform(quietest, loudest) / 20))
    return sound if peak == 0 else sound * (level / peak)
