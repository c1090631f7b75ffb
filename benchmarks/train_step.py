"""Seconds a training step of the image tokenizer, ours and the official one in alternation, whole and by part.

    python -m benchmarks.train_step [--official=CHECKOUT] [--settings=official,small] [--codebook_sizes=1024,65536] \\
        [--repeats=5] [--calls=1] [--dtype=float32] [--batch_size=0] [--out=benchmarks/results/train_step_cpu.json]

The step is all of training on one batch that lies on the device: generator, discriminator, both optimisers, moving
average; no LPIPS, no data loading, no logging. The two train the same network with the same losses, by the paper's
recipe, on the same photographs, each from random weights of its own; what this project's recipe adds is for
recipe_cost.py. The official one needs PyTorch, einops and a checkout of github.com/youngsheen/SimVQ (see
official_step.py); without --official ours is timed alone.

Parts, each timed by itself in the same alternation:
  convolutions  encoder, decoder and discriminator with their losses, forward and backward, the latents handed to the
                decoder as they are. The official generator loss also gives gradients to the discriminator's weights;
                that is part of its time here as in its step.
  quantizer     search, losses and the count of codes in use, forward and backward, on what the own encoder gives
                for the photographs at the start.
  code_count    of the quantizer's time, the official count of codes in use (ours has no call of its own).
  rest          step - convolutions - quantizer, round by round: optimisers, moving average, figures. As a difference
                of larger times it holds what one program for all saves or costs, and their noise; it can be negative.
Ratios are official / ours: above 1 ours is the faster one.
"""

import gc
import os
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from benchmarks.flags import numbers
from benchmarks.official_step import OfficialStep, import_torch
from benchmarks.our_step import OurStep
from benchmarks.timing import Contender
from simvq_jax import build, cli
from simvq_jax.build.choice import one_of
from simvq_jax.data.sources import SkipLog
from simvq_jax.inputs import build_train_batches, open_data
from simvq_jax.mesh import make_mesh

CONFIG = "configs/imagenet128_simvq.py:65k"
SETTINGS: dict[str, dict[str, Any]] = {
    "official": {"model.width": 128, "data.size": 128, "batch_size": 4},
    "small": {"model.width": 32, "data.size": 64, "batch_size": 16},
}
PARTS = ("step", "convolutions", "quantizer", "rest")


def make_config(setting: str, codebook_size: int, dtype: str, batch_size: int, paper: bool = True):
    """The config of a setting, on photographs that need no download, without LPIPS.

    batch_size: 0 = the setting's. paper: whether by the paper's recipe, or by this project's.
    """
    config = cli.load_config(f"{CONFIG},paper" if paper else CONFIG)[1]
    config.update_from_flattened_dict(SETTINGS[one_of("settings", setting, SETTINGS)])
    config.dtype = dtype
    config.batch_size = batch_size or config.batch_size
    config.quantizer.codebook_size = codebook_size
    config.losses.lpips = 0.0
    config.data.source = "photos"
    config.data.resize_short = config.data.size
    build.check_ranges(config)
    return config


def photographs(config) -> np.ndarray:
    """The first training batch: uint8 (batch, size, size, 3)."""
    batches = build_train_batches(config, open_data(config, "train", SkipLog(None)), 0)
    images = next(batches)["image"]
    batches.close()
    return images


def measure(config, official: str, repeats: int, calls: int) -> dict[str, Any]:
    """The row of one config: seconds by side and part, and their ratios where there are two sides."""
    images, mesh = photographs(config), make_mesh()
    with jax.set_mesh(mesh):
        sides = {"ours": OurStep(config, images, mesh).contenders()}
        if official:
            sides["official"] = OfficialStep(
                Path(official),
                images.astype(np.float32) / 127.5 - 1.0,
                width=config.model.width,
                codebook_size=config.quantizer.codebook_size,
                dtype=config.dtype,
            ).contenders()
        others = timing.OtherLoad()
        seconds = timing.alternate(side_by_side(sides), repeats, calls)
    row = shape_of(config) | {"cores_busy_elsewhere": others.cores()}
    return row | figures({side: {part: seconds[side, part] for part in sides[side]} for side in sides})


def side_by_side(sides: dict[str, dict[str, Contender]]) -> dict[tuple[str, str], Contender]:
    """(side, part) -> contender, the same part of both sides next to each other."""
    parts = dict.fromkeys(part for contenders in sides.values() for part in contenders)
    return {(side, part): sides[side][part] for part in parts for side in sides if part in sides[side]}


