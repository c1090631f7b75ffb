"""From an official checkpoint's file to the tensors of its networks, each of them accounted for."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from simvq_jax.models.pretrained.raw import WeightFileError
from simvq_jax.official.links import Array, Link

AVERAGE = "model_ema."  # before the names of averages, which are those of the parameters without dots
SHOWN = 10  # names of a kind that an error lists


class Official(NamedTuple):
    """weights: as trained, by official name. average: the same of `params` only, {} where the file has none.

    left_out: why -> how many tensors. cast: dtype -> how many tensors became float32.
    """

    weights: dict[str, Array]
    average: dict[str, Array]
    left_out: dict[str, int]
    cast: dict[str, int]


def read_official(
    found: Mapping[str, Array],
    links: Iterable[Link],
    shapes: Mapping[str, tuple[int, ...]],
    reasons: Mapping[str, str],
) -> Official:
    """The tensors that `links` name.

    Args:
        found: official name to array, as the file has them.
        shapes: official name to the shape that it must have.
        reasons: pattern of names to why they are left out.

    Raises:
        WeightFileError: tensors are missing, misshapen, not finite, no floats, or have names that nothing knows; one
            sentence lists them, of each kind as far as it is not too long, and counts the rest.
    """
    links = list(links)
    wanted = {link.official: link.official for link in links}
    averaged = {_undotted(link.official): link.official for link in links if link.part == "params"}
    has_average = any(name in averaged for name in found)
    expected = wanted | (averaged if has_average else {})
    left_out = Counter(reason for name in found.keys() - expected.keys() if (reason := _reason(name, reasons)))
    missing = [f"{name} {shapes[plain]} is missing" for name, plain in expected.items() if name not in found]
    unknown = [f"{name!r} is unknown" for name in found if name not in expected and not _reason(name, reasons)]
    wrong = [
        fault
        for name, plain in expected.items()
        if name in found
        for fault in _faults(name, found[name], shapes[plain])
    ]
    faults = [_cut(kind, noun) for kind, noun in ((missing, "missing"), (unknown, "unknown"), (wrong, "wrong")) if kind]
    if faults:
        raise WeightFileError(
            f"does not fit: {', '.join(faults)}; give the checkpoint of an official SimVQ, and by --config.KEY=VALUE"
            " what shapes do not tell of it."
        )
    return Official(
        weights={name: _float32(found[name]) for name in wanted},
        average={plain: _float32(found[name]) for name, plain in averaged.items()} if has_average else {},
        left_out=dict(left_out),
        cast=dict(Counter(str(found[name].dtype) for name in expected if found[name].dtype != np.float32)),
    )


def _cut(faults: list[str], noun: str) -> str:
    more = f" and {len(faults) - SHOWN} more {noun}" if len(faults) > SHOWN else ""
    return ", ".join(faults[:SHOWN]) + more


def _undotted(name: str) -> str:
    return AVERAGE + name.replace(".", "")


def _reason(name: str, reasons: Mapping[str, str]) -> str:
    return next((reason for pattern, reason in reasons.items() if re.fullmatch(pattern, name)), "")


def _faults(name: str, array: Array, shape: tuple[int, ...]) -> list[str]:
    if array.shape != shape:
        return [f"{name} is {array.shape} instead of {shape}"]
    if array.dtype.kind != "f":
        return [f"{name} is {array.dtype} instead of floats"]
    finite = (np.abs(array) <= np.finfo(np.float32).max).all()  # NaN is not
    return [] if finite else [f"{name} has values that are not finite"]


def _float32(array: Array) -> Array:
    return np.asarray(array, np.float32)
