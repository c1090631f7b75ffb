"""What training cuts of an item: a crop of a picture, or a clip of a recording.

A cut is a function (item, generator) -> row of a batch, and draws from that generator alone.
"""

import functools
from collections.abc import Callable

import numpy as np

from simvq_jax.data import images, sounds
from simvq_jax.data.encoded import Item
from simvq_jax.data.eval_crops import Batch

Cut = Callable[[Item, np.random.Generator], Batch]
CROPS = ("random", "resized", "center")


def picture_cut(*, size: int, resize_short: int, crop: str, flip: bool, crop_scale: tuple[float, float]) -> Cut:
    """Rows {"image": uint8 (size, size, 3)}.

    Args:
      size: pixels of the crop's side.
      resize_short: the short side is first resized to this many pixels, at least `size`; 0 keeps the
        picture's own resolution. A picture still smaller than the crop is enlarged to it.
      crop: "random" or "center" square, or "resized" (a random rectangle resized to the square).
      flip: mirror half of the crops.
      crop_scale: smallest and largest share of the picture's area, for crop "resized" only.

    Raises:
      ValueError: a number is out of its range.
    """
    check_geometry(size, resize_short)
    if crop not in CROPS:
        raise ValueError(f"The crop {crop!r} is unknown; give one of {', '.join(CROPS)}.")
    smallest, largest = crop_scale
    if not 0 < smallest <= largest <= 1:
        raise ValueError(f"The crop scale {crop_scale} is not 0 < smallest <= largest <= 1; give two shares that are.")
    return functools.partial(_crop, size=size, resize_short=resize_short, crop=crop, flip=flip, crop_scale=crop_scale)


def check_geometry(size: int, resize_short: int) -> None:
    """Raises ValueError on crops that cannot be."""
    if size < 1:
        raise ValueError(f"The crop size {size} is under 1; give at least 1.")
    if resize_short and resize_short < size:
        raise ValueError(
            f"The short side {resize_short} is under the crop size {size}; give 0 or at least the crop size."
        )


def _crop(
    item: Item,
    rng: np.random.Generator,
    *,
    size: int,
    resize_short: int,
    crop: str,
    flip: bool,
    crop_scale: tuple[float, float],
) -> Batch:
    image = item["image"]
    if resize_short:
        image = images.resize_short_side(image, resize_short)
    if crop == "random":
        image = images.random_crop(image, size, rng)
    elif crop == "resized":
        image = images.random_resized_crop(image, size, crop_scale, rng)
    else:
        image = images.center_crop(image, size)
    if flip and rng.random() < 0.5:
        image = images.flip(image)
    return {"image": image}


def recording_cut(
    *, samples: int, loudness: tuple[float, float] | None, speed: tuple[float, float] = (1.0, 1.0)
) -> Cut:
    """Rows {"audio": float32 (samples,)}; a shorter recording is repeated.

    Args:
      samples: of a clip.
      loudness: quietest and loudest peak in dB of full scale, drawn anew for each clip; None keeps the recording's.
      speed: slowest and fastest that a clip is played at, which changes its pitch too; 1 and 1 keep the recording's.

    Raises:
      ValueError: a number is out of its range.
    """
    if samples < 1:
        raise ValueError(f"The clip has {samples} samples; give at least 1.")
    if loudness is not None and not (len(loudness) == 2 and loudness[0] <= loudness[1] <= 0):
        raise ValueError(
            f"The loudness {tuple(loudness)} is not quietest <= loudest <= 0 dB; give two levels that are."
        )
    if not (len(speed) == 2 and 0.5 <= speed[0] <= speed[1] <= 2):
        raise ValueError(f"The speed {tuple(speed)} is not 0.5 <= slowest <= fastest <= 2; give two speeds that are.")
    return functools.partial(_clip, samples=samples, loudness=loudness, speed=speed)


def _clip(
    item: Item,
    rng: np.random.Generator,
    *,
    samples: int,
    loudness: tuple[float, float] | None,
    speed: tuple[float, float],
) -> Batch:
    clip = sounds.random_clip_at_speed(item["audio"], samples, *speed, rng)
    return {"audio": clip if loudness is None else sounds.change_loudness(clip, *loudness, rng)}
