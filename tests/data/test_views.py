"""Views of a picture: places, mirrors, whole pictures of odd sizes, and what cannot be."""

import numpy as np
import pytest

from simvq_jax.data import images
from simvq_jax.data.views import Views


def picture(height=20, width=31):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def views(crops, **fields):
    return Views(crops, **{"size": 8, "resize_short": 0, "factor": 4, "flip": False, **fields})


def test_the_centre_is_the_one_that_evaluation_takes():
    (view,) = views("center").of(picture())
    np.testing.assert_array_equal(view.image, images.center_crop(picture(), 8))
    assert view.place() == {"top": 6, "left": 11, "height": 20, "width": 31, "flipped": False}


def test_ten_crops_are_corners_and_centre_and_their_mirrors():
    found = views("ten").of(picture())
    assert [(view.top, view.left) for view in found[:5]] == [(0, 0), (0, 23), (12, 0), (12, 23), (6, 11)]
    assert [view.flipped for view in found] == [False] * 5 + [True] * 5
    for plain, mirrored in zip(found[:5], found[5:], strict=True):
        np.testing.assert_array_equal(plain.image, picture()[plain.top : plain.top + 8, plain.left : plain.left + 8])
        np.testing.assert_array_equal(mirrored.image, plain.image[:, ::-1])
        assert mirrored.place() == plain.place() | {"flipped": True}


@pytest.mark.parametrize(("height", "width"), [(20, 31), (8, 8), (1, 1), (5, 4)])
def test_a_whole_picture_is_filled_up_to_tokens_by_its_edge(height, width):
    (view,) = views("whole").of(picture(height, width))
    assert view.image.shape == (-(-height // 4) * 4, -(-width // 4) * 4, 3)
    np.testing.assert_array_equal(view.image[:height, :width], picture(height, width))
    np.testing.assert_array_equal(view.image[-1, -1], picture(height, width)[-1, -1])
    assert (view.height, view.width) == (height, width)


def test_pictures_are_resized_first_and_small_ones_enlarged():
    (view,) = views("center", resize_short=10).of(picture())
    assert (view.height, view.width) == (10, 15) and view.image.shape == (8, 8, 3)
    (view,) = views("center").of(picture(4, 6))
    assert (view.height, view.width) == (8, 12)


def test_flip_adds_the_mirror():
    image = picture(5, 9)
    plain, mirrored = views("whole", flip=True).of(image)
    np.testing.assert_array_equal(plain.image[:5, :9], image)
    np.testing.assert_array_equal(mirrored.image[:5, :9], image[:, ::-1])  # filled up where decoding cuts off
    assert mirrored.image.shape == plain.image.shape == (8, 12, 3)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (views("five"), "The crops 'five' are unknown; give one of center, ten, whole."),
        (views("ten", flip=True), "mirrored anyway"),
        (views("center", size=10), "The crop size 10 is no multiple of 4"),
        (views("center", resize_short=6), "The short side 6 is under the crop size 8"),
        (views("center", size=0), "The crop size 0 is under 1"),
    ],
)
def test_views_that_cannot_be_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong.check()
