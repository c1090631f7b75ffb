"""What a training step will cost before a machine is rented: `python -m simvq_jax.explain --config=configs/NAME.py`.

The step is compiled for simulated devices on this machine, and read: which array lies where, what devices tell each
other, how much they compute. The estimates divide these counts by the speeds of a chip and its links; they suppose that
nothing overlaps.
"""

import collections
import copy
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax import build, cli
from simvq_jax.files import replace_text
from simvq_jax.hlo import Collective, Program
from simvq_jax.mesh import CODES, batch_sharding, check_batch, check_codebook, jit_step, make_mesh
from simvq_jax.start import state_template
from simvq_jax.state import TrainState
from simvq_jax.store import local_path


class Chip(NamedTuple):
    """teraflops: peak of bfloat16 products. link: gigabytes a second that a device can send to others near it."""

    teraflops: float
    link: float


# Vendors' data sheets: TPU v5e and v5p have 400 and 1,200 GB/s of links in both directions together, H100 and A100
# NVLink of 900 and 600.
CHIPS = {
    "v5e": Chip(197, 200),
    "v5p": Chip(459, 600),
    "v6e": Chip(918, 400),
    "a100": Chip(312, 300),
    "h100": Chip(989, 450),
}
# Sums that the recipe needs, named however small they are.
RECIPE = (
    ("_region_loss", "region loss: how many tokens a code has, targets of unused ones"),
    ("_spread_ratio", "spread of tokens and of codes"),
    ("restarts", "tokens at which codes restart"),
)
# What an array that devices exchange is for, by a part of the traced functions' names; the first that fits.
PURPOSES = (
    ("transpose(", "gradients"),
    *RECIPE,
    ("shard_map", "sharded codebook: nearest codes and their rows"),
    ("scatter-add", "how often each code is used"),
    ("quantizer", "other sums of the quantizer"),
    ("optimizer", "optimiser"),
)
PARTS = ("params", "optimiser", "average", "codebook", "statistics")


class Row(NamedTuple):
    """Collectives of one kind, over the same mesh axes, for the same purpose. largest: elements of the largest array.
    size: bytes a device has of them afterwards. wire: bytes that it sends, each a step."""

    kind: str
    axes: str
    purpose: str
    arrays: int
    largest: int
    size: int
    wire: float


class Explanation(NamedTuple):
    """Of one device, a step.

    state: bytes by part of the state. batch: bytes of the share of the batch. arguments: bytes of both, as compiled.
    temporary: bytes beyond those, as XLA lays them out for a CPU. flops: of products and convolutions.
    """

    mesh: dict[str, int]
    state: dict[str, int]
    batch: int
    arguments: int
    temporary: int
    flops: int
    collectives: list[Row]
    shardings: list[tuple[str, str, str]]

    @property
    def wire(self) -> float:
        """Bytes that a device sends."""
        return sum(row.wire for row in self.collectives)


def explain(config) -> Explanation:
    """Compiles the training step of a config for all devices there are, and reads it.

    Raises ValueError where the mesh does not fit the devices, the batch or the codebook.
    """
    mesh = make_mesh(**config.mesh)
    check_batch(config.batch_size, config.accumulate, mesh)
    check_codebook(config.quantizer.codebook_size, mesh)
    config = copy.deepcopy(config)
    config.discriminator.start = 0  # a step as most will be
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    step = build.build_train_step(config, networks, optimizers)
    dtype = jnp.float32 if build.of_sound(config) else jnp.uint8
    shape = (config.batch_size, *build.example_shape(config))
    batch = jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
    # Only read, never run: the machine's code need not be good.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    with jax.set_mesh(mesh):
        state = state_template(config, networks, optimizers, mesh)
        compiled = jit_step(step, state, mesh).lower(state, batch, {}).compile(compiler_options=quick)
    program, memory = Program(compiled.as_text(), mesh.size), compiled.memory_analysis()
    return Explanation(
        mesh=dict(mesh.shape),
        state=state_bytes(state),
        batch=math.prod(batch.sharding.shard_shape(shape)) * batch.dtype.itemsize,
        arguments=int(memory.argument_size_in_bytes),
        temporary=int(memory.temp_size_in_bytes),
        flops=program.flops(),
        collectives=_rows(program.collectives(), dict(mesh.shape)),
        shardings=_shardings(state),
    )