def shape_of(config) -> dict[str, Any]:
    """What was run."""
    return {
        "codebook_size": config.quantizer.codebook_size,
        "batch_size": config.batch_size,
        "picture_size": config.data.size,
        "width": config.model.width,
        "tokens": config.batch_size * build.tokens_an_example(config),
        "dtype": config.dtype,
    }


def figures(seconds: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Side -> part -> its seconds in short; official / ours by part, left out where a rest is not above 0."""
    for parts in seconds.values():
        named = zip(parts["step"], parts["convolutions"], parts["quantizer"], strict=True)
        parts["rest"] = [step - convolutions - quantizer for step, convolutions, quantizer in named]
    row: dict[str, Any] = {
        side: {part: timing.summary(values) for part, values in parts.items()} for side, parts in seconds.items()
    }
    if "official" in seconds:
        ours, theirs = seconds["ours"], seconds["official"]
        positive = [part for part in PARTS if min(*ours[part], *theirs[part]) > 0]
        row["ratio"] = {part: timing.ratio(theirs[part], ours[part]) for part in positive}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Medians in seconds, with the spread of the step's, and ratios, as markdown."""
    body = []
    for row in rows:
        for side in [side for side in ("ours", "official") if side in row]:
            step, parts = row[side]["step"], [str(row[side][part]["median"]) for part in PARTS[1:]]
            spread = f"{step['median']} ({step['fastest']} to {step['slowest']})"
            body.append([row["setting"], row["codebook_size"], f"{side}, s", spread, *parts])
        if "ratio" in row:
            ratios = [f"{row['ratio'][part]['of_medians']:.2f}" if part in row["ratio"] else "-" for part in PARTS]
            body.append([row["setting"], row["codebook_size"], "official / ours", *ratios])
    return timing.markdown_table(["setting", "K", "", *PARTS], body)


def check_flags(official: str, repeats: int, calls: int) -> None:
    """Raises ValueError on what cannot be timed."""
    if repeats < 1 or calls < 1:
        raise ValueError(f"repeats is {repeats} and calls {calls} but both must be at least 1.")
    if official and jax.device_count() > 1:
        raise ValueError(
            f"the official step runs on one device but jax sees {jax.device_count()}: show it one, as by"
            " CUDA_VISIBLE_DEVICES=0."
        )


def official_source(checkout: str) -> dict[str, Any]:
    """Commit of the checkout ("unknown" without its git folder), and PyTorch's threads."""
    git = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {"commit": git.stdout.strip() or "unknown", "torch_threads": import_torch().get_num_threads()}


def main(
    settings: str, codebook_sizes: str, official: str, repeats: int, calls: int, dtype: str, batch_size: int, out: str
) -> None:
    """Prints the table, and writes every figure to `out`."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs its share of an accelerator
    check_flags(official, repeats, calls)
    rows = []
    for setting in settings.split(","):
        for codebook_size in numbers(codebook_sizes, "codebook_sizes"):
            config = make_config(setting, codebook_size, dtype, batch_size)
            rows.append({"setting": setting} | measure(config, official, repeats, calls))
            gc.collect()
            jax.clear_caches()
    result = timing.provenance(["flax", "optax", "torch"]) | {"repeats": repeats, "calls": calls}
    result |= {"official": official_source(official)} if official else {}
    result |= {"peak_host_memory_gib": timing.peak_memory_gib(), "rows": rows}
    if out:
        timing.write_json(out, result)
    print(table(rows))


if __name__ == "__main__":
    cli.run_main(
        main,
        {
            "settings": ",".join(SETTINGS),
            "codebook_sizes": "1024,65536",
            "official": "",
            "repeats": 5,
            "calls": 1,
            "dtype": "float32",
            "batch_size": 0,
            "out": "",
        },
        {
            "settings": f"of {', '.join(SETTINGS)}, with commas between",
            "codebook_sizes": "values of K, with commas between",
            "official": "folder of a checkout of github.com/youngsheen/SimVQ",
            "repeats": "measurements of every part",
            "calls": "calls that a measurement averages over",
            "dtype": "float32 | bfloat16, of both sides",
            "batch_size": "pictures a step; 0 = the setting's",
            "out": "JSON file for every figure",
        },
    )
