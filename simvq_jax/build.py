"""From a config to modules, optimisers and losses. Read only here, in inputs.py and at the entry points."""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections
from absl import logging

from configs import common
from simvq_jax import cli
from simvq_jax.discriminators.patch import PatchGAN
from simvq_jax.losses.adversarial import DISCRIMINATOR_LOSSES, GENERATOR_LOSSES
from simvq_jax.losses.perceptual import load_lpips
from simvq_jax.models.cnn import Decoder, Encoder
from simvq_jax.models.tokenizer import Autoencoder
from simvq_jax.models.vit import ViTDecoder, ViTEncoder
from simvq_jax.optim import discriminator_optimizer, generator_optimizer, make_schedule
from simvq_jax.quantize import (
    EMAVQ,
    FSQ,
    LFQ,
    VQ,
    FactorizedVQ,
    MomentVQ,
    ProductQuantizer,
    ResidualQuantizer,
    SimVQ,
)
from simvq_jax.state import TrainState, create_state
from simvq_jax.step import LossWeights, Networks, Optimizers, make_train_step

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(config):
    """The dtype that `dtype` names."""
    return DTYPES[one_of("dtype", config.dtype, DTYPES)]


AT_LEAST_ONE = (
    "steps",
    "batch_size",
    "accumulate",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "max_skipped_in_a_row",
    "data.eval_batch_size",
    "model.width",
    "model.residual_blocks",
    "model.norm_groups",
    "model.patch",
    "model.depth",
    "model.heads",
    "quantizer.codebook_size",
    "quantizer.dim",
    "quantizer.stages",
    "discriminator.width",
    "discriminator.layers",
)
NOT_NEGATIVE = (
    "discriminator.start",
    "optimizer.clip_norm",
    "optimizer.spread_limit",
    "quantizer.activity_share",
    "quantizer.basis_dim",
    "quantizer.start_scale",
)
FACTORS = ("optimizer.b1", "optimizer.b2", "optimizer.ema_decay")  # in [0, 1)


def check_ranges(config) -> None:
    """Raises ValueError, naming the key, on numbers that no module could use."""
    values = cli.flatten(config)
    for key in AT_LEAST_ONE:
        if not values[key] >= 1:
            raise ValueError(f"{key} is {values[key]} but must be at least 1.")
    for key in NOT_NEGATIVE:
        if not values[key] >= 0:
            raise ValueError(f"{key} is {values[key]} but must be at least 0.")
    for key in FACTORS:
        if not 0 <= values[key] < 1:
            raise ValueError(f"{key} is {values[key]} but must lie in [0, 1).")
    if len(values["data.crop_scale"]) != 2:
        raise ValueError(f"data.crop_scale is {values['data.crop_scale']} but must be two shares, as (0.5, 1.0).")
    if values["discriminator.enabled"] and values["discriminator.start"] >= values["steps"]:
        raise ValueError(
            f"discriminator.start is {values['discriminator.start']} but steps {values['steps']}, so the discriminator"
            " would never take part: lower discriminator.start, or set discriminator.enabled to False."
        )
    if not values["model.multipliers"]:
        raise ValueError("model.multipliers is empty but must name the width of one level at least.")
    factor = pixels_a_token(config)
    if values["data.size"] < 1 or values["data.size"] % factor:
        raise ValueError(
            f"data.size is {values['data.size']} but must be a multiple of {factor}, the pixels a side of a token."
        )


def pixels_a_token(config) -> int:
    """f, the pixels a side of a token."""
    model = config.model
    return model.patch if model.kind == "vit" else 2 ** (len(model.multipliers) - 1)


def one_of(key: str, value: str, choices) -> str:
    """The value, or ValueError naming the key and its choices."""
    if value not in choices:
        raise ValueError(f"{key} is {value!r} but must be one of {', '.join(choices)}.")
    return value


def build_autoencoder(config) -> Autoencoder:
    """The tokenizer's network. Raises ValueError on values that cannot be."""
    dtype = compute_dtype(config)
    kind = one_of("model.kind", config.model.kind, MODELS)
    encoder, decoder = MODELS[kind](config.model, config.quantizer.dim, dtype)
    return Autoencoder(encoder, build_quantizer(config, dtype), decoder)


def _cnn(model, dim: int, dtype):
    fields = {
        "width": model.width,
        "multipliers": tuple(model.multipliers),
        "residual_blocks": model.residual_blocks,
        "norm_groups": model.norm_groups,
        "remat": model.remat,
        "dtype": dtype,
    }
    return Encoder(latent_channels=dim, **fields), Decoder(**fields)