def state_bytes(state: TrainState) -> dict[str, int]:
    """Bytes of a device's share, by PARTS."""

    def total(*trees) -> int:
        leaves = jax.tree.leaves(trees)
        return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)

    players = (state.generator, state.discriminator)
    codes, others = _codes_and_others(state.codebook_stats)
    parts = (
        [player.params for player in players],
        [player.opt_state for player in players],
        state.ema,
        [state.codebook, codes],
        others,
    )
    return dict(zip(PARTS, (total(part) for part in parts), strict=True))


def _codes_and_others(stats) -> tuple[list, list]:
    """Of the statistics those that are codes, which training moves without a gradient, and the rest."""
    codes: list = []
    others: list = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(stats):
        (codes if path[-1].key in CODES else others).append(leaf)
    return codes, others


def _shardings(state: TrainState) -> list[tuple[str, str, str]]:
    """(path, shape, sharding) of the parameters, constants and statistics that are split."""
    trees = {
        "params": state.generator.params,
        "codebook": state.codebook,
        "codebook_stats": state.codebook_stats,
    }
    leaves = jax.tree_util.tree_leaves_with_path(trees)
    split = [(path, leaf) for path, leaf in leaves if leaf.sharding.shard_shape(leaf.shape) != leaf.shape]
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), str(leaf.shape), str(tuple(leaf.sharding.spec)))
        for path, leaf in split
    ]


def _rows(found: list[Collective], mesh: dict[str, int]) -> list[Row]:
    """The collectives, those alike together, the most bytes on the wire first."""
    alike: dict[tuple[str, str, str], list[tuple[int, int, float]]] = collections.defaultdict(list)
    for one in found:
        for part in one.parts:
            share = part.array.size / max(one.size, 1)
            key = (one.kind, _axes(one.group, mesh), _purpose(one.kind, part.name, part.array.shape))
            alike[key].append((math.prod(part.array.shape), part.array.size * one.times, one.wire * share))
    rows = [
        Row(*key, len(parts), max(p[0] for p in parts), sum(p[1] for p in parts), sum(p[2] for p in parts))
        for key, parts in alike.items()
    ]
    return sorted(rows, key=lambda row: -row.wire)


def _axes(group: tuple[int, ...], mesh: dict[str, int]) -> str:
    """The mesh axes along which a group's devices differ."""
    places = np.stack(np.unravel_index(np.array(group), tuple(mesh.values())))
    return "+".join(axis for axis, along in zip(mesh, places, strict=True) if np.ptp(along))


def _purpose(kind: str, name: str, shape: tuple[int, ...]) -> str:
    if kind == "all-gather" and ("quantizer." not in name or "state." in name):
        return "parameters, gathered for use"
    if not shape and not any(part in name for part in ("transpose(", *dict(RECIPE))):
        return "figures: numbers"
    return next((words for part, words in PURPOSES if part in name), "figures")


def seconds(explanation: Explanation, chip: Chip, utilization: float) -> tuple[float, float]:
    """Of a step: that of computing, at this share of the peak, and that on the wire."""
    return explanation.flops / (chip.teraflops * 1e12 * utilization), explanation.wire / (chip.link * 1e9)


