"""What a compiled program does, read from XLA's text of it: what devices tell each other, and how much they compute."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {  # others 4
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
}
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*)$")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
CALLED = re.compile(r"(?:body|calls|to_apply)=%([^\s,)]+)")


class Array(NamedTuple):
    """dtype as XLA writes it, as "f32"."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * BYTES.get(self.dtype, 4)


class Part(NamedTuple):
    """One array of a collective. name: where it comes from, as the traced functions' names."""

    array: Array
    name: str


class Collective(NamedTuple):
    """kind: of COLLECTIVES. parts: what a device has of it afterwards. group: devices that it runs among, those of
    device 0. times: how often in one run of the program."""

    kind: str
    parts: list[Part]
    group: tuple[int, ...]
    times: int

    @property
    def size(self) -> int:
        """Bytes of the parts together, once."""
        return sum(part.array.size for part in self.parts)

    @property
    def wire(self) -> float:
        """Bytes that a device sends in one run of the program, by the algorithm of a ring."""
        n = len(self.group)
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1, "collective-permute": 1}
        return self.times * self.size * share.get(self.kind, (n - 1) / n)


class Instruction(NamedTuple):
    """A line of the text. rest: operands and attributes."""

    name: str
    arrays: list[Array]
    op: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """Names, in order."""
        return re.findall(r"%([^\s,)]+)", self.rest.partition(")")[0])


class Program:
    """A compiled program, one device's share of it.

    Of a conditional the branch with the least arithmetic counts: those of the search are for rare cases.
    """

    def __init__(self, text: str, devices: int):
        """text: of `compiled.as_text()`."""
        self._devices = devices
        self._computations: dict[str, dict[str, Instruction]] = {}
        self._entry = ""
        self._flops: dict[str, int] = {}
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if line.endswith("{") and "->" in line and not line.startswith(" "):
                name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
                current = self._computations[name] = {}
                self._entry = name if line.startswith("ENTRY") else self._entry
                continue
            found = INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line))
            if found:
                name, kind, op, rest = found.groups()
                current[name] = Instruction(name, _arrays(kind), op, rest)

    def flops(self) -> int:
        """Of products and convolutions, which are nearly all, in one run."""
        return self._flops_of(self._entry)

    def collectives(self) -> list[Collective]:
        """Those among more than one device."""
        return [one for one in self._collectives_of(self._entry, 1) if len(one.group) > 1]

    def _flops_of(self, computation: str) -> int:
        if computation not in self._flops:
            inside = self._computations[computation]
            own = sum(_flops(one, inside) for one in inside.values())
            called = sum(times * self._flops_of(name) for one in inside.values() for name, times in self._calls(one))
            self._flops[computation] = own + called
        return self._flops[computation]

    def _collectives_of(self, computation: str, times: int) -> Iterator[Collective]:
        inside = self._computations[computation]
        for one in inside.values():
            kind = one.op.removesuffix("-start")
            if kind in COLLECTIVES:
                # A start's result has its operands in front.
                arrays = one.arrays[-len(one.operands) :] if one.op.endswith("-start") else one.arrays
                names = [_source(operand, inside) or _name(one) for operand in one.operands]
                parts = [Part(array, name) for array, name in zip(arrays, names, strict=True)]
                yield Collective(kind, parts, _group(one.rest, self._devices), times)
            for name, inner in self._calls(one):
                yield from self._collectives_of(name, times * inner)

    def _calls(self, one: Instruction) -> list[tuple[str, int]]:
        """Computations that an instruction runs, and how often."""
        branches = re.search(r"branch_computations=\{([^}]*)\}", one.rest)
        if branches:
            names = [name.strip().lstrip("%") for name in branches.group(1).split(",")]
            return [(min(names, key=self._flops_of), 1)]
        count = re.search(r'"known_trip_count":\{"n":"(\d+)"', one.rest)
        return [(name, int(count.group(1)) if count else 1) for name in CALLED.findall(one.rest)]


def _arrays(kind: str) -> list[Array]:
    return [Array(d, tuple(int(n) for n in shape.split(",") if n)) for d, shape in ARRAY.findall(kind)]


def _flops(one: Instruction, inside: dict[str, Instruction]) -> int:
    if one.op == "dot":
        left = inside[one.operands[0]].arrays[0].shape
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
        axes = [int(axis) for axis in contracted.group(1).split(",") if axis] if contracted else []
        return 2 * math.prod(one.arrays[0].shape) * math.prod(left[axis] for axis in axes)
    if one.op == "convolution":
        kernel, labels = inside[one.operands[1]].arrays[0].shape, re.search(r"dim_labels=\w+_(\w+)->", one.rest)
        assert labels is not None  # every convolution has them
        taps = math.prod(n for n, label in zip(kernel, labels.group(1), strict=True) if label != "o")
        stretched = re.search(r"lhs_dilate=([\dx]+)", one.rest)  # zeros between what is convolved
        zeros = math.prod(int(n) for n in stretched.group(1).split("x")) if stretched else 1
        return 2 * math.prod(one.arrays[0].shape) * taps // zeros
    return 0


def _name(one: Instruction) -> str:
    found = re.search(r'op_name="([^"]*)"', one.rest)
    return found.group(1) if found else ""


def _source(name: str, inside: dict[str, Instruction]) -> str:
    """The name of the nearest instruction, from this one on backwards, that has one."""
    for _ in range(4):
        one = inside.get(name)
        if one is None or _name(one) or not one.operands:
            break
        name = one.operands[0]
    return _name(one) if one is not None else ""


def _group(rest: str, devices: int) -> tuple[int, ...]:
    """The devices of device 0's group. XLA writes groups in four ways."""
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest)
    if pairs:
        return int(pairs.group(1)), int(pairs.group(2))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    if listed:
        return tuple(int(n) for n in listed.group(1).split(","))
    counted = re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\S+?),? ", rest)
    if counted:
        ids = _iota(counted.group(3), devices).reshape(int(counted.group(1)), int(counted.group(2)))
        return tuple(int(n) for n in ids[0])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*\)?)\))? \{([^}]*)\}", rest)
    if named:
        sizes = {axis: int(n) for axis, n in re.findall(r"'(\w+)'=(\d+)", named.group(1))}
        ids = _iota(named.group(2) or f"[{devices}]", devices).reshape(tuple(sizes.values()))
        over = re.findall(r"'(\w+)'", named.group(3))
        return tuple(int(n) for n in ids[tuple(slice(None) if axis in over else 0 for axis in sizes)].ravel())
    return tuple(range(devices))


def _iota(text: str, devices: int) -> np.ndarray:
    """Device numbers of "[2,4]T(1,0)": counted in that shape, transposed, in a row."""
    shape = re.search(r"\[([\d,]+)\]", text)
    ids = np.arange(devices).reshape([int(n) for n in shape.group(1).split(",")] if shape else [devices])
    order = re.search(r"T\(([\d,]+)\)", text)
    return (ids.transpose([int(n) for n in order.group(1).split(",")]) if order else ids).ravel()
