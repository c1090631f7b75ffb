"""Compiled programs for inputs of many shapes."""

from collections.abc import Callable
from typing import Any

import jax

KEPT = 16  # of a function at a time: each holds hundreds of memory maps, of which Linux allows a process 65,530


class ManyShapes:
    """`jax.jit`, which forgets its programs whenever it has KEPT of them: of pictures of all sizes each has its own."""

    def __init__(self, function: Callable):
        self._function: Any = jax.jit(function)
        self._kinds: set[tuple[Any, ...]] = set()  # that programs are there for

    def __call__(self, constant, *arrays):
        """constant: a tree of one kind, as weights. arrays: those whose shapes vary."""
        kind = tuple((array.shape, array.dtype) for array in arrays)
        if kind not in self._kinds and len(self._kinds) >= KEPT:
            self._function.clear_cache()
            self._kinds.clear()
        self._kinds.add(kind)
        return self._function(constant, *arrays)
