"""Official checkpoints in, and out again: `python -m simvq_jax.convert --checkpoint=FILE --out=RUN`.

Reads a Lightning `.ckpt`, a `.pth` or a `.safetensors` of the official SimVQ, of images or speech, without PyTorch and
without running anything of it, and writes a run folder: to load, to evaluate, to reconstruct and extract tokens with,
and to train on from. The architecture is read off the tensors; what shapes do not tell is the paper's unless
`--config.KEY=VALUE` says otherwise, or `--config=FILE` names another experiment to go on with.

    python -m simvq_jax.convert --run=RUN --out=FILE.safetensors

writes a run's weights under the official names instead.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from configs import imagenet128_simvq, libritts24k_simvq
from simvq_jax import build, cli
from simvq_jax.api import restored_state
from simvq_jax.checkpoint import Checkpointer
from simvq_jax.files import check_unused, new_folder, replace_text, replacing
from simvq_jax.game import Networks
from simvq_jax.models.pretrained.raw import WeightFileError
from simvq_jax.models.pretrained.safetensors import write_safetensors
from simvq_jax.models.pretrained.weights import read_state_dict, sha256
from simvq_jax.official import (
    Architecture,
    Link,
    Official,
    Trees,
    architecture_of,
    counterpart,
    from_trees,
    into_trees,
    official_shapes,
    read_official,
)
from simvq_jax.official.architecture import OF_PICTURES, OF_SOUND
from simvq_jax.state import Player, TrainState
from simvq_jax.store import local_path, path_of

# The paper's experiments; the codebook's size is the file's.
PAPERS = {OF_PICTURES: (imagenet128_simvq, "1k,paper"), OF_SOUND: (libritts24k_simvq, "4k,paper")}
WEIGHTS = ("ema", "raw")
RECORD = "conversion.json"


class Conversion(NamedTuple):
    """What a file's tensors are here. config: of the run; official: the tensors, each of them named by `links`."""

    architecture: Architecture
    config: ml_collections.ConfigDict
    networks: Networks
    links: list[Link]
    official: Official


def convert(
    checkpoint: Path,
    out: Path,
    modality: str = "",
    weights: str = "ema",
    config: ml_collections.ConfigDict | None = None,
    overrides: dict[str, Any] | None = None,
) -> Conversion:
    """Writes the run folder `out` of an official checkpoint, as a run at step 0 with fresh optimisers.

    Args:
        modality: "image" or "speech"; "" = by the names of the tensors.
        weights: "ema" for a run that encodes with the averages and trains on from the weights; "raw" for the weights
            in both places.
        config: the experiment to go on with; None = the paper's, in float32. overrides: config key -> value, above it.

    Raises:
        FileNotFoundError: there is no such file.
        FileExistsError: `out` is in use.
        WeightFileError: the file is damaged, or of no such tokenizer; or it and the config disagree.
    """
    _check_weights(weights)
    check_unused(out)
    found = read_state_dict(checkpoint)
    try:
        conversion = match(found, modality, config, overrides or {})
    except WeightFileError as error:
        raise WeightFileError(f"{checkpoint} {error}") from None
    averaged = weights == "ema" and bool(conversion.official.average)
    if weights == "ema" and not averaged:
        logging.warning("%s has no averaged weights (model_ema.*): the run encodes with its plain ones.", checkpoint)
    record = {
        "checkpoint": checkpoint.name,
        "sha256": sha256(checkpoint),
        "modality": conversion.architecture.modality,
        "weights": "ema" if averaged else "raw",
        "left_out": conversion.official.left_out,
        "cast_to_float32": conversion.official.cast,
    }
    _write_run(out, conversion.config, _state(conversion, averaged), record)
    return conversion


def match(found: Mapping[str, np.ndarray], modality: str, config, overrides: dict[str, Any]) -> Conversion:
    """Accounts for every tensor of a file; arguments as of `convert`, and raises the same."""
    architecture = architecture_of({name: array.shape for name, array in found.items()}, modality)
    config = _config(architecture, config, overrides)
    networks = build.build_networks(config)
    in_file = architecture.keys["discriminator.enabled"]  # else that of the config starts anew
    links, reasons = counterpart(networks.autoencoder, networks.discriminator if in_file else None)
    shapes = jax.eval_shape(_initializer(config, networks), jax.random.key(0))
    official = read_official(found, links, official_shapes(_trees(shapes), links), reasons)
    return Conversion(architecture, config, networks, links, official)


def export(run: Path, out: Path, weights: str = "ema") -> int:
    """Writes a run's weights as `.safetensors` under the official names; returns how many tensors.

    The discriminator's are among them. Its running statistics, and what the official model computes or never calls,
    are not: load with `strict=False`. Raises ValueError where there is no official counterpart.
    """
    _check_weights(weights)
    if out.suffix != ".safetensors":
        raise ValueError(f"--out={out} but a run is written as .safetensors: end the name so.")
    if out.exists():
        raise FileExistsError(f"{out} is there already: give another --out, so that nothing is lost.")
    _, networks, state = restored_state(run)
    links, _ = counterpart(networks.autoencoder, networks.discriminator)
    params = state.ema if weights == "ema" else state.generator.params
    tensors = from_trees(_trees(state)._replace(params=params), links)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as fresh:
        write_safetensors(fresh, tensors, {"weights": weights, "step": str(int(state.step)), "format": "pt"})
    return len(tensors)


