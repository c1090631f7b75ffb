"""inputs.py: how a command reads data otherwise than the run's config says."""

import math

import pytest
from tiny import tiny_config
from tiny_sound import tiny_sound_config

from simvq_jax.data.images import MOST_PIXELS
from simvq_jax.inputs import read_as


def test_limits_and_the_folder_of_data_may_differ_from_training():
    config = tiny_config()
    before = config.data.max_pixels
    read_as(config)
    assert (config.data.data_dir, config.data.max_pixels) == ("", before)
    read_as(config, data_dir="/data/tfds", max_pixels=100)
    assert (config.data.data_dir, config.data.max_pixels) == ("/data/tfds", 100)
    sound = tiny_sound_config()
    read_as(sound, max_seconds=600.0)
    assert sound.data.max_seconds == 600


@pytest.mark.parametrize(
    "limits",
    [
        {"max_pixels": -1},
        {"max_pixels": MOST_PIXELS + 1},
        {"max_seconds": -1.0},
        {"max_seconds": math.inf},
        {"max_seconds": math.nan},
    ],
)
def test_limits_that_cannot_be_are_told(limits):
    with pytest.raises(ValueError, match=f"{next(iter(limits))} is .* but must .* leave it out to read as in training"):
        read_as(tiny_config(), **limits)


def test_a_limit_of_the_other_kind_is_told():
    with pytest.raises(ValueError, match="a tokenizer of pictures but max_seconds is of sound: leave it out"):
        read_as(tiny_config(), max_seconds=1.0)
    with pytest.raises(ValueError, match="a tokenizer of sound but max_pixels is of pictures: leave it out"):
        read_as(tiny_sound_config(), max_pixels=1)