def _vit(model, dim: int, dtype):
    fields = {
        "patch": model.patch,
        "width": model.width,
        "depth": model.depth,
        "heads": model.heads,
        "remat": model.remat,
        "dtype": dtype,
    }
    return ViTEncoder(latent_channels=dim, **fields), ViTDecoder(**fields)


MODELS = {"cnn": _cnn, "vit": _vit}


def build_quantizer(config, dtype):
    """The quantizer that `quantizer.kind` names, or several of it, as `quantizer.compound` says."""
    quantizer = config.quantizer
    build = QUANTIZERS[one_of("quantizer.kind", quantizer.kind, QUANTIZERS)]
    compound = one_of("quantizer.compound", quantizer.compound, ("residual", "product"))
    if quantizer.stages == 1:
        return build(quantizer, dtype)
    if quantizer.basis_seed >= 0 or quantizer.basis_file:
        raise ValueError(
            f"quantizer.stages is {quantizer.stages}, quantizer.basis_seed {quantizer.basis_seed} and basis_file"
            f" {quantizer.basis_file!r}, but stages of one seed or file would have one basis: set stages to 1, or"
            " basis_seed to -1 and basis_file to ''."
        )
    if compound == "product" and quantizer.dropout:
        raise ValueError(
            f"quantizer.dropout is {quantizer.dropout} but parts of a token cannot be left out: set it to 0, or"
            " quantizer.compound to residual."
        )
    if compound == "residual":
        return ResidualQuantizer([build(quantizer, dtype) for _ in range(quantizer.stages)], dtype, quantizer.dropout)
    if quantizer.dim % quantizer.stages:
        raise ValueError(
            f"quantizer.stages is {quantizer.stages} but does not divide quantizer.dim = {quantizer.dim}: change one."
        )
    part = ml_collections.ConfigDict({**quantizer, "dim": quantizer.dim // quantizer.stages})
    return ProductQuantizer([build(part, dtype) for _ in range(quantizer.stages)], dtype)


def _nearest(module, fields: dict[str, str]):
    """Builds a quantizer with a codebook. fields: of the module beyond those all have -> config keys."""

    def build(quantizer, dtype):
        own = {field: getattr(quantizer, key) for field, key in fields.items()}
        return module(
            codebook_size=quantizer.codebook_size,
            dim=quantizer.dim,
            beta=quantizer.beta,
            legacy=quantizer.legacy,
            estimator=quantizer.estimator,
            dtype=dtype,
            **own,
        )

    return build


def _simvq(quantizer, dtype):
    fields = ("basis_init", "basis_dtype", "trainable_basis", "use_bias", "hidden", "codebook_loss", "activity_share")
    build = _nearest(SimVQ, {name: name for name in (*fields, "region_sources")})
    return build(quantizer, dtype).clone(
        basis_dim=quantizer.basis_dim or None,
        basis_seed=None if quantizer.basis_seed < 0 else quantizer.basis_seed,
        basis_file=quantizer.basis_file or None,
        start_scale=quantizer.start_scale or None,
    )


def _fsq(quantizer, dtype):
    levels = tuple(quantizer.levels)
    if math.prod(levels) != quantizer.codebook_size:
        raise ValueError(
            f"quantizer.levels is {levels}, {math.prod(levels)} codes, but quantizer.codebook_size is"
            f" {quantizer.codebook_size}: make them agree."
        )
    return FSQ(levels, quantizer.dim, dtype)


def _lfq(quantizer, dtype):
    return LFQ(
        quantizer.codebook_size,
        quantizer.dim,
        beta=quantizer.beta,
        entropy_weight=quantizer.entropy_weight,
        diversity=quantizer.diversity,
        temperature=quantizer.temperature,
        dtype=dtype,
    )


QUANTIZERS = {
    "simvq": _simvq,
    "vq": _nearest(VQ, {"codebook_init": "codebook_init", "restart_after": "restart_after"}),
    "ema_vq": _nearest(
        EMAVQ, {"codebook_init": "codebook_init", "decay": "ema_decay", "restart_after": "restart_after"}
    ),
    "factorized_vq": _nearest(FactorizedVQ, {"code_dim": "code_dim"}),
    "moment_vq": _nearest(MomentVQ, {"decay": "moment_decay"}),
    "fsq": _fsq,
    "lfq": _lfq,
}


def seeded_codebook(config):
    """A function that draws `TrainState.codebook` anew where the config's seed says it all, else None."""
    quantizer = build_quantizer(config, None)
    if getattr(quantizer, "basis_seed", None) is None:
        return None
    return lambda: {"quantizer": {"basis": quantizer.seeded_basis()}}


def build_networks(config) -> Networks:
    """Autoencoder, and PatchGAN where the config enables it."""
    discriminator = None
    if config.discriminator.enabled:
        discriminator = PatchGAN(config.discriminator.width, config.discriminator.layers, compute_dtype(config))
    return Networks(build_autoencoder(config), discriminator)


def build_schedules(config) -> dict[str, Any]:
    """Schedules by the name of their metric: of the networks, of the codebook transform, of the discriminator."""
    schedule, steps = config.schedule, config.steps

    def rest(peak):
        return make_schedule(schedule.kind, peak, steps, schedule.warmup_fraction)

    return {
        "learning_rate": rest(config.optimizer.learning_rate),
        "discriminator_learning_rate": rest(config.discriminator.learning_rate),
        "transform_learning_rate": make_schedule(
            schedule.transform_kind,
            config.optimizer.transform_learning_rate,
            steps,
            schedule.transform_warmup_fraction,
        ),
    }


def build_optimizers(config) -> Optimizers:
    """Adam for both players."""
    schedules = build_schedules(config)
    shared = {"b1": config.optimizer.b1, "b2": config.optimizer.b2, "clip_norm": config.optimizer.clip_norm}
    return Optimizers(
        generator_optimizer(
            schedules["learning_rate"],
            schedules["transform_learning_rate"],
            spread_limit=config.optimizer.spread_limit,
            **shared,
        ),
        discriminator_optimizer(schedules["discriminator_learning_rate"], **shared),
    )


def build_loss_weights(config) -> LossWeights:
    """Weights of the loss terms and the forms of the adversarial ones."""
    losses, adversary = config.losses, config.discriminator
    return LossWeights(
        l1=losses.l1,
        l2=losses.l2,
        lpips=losses.lpips,
        quantizer=losses.quantizer,
        adversarial=adversary.weight,
        adaptive=adversary.adaptive,
        generator_loss=one_of("discriminator.generator_loss", adversary.generator_loss, GENERATOR_LOSSES),
        discriminator_loss=one_of("discriminator.loss", adversary.loss, DISCRIMINATOR_LOSSES),
        discriminator_start=adversary.start,
        lecam=adversary.lecam,
    )


def build_train_step(config, networks: Networks, optimizers: Optimizers):
    """The training step `(state, images, perceptual) -> (state, metrics)`, not yet compiled."""
    return make_train_step(
        networks,
        optimizers,
        build_loss_weights(config),
        seed=config.seed,
        ema_decay=config.optimizer.ema_decay,
        accumulate=config.accumulate,
        schedules=build_schedules(config),
    )


def build_perceptual(config) -> dict:
    """LPIPS parameters from the files that the config names; {} without, said once where it would have counted."""
    losses = config.losses
    if losses.lpips_vgg and losses.lpips_linear:
        return load_lpips(losses.lpips_vgg, losses.lpips_linear)
    if losses.lpips_vgg or losses.lpips_linear:
        raise ValueError(
            f"LPIPS needs two files but losses.lpips_vgg is {losses.lpips_vgg!r} and losses.lpips_linear is"
            f" {losses.lpips_linear!r}: give both, or neither to go without."
        )
    if losses.lpips > 0:
        logging.warning(
            "losses.lpips is %g but no weight files are given: going on without LPIPS (README, 'LPIPS', says where"
            " to get them).",
            losses.lpips,
        )
    return {}


def build_state(config, networks: Networks, optimizers: Optimizers, key, images=None) -> TrainState:
    """Initial training state. images: (n, size, size, 3) float, which `quantizer.start_scale` looks at; None where only
    shapes matter."""
    if images is None:
        images = jnp.zeros((1, config.data.size, config.data.size, 3))
    return create_state(
        key,
        networks.autoencoder,
        networks.discriminator,
        optimizers.generator,
        optimizers.discriminator,
        images,
    )


def read_config(run: Path) -> ml_collections.ConfigDict:
    """The resolved config of a run; keys that are newer than the run take their defaults.

    Raises FileNotFoundError or ValueError where there is none to read, or it has keys that no longer exist.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {run} is no run folder; give one that training wrote.")
    try:
        stored = cli.flatten(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is no readable JSON ({error}): restore it, or train into a new folder.") from error
    config = common.get_config()
    unknown = sorted(stored.keys() - cli.flatten(config).keys())
    if unknown:
        raise ValueError(f"{path} has keys that this version does not know ({', '.join(unknown)}): use the older one.")
    config.update_from_flattened_dict(stored)
    return config
