"""The list of evaluation crops of a source, by index."""

import threading

import numpy as np

from simvq_jax.data import images
from simvq_jax.data.encoded import Source

Batch = dict[str, np.ndarray]


class EvalCrops:
    """Evaluation crops by index, decoded when asked for; made by `pipeline.eval_crops`.

    Every picture gives the same number of crops, so that large pictures weigh no more than small ones. With
    more than one crop a picture, each reading thread keeps its latest picture, so that neighbouring crops
    decode it once.
    """

    def __init__(self, source: Source, *, size: int, resize_short: int, per_picture: int, limit: int):
        self._source = source
        self._size = size
        self._resize_short = resize_short
        self._per_picture = per_picture
        self._latest = threading.local()
        self._total = len(source) * per_picture
        self._length = min(limit, self._total) if limit else self._total
        if not self._length:
            raise ValueError("The source holds no picture to evaluate on; give one that does.")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        """Return crop `index`: {"image": uint8 (size, size, 3), "mask": bool ()}.

        The mask is False, and the image zero, where the picture turns out to be damaged beyond its header.

        Raises:
          IndexError: `index` is not in [0, len).
        """
        if not 0 <= index < self._length:
            raise IndexError(f"There is no evaluation crop {index}; there are {self._length}.")
        picture, place = divmod(index * self._total // self._length, self._per_picture)
        image = self._picture(picture)
        if image is None:
            return self.blank()
        return {"image": self._cut(image, place), "mask": np.asarray(True)}

    def blank(self) -> Batch:
        """Return a crop that counts for nothing: zeros, and a False mask."""
        return {"image": np.zeros((self._size, self._size, 3), np.uint8), "mask": np.asarray(False)}

    def _cut(self, image: np.ndarray, place: int) -> np.ndarray:
        if self._per_picture == 1:
            return images.center_crop(image, self._size)
        height, width = image.shape[0] - self._size + 1, image.shape[1] - self._size + 1
        row, column = divmod(_spread(place, self._per_picture, height, width), width)
        return image[row : row + self._size, column : column + self._size]

    def _picture(self, index: int) -> np.ndarray | None:
        if getattr(self._latest, "index", None) != index:
            item = self._source.read(index)
            self._latest.image = None if item is None else self._fit(item["image"])
            self._latest.index = index
        return self._latest.image

    def _fit(self, image: np.ndarray) -> np.ndarray:
        if self._resize_short:
            image = images.resize_short_side(image, self._resize_short)
        return images.enlarge(image, self._size)


def _spread(place: int, count: int, height: int, width: int) -> int:
    """Number, row by row, of the `place`-th of `count` positions spread over height x width of them.

    An even grid: as many rows and columns as make its cells square, the first and last at the borders. A grid
    of more cells than `count` is thinned evenly.
    """
    rows = min(height, max(1, round((count * height / width) ** 0.5)))
    columns = min(width, -(-count // rows))
    row, column = divmod(place * rows * columns // count, columns)
    at = lambda index, cells, span: index * (span - 1) // max(cells - 1, 1)  # noqa: E731
    return at(row, rows, height) * width + at(column, columns, width)
