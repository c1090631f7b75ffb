"""The sentences and manner of synthesised speech, and the files that the package ships."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import simvq_jax.data
from simvq_jax.data import synthesis
from simvq_jax.data.sentences import sentences

SHIPPED = Path(simvq_jax.data.__file__).parent / "speech"


def test_sentences_differ_and_the_first_ones_stay():
    many = sentences(500, seed=3)
    assert len(set(many)) == 500 and sentences(20, seed=3) == many[:20] and sentences(20, seed=4) != many[:20]
    assert all(text[0].isupper() and text[-1] in ".?" and len(text.split()) >= 4 for text in many)


def test_no_sentence_is_in_two_folders_and_no_voice_of_training_is_held_out():
    texts, voices = {}, {}
    for folder in synthesis.FOLDERS:
        said = list(itertools.islice(synthesis.utterances(folder, 0), 80))
        voices[folder], texts[folder] = {voice for voice, _, _ in said}, {text for _, text, _ in said}
        assert len(texts[folder]) == 80
    for a, b in itertools.combinations(texts.values(), 2):
        assert not a & b
    assert not voices["held_out_voices"] & voices["train"] and voices["held_out_sentences"] == voices["train"]


def test_an_absent_library_is_named(monkeypatch):
    monkeypatch.setattr(synthesis.ctypes.util, "find_library", lambda _: None)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(FileNotFoundError, match=r"^espeak-ng is not installed: `apt install espeak-ng`, or `pip"):
        synthesis.Espeak()


def test_the_shipped_speech_is_small_whole_and_as_the_generator_says():
    files = sorted(SHIPPED.rglob("*.flac"))
    assert sum(file.stat().st_size for file in files) < 6e6
    texts = json.loads((SHIPPED / "sentences.json").read_text(encoding="utf-8"))
    assert {file.relative_to(SHIPPED).as_posix() for file in files} == texts.keys()
    for folder in synthesis.FOLDERS:
        own = [name for name in sorted(texts, key=lambda name: name[-10:]) if name.startswith(f"{folder}/")]
        for name, (voice, text, _) in zip(own, synthesis.utterances(folder, 0), strict=False):
            assert texts[name] == text and voice.replace("+", "-") in name
    seconds = 0.0
    for file in files:
        sound, rate = soundfile.read(file)
        seconds += len(sound) / rate
        assert rate == 22_050 and sound.ndim == 1 and 0.65 < np.abs(sound).max() < 0.75
    assert 210 < seconds < 230