def _check_weights(weights: str) -> None:
    if weights not in WEIGHTS:
        raise ValueError(f"weights is {weights!r} but must be one of {', '.join(WEIGHTS)}.")


def _config(architecture: Architecture, config, overrides: dict[str, Any]) -> ml_collections.ConfigDict:
    """The experiment's config with the file's architecture. Raises WeightFileError where the two disagree."""
    chosen = (cli.flatten(config) if config is not None else {}) | overrides
    enabled = "discriminator.enabled"  # a run may go on without the discriminator of its file, or with a new one
    game = chosen.get(enabled, architecture.keys[enabled])
    disagreeing = [
        f"{key} is {chosen[key]!r} but the file has {value!r}"
        for key, value in architecture.keys.items()
        if chosen.get(key, value) != value and key != enabled and (game or not key.startswith("discriminator."))
    ]
    if disagreeing:
        raise WeightFileError(
            f"and the config disagree: {', '.join(disagreeing)}; set them as it has them, or leave them out."
        )
    if config is None:
        paper, smallest = PAPERS[architecture.modality]
        config = paper.get_config(smallest)
        config.dtype = "float32"
    config = ml_collections.ConfigDict(config.to_dict())
    config.update_from_flattened_dict(architecture.keys | {enabled: game} | overrides)
    build.check_ranges(config)
    return config


def _initializer(config, networks: Networks):
    """A function of a key that gives a run's state at step 0."""
    optimizers = build.build_optimizers(config)
    return lambda key: build.build_state(config, networks, optimizers, key)


def _trees(state: TrainState) -> Trees:
    basis = getattr(state, _keeper_of_basis(state))["quantizer"]["basis"]
    return Trees(state.generator.params, {"quantizer": {"basis": basis}}, state.discriminator.params)


def _keeper_of_basis(state: TrainState) -> str:
    """The field that has C: where codes restart, what training changes, else the constants."""
    return "codebook_stats" if "basis" in state.codebook_stats["quantizer"] else "codebook"


def _state(conversion: Conversion, averaged: bool) -> TrainState:
    config, official, links = conversion.config, conversion.official, conversion.links
    quick = {"xla_backend_optimization_level": 0}  # a program that runs once
    init = jax.jit(_initializer(config, conversion.networks), compiler_options=quick)
    fresh = init(jax.random.key(config.seed))
    trees = jax.tree.map(jnp.asarray, into_trees(official.weights, links))
    ema = into_trees({**official.weights, **official.average}, links).params if averaged else trees.params
    adversary = fresh.discriminator
    keeper = _keeper_of_basis(fresh)
    kept = getattr(fresh, keeper)
    return dataclasses.replace(
        fresh,
        generator=Player(trees.params, fresh.generator.opt_state),
        discriminator=Player(trees.discriminator or adversary.params, adversary.opt_state),
        ema=jax.tree.map(jnp.array, ema),
        **{keeper: {**kept, "quantizer": {**kept["quantizer"], **trees.codebook["quantizer"]}}},
    )


def _write_run(out: Path, config, state: TrainState, record: dict[str, Any]) -> None:
    with new_folder(out) as fresh:
        with Checkpointer(fresh, config.keep_checkpoints, redraw=build.seeded_codebook(config)) as checkpoints:
            checkpoints.save(state, 0)
            checkpoints.wait()
        for name, content in (("config.json", config.to_dict()), (RECORD, record)):
            replace_text(fresh / name, json.dumps(content, indent=2) + "\n")


def main(checkpoint: str, run: str, out: str, modality: str, weights: str, config: cli.Chosen) -> None:
    """Command line of `convert` and of `export`."""
    if bool(checkpoint) == bool(run):
        raise ValueError("give --checkpoint=FILE to convert into a run, or --run=RUN to write its weights, not both.")
    if run and (modality or config.config is not None or config.overrides):
        raise ValueError("--modality and --config are of official checkpoints, but --run is none: leave them out.")
    target = local_path("out", out)
    if run:
        print(f"{out}: {export(path_of(run), target, weights)} tensors, load them with strict=False")
        return
    done = convert(local_path("checkpoint", checkpoint), target, modality, weights, config.config, config.overrides)
    numbers = sum(array.size for array in done.official.weights.values())
    print(f"{out}: {done.architecture.modality} tokenizer of {numbers:,} numbers")
    for key, value in done.architecture.keys.items():
        print(f"  {key} = {value}")
    for dtype, count in done.official.cast.items():
        print(f"  {count} tensors are {dtype} there and float32 here")
    for reason, count in done.official.left_out.items():
        print(f"  {count} tensors are left out: {reason}")


if __name__ == "__main__":
    cli.run_main(
        main,
        {"checkpoint": "", "run": "", "out": cli.REQUIRED, "modality": "", "weights": "ema"},
        {
            "checkpoint": "official .ckpt, .pth or .safetensors, to convert into a run folder",
            "run": "run folder, to write its weights under the official names",
            "out": "run folder to write; with --run the .safetensors to write",
            "modality": "image or speech; by default as the names of the tensors say",
            "weights": "ema (averaged) or raw; with ema a run still trains on from the raw ones",
        },
        optional_config=True,
    )
