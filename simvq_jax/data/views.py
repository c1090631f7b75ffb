"""What is cut of a picture to be tokenized: its centre, ten crops, or all of it; each mirrored too where wanted."""

from typing import NamedTuple

import numpy as np

from simvq_jax.data import images
from simvq_jax.data.cuts import check_geometry

CROPS = ("center", "ten", "whole")


class View(NamedTuple):
    """image: uint8 (h, w, 3). top, left: its place in the picture, resized to height x width. flipped: mirrored."""

    image: np.ndarray
    top: int
    left: int
    height: int
    width: int
    flipped: bool

    def place(self) -> dict[str, int | bool]:
        """All but the image."""
        return {name: value for name, value in self._asdict().items() if name != "image"}


class Views(NamedTuple):
    """Which views are taken.

    Fields:
        crops: "center"; "ten", the four corners and the centre, and those mirrored (Krizhevsky et al., 2012); "whole",
            the picture at its own size, its edge repeated up to multiples of `factor`.
        size: pixels of a crop's side. resize_short: short side before cropping, 0 = as it is; not of "whole".
        factor: pixels a side of a token. flip: every view mirrored too; "ten" is so anyway.
    """

    crops: str
    size: int
    resize_short: int
    factor: int
    flip: bool

    def check(self) -> None:
        """Raises ValueError on views that cannot be."""
        if self.crops not in CROPS:
            raise ValueError(f"The crops {self.crops!r} are unknown; give one of {', '.join(CROPS)}.")
        if self.crops == "ten" and self.flip:
            raise ValueError("Ten crops are mirrored anyway; leave --flip out.")
        check_geometry(self.size, self.resize_short)
        if self.size % self.factor:
            raise ValueError(
                f"The crop size {self.size} is no multiple of {self.factor}, the pixels a side of a token."
            )

    def of(self, image: np.ndarray) -> list[View]:
        """The views of a picture, uint8 (h, w, 3); first all that are not mirrored."""
        height, width = image.shape[:2]
        views = [View(image, 0, 0, height, width, False)] if self.crops == "whole" else self._crops(image)
        if self.flip or self.crops == "ten":
            views += [view._replace(image=images.flip(view.image), flipped=True) for view in views]
        if self.crops != "whole":  # crops are of whole tokens
            return views
        return [view._replace(image=self._filled_up(view.image)) for view in views]

    def _filled_up(self, image: np.ndarray) -> np.ndarray:
        """The edge repeated below and at the right, mirrored or not: there decoding cuts it off again."""
        height, width = image.shape[:2]
        return np.pad(image, ((0, -height % self.factor), (0, -width % self.factor), (0, 0)), mode="edge")

    def _crops(self, image: np.ndarray) -> list[View]:
        if self.resize_short:
            image = images.resize_short_side(image, self.resize_short)
        image, size = images.enlarge(image, self.size), self.size
        height, width = image.shape[:2]
        bottom, right = height - size, width - size
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)] if self.crops == "ten" else []
        places = [*corners, (bottom // 2, right // 2)]
        return [
            View(image[top : top + size, left : left + size], top, left, height, width, False) for top, left in places
        ]
