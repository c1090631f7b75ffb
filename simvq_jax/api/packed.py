"""A tokenizer as files to share: config.json, step.json, and weights.safetensors of what encoding and decoding need."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from simvq_jax.api.base import Tokenizer
from simvq_jax.build import seeded_codebook
from simvq_jax.models.pretrained.safetensors import write_safetensors
from simvq_jax.models.pretrained.weights import read_weights, select_weights
from simvq_jax.state import Inference

WEIGHTS = "weights.safetensors"


def is_packed(folder: Path) -> bool:
    """Whether the folder is one that `write_packed` wrote, and no run that such a file lies in."""
    return (folder / WEIGHTS).is_file() and not (folder / "checkpoints").exists()


def write_packed(tokenizer: Tokenizer, out: Path) -> None:
    """Writes them into the folder."""
    flat = flatten_dict(_stored(tokenizer.config, dict(tokenizer.variables)), sep="/")
    weights = {name: np.asarray(array) for name, array in sorted(flat.items())}
    write_safetensors(out / WEIGHTS, weights, {"format": "flax"})
    (out / "config.json").write_text(json.dumps(tokenizer.config.to_dict(), indent=2) + "\n", encoding="utf-8")
    (out / "step.json").write_text(json.dumps({"step": tokenizer.step}) + "\n", encoding="utf-8")


def read_packed(folder: Path, config, shapes: Inference) -> Inference:
    """The weights that `shapes` has. Raises WeightFileError where they are missing or misshapen."""
    trees = {"params": shapes.ema, "codebook": shapes.codebook, "codebook_stats": shapes.codebook_stats}
    wanted = flatten_dict(_stored(config, trees), sep="/")
    path = folder / WEIGHTS
    found = select_weights(
        read_weights(path), {name: leaf.shape for name, leaf in wanted.items()}, f"{path}: the weights"
    )
    leaves = {name: jnp.asarray(found[name], leaf.dtype) for name, leaf in wanted.items()}
    read = unflatten_dict(leaves, sep="/")
    redraw = seeded_codebook(config)
    codebook = jax.jit(redraw)() if redraw else read.get("codebook", {})
    step = json.loads((folder / "step.json").read_text(encoding="utf-8"))["step"]
    return Inference(jnp.int32(step), read["params"], codebook, read["codebook_stats"])


def _stored(config, trees: dict[str, Any]) -> dict[str, Any]:
    """Without a codebook that a seed says."""
    left_out = ("codebook",) if seeded_codebook(config) else ()
    return {name: tree for name, tree in trees.items() if name not in left_out and tree}
