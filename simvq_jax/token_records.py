"""From pictures and recordings to records of their tokens."""

import collections
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from simvq_jax.api import SoundTokenizer, Tokenizer
from simvq_jax.api.sounds import SMALLEST, filled_size
from simvq_jax.data.encoded import Item
from simvq_jax.data.tokens import Record, token_dtype
from simvq_jax.data.views import Views
from simvq_jax.files import readable
from simvq_jax.mesh import local_mesh, place_batch, replicated
from simvq_jax.models.tokenizer import as_float
from simvq_jax.programs import ManyShapes

LONGEST_FULL = 8  # times SMALLEST tokens: recordings up to there fill a batch


class Piece(NamedTuple):
    """array: what is encoded at once, uint8 (h, w, 3) or float32 (samples,). about: its record, without tokens."""

    array: np.ndarray
    about: Record


class RecordMaker:
    """Encodes on all devices of this process. What has one shape is encoded together, for each compiles a program."""

    def __init__(self, tokenizer: Tokenizer, views: Views | None, batch_size: int):
        """views: of pictures; None for sound. batch_size: is rounded up to a multiple of the devices."""
        self._mesh = local_mesh()
        self._views, self._hop = views, tokenizer.hop if isinstance(tokenizer, SoundTokenizer) else 0
        self._batch_size = 1 if views and views.crops == "whole" else batch_size
        self._batch_size += -self._batch_size % self._mesh.size
        self._dtype = token_dtype(max(tokenizer.autoencoder.quantizer.codebook_sizes))
        self._variables = jax.device_put(tokenizer.variables, replicated(self._mesh))
        autoencoder = tokenizer.autoencoder

        def encode(variables, x, *lengths):
            return autoencoder.apply(variables, as_float(x), *lengths, method="encode")[1]

        self._encode = ManyShapes(encode)

    def records(self, items: Iterable[Item | None]) -> list[Record]:
        """Records in the order of the items and their views; none of an item that is None."""
        found: dict[int, Record] = {}
        waiting: dict[tuple[int, ...], dict[int, Piece]] = collections.defaultdict(dict)
        place = 0
        for item in items:
            for piece in [] if item is None else self._pieces(item):
                same = waiting[piece.array.shape]
                same[place] = piece
                place += 1
                if len(same) == self._rows(piece.array):
                    found |= self._encoded(waiting.pop(piece.array.shape))
        for same in waiting.values():
            found |= self._encoded(same)
        return [found[place] for place in sorted(found)]

    def _pieces(self, item: Item) -> list[Piece]:
        about = {name: readable(item[name]) for name in ("key", "label")}
        if self._views is None:
            sound = item["audio"]
            size = filled_size(len(sound), SMALLEST * self._hop)
            return [Piece(np.pad(sound, (0, size - len(sound))), about | {"samples": len(sound)})]
        views = self._views.of(item["image"])
        return [Piece(view.image, about | {"view": i} | view.place()) for i, view in enumerate(views)]

    def _encoded(self, pieces: dict[int, Piece]) -> dict[int, Record]:
        arrays = np.stack([piece.array for piece in pieces.values()])
        blanks = self._rows(arrays[0]) - len(arrays)
        batch = {"x": np.pad(arrays, [(0, blanks), *[(0, 0)] * (arrays.ndim - 1)])}
        if self._views is None:
            samples = [piece.about["samples"] for piece in pieces.values()]
            batch["lengths"] = np.array(samples + [arrays.shape[1]] * blanks, np.int32)
        with jax.set_mesh(self._mesh):
            indices = np.asarray(self._encode(self._variables, *place_batch(batch, self._mesh).values()))
        tokens = indices.astype(self._dtype)
        return {
            place: piece.about | {"tokens": tokens[row, : self._token_count(piece)]}
            for row, (place, piece) in enumerate(pieces.items())
        }

    def _rows(self, array: np.ndarray) -> int:
        """Of a batch of such arrays: long recordings go in fewer, so that a batch's memory has a bound."""
        if self._views is not None:
            return self._batch_size
        fitting = self._batch_size * LONGEST_FULL * SMALLEST * self._hop // array.shape[0]
        return max(self._mesh.size, min(self._batch_size, fitting // self._mesh.size * self._mesh.size))

    def _token_count(self, piece: Piece) -> int | None:
        """Of a recording; None for pictures, whose tokens all count."""
        return -(-piece.about["samples"] // self._hop) if self._views is None else None
