"""The list of evaluation crops of a source, by index."""

import threading

import numpy as np

from simvq_jax.data import images
from simvq_jax.data.encoded import ImageSource

Batch = dict[str, np.ndarray]


class EvalCrops:
    """Evaluation crops by index, decoded when asked for; made by `pipeline.eval_crops`.

    With a grid the size of every picture is read from its header at construction, and each reading thread
    keeps its latest picture, so that neighbouring crops decode it once.
    """

    def __init__(self, source: ImageSource, *, size: int, resize_short: int, stride: int, limit: int):
        self._source = source
        self._size = size
        self._resize_short = resize_short
        self._stride = stride
        self._latest = threading.local()
        # A picture's crops are numbers _first[i] to _first[i + 1] - 1 of the list before `limit`.
        counts = [self._count(index) for index in range(len(source))] if stride else [1] * len(source)
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._total = int(self._first[-1])
        self._length = min(limit, self._total) if limit else self._total
        if not self._length:
            raise ValueError("The source holds no readable picture to evaluate on; give one that does.")

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
        number = index * self._total // self._length
        picture = int(np.searchsorted(self._first, number, side="right")) - 1
        image = self._picture(picture)
        if image is None:
            return self.blank()
        return {"image": self._cut(image, number - int(self._first[picture])), "mask": np.asarray(True)}

    def blank(self) -> Batch:
        """Return a crop that counts for nothing: zeros, and a False mask."""
        return {"image": np.zeros((self._size, self._size, 3), np.uint8), "mask": np.asarray(False)}

    def _cut(self, image: np.ndarray, number: int) -> np.ndarray:
        if not self._stride:
            return images.center_crop(image, self._size)
        row, column = divmod(number, _places(image.shape[1], self._size, self._stride))
        top, left = row * self._stride, column * self._stride
        return image[top : top + self._size, left : left + self._size]

    def _count(self, index: int) -> int:
        shape = self._source.size(index)
        if shape is None:
            return 0
        if self._resize_short:
            shape = images.short_side_shape(*shape, self._resize_short)
        if min(shape) < self._size:
            shape = images.short_side_shape(*shape, self._size)
        height, width = (_places(side, self._size, self._stride) for side in shape)
        return height * width

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


def _places(side: int, size: int, stride: int) -> int:
    return (side - size) // stride + 1
