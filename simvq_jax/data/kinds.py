"""What a source is of: pictures or sounds. How its files are known, read, and named in an item."""

import functools
from collections.abc import Callable, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simvq_jax.data import images, sounds


class Kind(NamedTuple):
    """feature: key of an item, and feature of a TFDS dataset. noun: in messages. decode: raises `Unreadable`."""

    feature: str
    noun: str
    extensions: Set[str]
    decode: Callable[[bytes | Path], np.ndarray]


def pictures(max_pixels: int) -> Kind:
    """uint8 (height, width, 3). max_pixels: largest height x width decoded."""
    return Kind("image", "image", images.EXTENSIONS, functools.partial(images.decode_croppable, max_pixels=max_pixels))


def recordings(sample_rate: int, max_seconds: float) -> Kind:
    """float32 (samples,). sample_rate: of the result. max_seconds: longest sound decoded. Raises ValueError where
    that is no limit."""
    sounds.check_limit(max_seconds)
    decode = functools.partial(sounds.decode_sound, sample_rate=sample_rate, max_seconds=max_seconds)
    return Kind("audio", "sound", sounds.EXTENSIONS, decode)