def text(explanation: Explanation, config, chip: Chip, utilization: float) -> str:
    """The explanation as a page of tables."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in explanation.mesh.items())
    devices = math.prod(explanation.mesh.values())
    computing, sending = seconds(explanation, chip, utilization)
    state = sum(explanation.state.values())
    lines = [
        f"{devices} devices, {mesh}; batch {config.batch_size}, {config.dtype}, without LPIPS",
        "",
        "state, MB a device:  " + "  ".join(f"{name} {size / 1e6:,.1f}" for name, size in explanation.state.items()),
        f"in all {state / 1e6:,.1f} MB of state, {explanation.batch / 1e6:,.1f} of the batch,"
        f" {explanation.temporary / 1e6:,.0f} of temporaries (as laid out for a CPU)",
        f"arithmetic: {explanation.flops / 1e9:,.1f} GFLOP a device and step",
        *(
            ["what is bfloat16 is counted as float32 below, for so a CPU sends it"]
            if config.dtype == "bfloat16"
            else [f"the estimate takes the chip's rate of bfloat16, which {config.dtype} does not reach"]
        ),
        "",
        f"{'collective':20} {'axes':14} {'arrays':>6} {'largest':>12} {'MB':>10} {'MB sent':>10}  for",
    ]
    lines += [
        f"{row.kind:20} {row.axes:14} {row.arrays:6} {row.largest:12,} {row.size / 1e6:10,.3f}"
        f" {row.wire / 1e6:10,.3f}  {row.purpose}"
        for row in explanation.collectives
    ]
    lines += [
        "",
        f"estimate at {chip.teraflops:g} TFLOP/s x {utilization:.0%} and {chip.link:g} GB/s:"
        f" computing {computing * 1e3:,.2f} ms, sending {sending * 1e3:,.2f} ms,"
        f" {sending / (computing + sending):.1%} of the step if nothing overlaps and all links are alike",
    ]
    if explanation.shardings:
        lines += ["", "split arrays:"]
        lines += [f"  {path:60} {shape:24} {spec}" for path, shape, spec in explanation.shardings]
    else:
        lines += ["", "every array is whole on every device"]
    return "\n".join(lines)


def chip_of(name: str, teraflops: float, link: float) -> Chip:
    """The named chip, with other speeds where they are given. Raises ValueError on an unknown name or no speed."""
    if teraflops < 0 or link < 0:
        raise ValueError(
            f"--teraflops is {teraflops} and --link_gb_s {link} but neither may be negative; 0 = the chip's."
        )
    if name not in CHIPS:
        raise ValueError(f"--chip={name} is unknown: give one of {', '.join(CHIPS)}.")
    chip = CHIPS[name]
    return chip._replace(teraflops=teraflops or chip.teraflops, link=link or chip.link)


def simulate_devices(count: int) -> None:
    """Has jax pretend to so many devices on this CPU; before anything asks for one."""
    if count < 1:
        raise ValueError(f"--devices is {count} but must be at least 1.")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


def main(
    config: Any, devices: int, chip: str, teraflops: float, link_gb_s: float, utilization: float, out: str
) -> None:
    """Command line of `explain`."""
    file = local_path("out", out)
    speeds = chip_of(chip, teraflops, link_gb_s)
    if not 0 < utilization <= 1:
        raise ValueError(f"--utilization is {utilization} but must lie in (0, 1].")
    simulate_devices(devices)
    build.check_ranges(config)
    explanation = explain(config)
    print(text(explanation, config, speeds, utilization))
    if out:
        rows = [row._asdict() for row in explanation.collectives]
        replace_text(file, json.dumps(explanation._asdict() | {"collectives": rows}, indent=2) + "\n")


if __name__ == "__main__":
    cli.run_main(
        main,
        {"devices": 8, "chip": "h100", "teraflops": 0.0, "link_gb_s": 0.0, "utilization": 0.4, "out": ""},
        {
            "devices": "how many to simulate; --config.mesh.fsdp=4 and the like lay them out",
            "chip": f"whose speeds to reckon with: {', '.join(CHIPS)}",
            "teraflops": "a second of a chip, instead of its own",
            "link_gb_s": "gigabytes a second that a chip sends, instead of its own",
            "utilization": "share of the peak that is reached",
            "out": "JSON file for the same",
        },
        config=True,
    )
