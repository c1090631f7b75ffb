"""Speech by espeak-ng: what the source `speech` ships, and as many hours more as wanted.

    python -m simvq_jax.data.synthesis --out=/data/speech --minutes=60

Needs the library espeak-ng (`apt install espeak-ng`, or `pip install espeakng-loader`) and soundfile. Writes
OUT/{train,held_out_sentences,held_out_voices}/VOICE_NUMBER.flac, mono, at espeak's 22,050 samples a second, and
OUT/sentences.json, file -> text. No sentence of one folder is in another. The package's own are 3.6 minutes. Sentences
and manner are the same for the same seed; some voices have breath, which is drawn anew.
"""

import ctypes
import ctypes.util
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from simvq_jax import cli
from simvq_jax.data.sentences import sentences
from simvq_jax.store import local_path

VOICES = ("en+f2", "en+m3", "en-us+f4", "en-us+m7", "en-gb-scotland+f3", "en-gb-x-rp+m1", "en-us+f5", "en+m8")
HELD_OUT_VOICES = ("en-us+m5", "en-gb-scotland+f1")
# Voices, and share of all minutes.
FOLDERS = {"train": (VOICES, 0.75), "held_out_sentences": (VOICES, 0.125), "held_out_voices": (HELD_OUT_VOICES, 0.125)}
PEAK = 0.7  # of every file
_SYNCHRONOUS, _RATE, _PITCH, _UTF8 = 2, 1, 3, 1  # espeak's numbers


class Espeak:
    """The library, with one voice at a time."""

    def __init__(self):
        """Raises FileNotFoundError where the library is not installed."""
        path, data = _library()
        self._library = ctypes.CDLL(path)
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self.sample_rate <= 0:
            raise FileNotFoundError(f"espeak-ng of {path} finds no voices: install espeak-ng-data.")
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._chunks: list[np.ndarray] = []
        self._callback = kind(self._take)  # kept, or it would be collected while the library holds it
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples, count: int, _events) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, *, words_a_minute: int, pitch: int) -> np.ndarray:
        """float32 (samples,) at PEAK. pitch: 0 to 99. Raises ValueError on an unknown voice."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}: see `espeak-ng --voices`.")
        self._library.espeak_SetParameter(_RATE, words_a_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._chunks.clear()
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _UTF8, None, None)
        sound = np.concatenate(self._chunks).astype(np.float32)
        return PEAK * sound / np.abs(sound).max()


def _library() -> tuple[str, bytes | None]:
    """Path of espeak-ng, and of its data if not the system's."""
    found = ctypes.util.find_library("espeak-ng")
    if found:
        return found, None
    try:
        import espeakng_loader
    except ImportError:
        raise FileNotFoundError(
            "espeak-ng is not installed: `apt install espeak-ng`, or `pip install espeakng-loader`."
        ) from None
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path().encode()


def utterances(folder: str, seed: int) -> Iterator[tuple[str, str, dict[str, int]]]:
    """(voice, text, manner) without end, the voices in turn; no text is in two folders."""
    voices, names = FOLDERS[folder][0], list(FOLDERS)
    chance = np.random.default_rng([seed, names.index(folder)])
    for number in itertools.count():
        text = _text(number * len(names) + names.index(folder), seed)
        manner = {"words_a_minute": int(chance.integers(140, 190)), "pitch": int(chance.integers(35, 65))}
        yield voices[number % len(voices)], text, manner


_known: dict[int, list[str]] = {}


def _text(number: int, seed: int) -> str:
    """Sentence by number; the list grows by doubling."""
    if number >= len(_known.get(seed, [])):
        _known[seed] = sentences(2 * number + 64, seed)
    return _known[seed][number]


def synthesize(out: Path, minutes: float, seed: int) -> dict[str, str]:
    """Writes about `minutes` of speech. -> file, relative to `out` -> text."""
    import soundfile

    espeak, texts = Espeak(), {}
    for folder, (_, share) in FOLDERS.items():
        (out / folder).mkdir(parents=True, exist_ok=True)
        left = share * minutes * 60 * espeak.sample_rate
        for number, (voice, text, manner) in enumerate(utterances(folder, seed)):
            if left <= 0:
                break
            sound = espeak.say(text, voice, **manner)
            left -= len(sound)
            name = f"{folder}/{voice.replace('+', '-')}_{number:05d}.flac"
            soundfile.write(out / name, sound, espeak.sample_rate, subtype="PCM_16")
            texts[name] = text
    (out / "sentences.json").write_text(json.dumps(texts, indent=1) + "\n", encoding="utf-8")
    return texts


def main(out: str, minutes: float, seed: int) -> None:
    if minutes <= 0:
        raise ValueError(f"minutes is {minutes} but must be above 0.")
    texts = synthesize(local_path("out", out), minutes, seed)
    print(f"{len(texts)} sentences in {out}")


DEFAULTS: dict[str, Any] = {"out": cli.REQUIRED, "minutes": 3.6, "seed": 0}
HELP = {"out": "folder to write", "minutes": "of speech in all", "seed": "of sentences and manner"}

if __name__ == "__main__":
    cli.run_main(main, DEFAULTS, HELP)
