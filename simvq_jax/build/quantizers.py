"""From a config to its quantizer."""

import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from simvq_jax.build.choice import one_of
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


def codebooks_named(quantizer: Mapping[str, Any], size: int) -> str:
    """How many codes there are, of several codebooks of `size` and how they go together: "8,192", "4 x 1,024 residual".

    quantizer: that part of the config.
    """
    stages = quantizer["stages"]
    return f"{size:,}" if stages == 1 else f"{stages} x {size:,} {quantizer['compound']}"


def build_quantizer(config, dtype):
    """The quantizer that `quantizer.kind` names, or several of it, as `quantizer.compound` says."""
    quantizer = config.quantizer
    build = QUANTIZERS[one_of("quantizer.kind", quantizer.kind, QUANTIZERS)]
    compound = one_of("quantizer.compound", quantizer.compound, ("residual", "product"))
    if quantizer.dropout and (compound == "product" or quantizer.stages == 1):
        raise ValueError(
            f"quantizer.dropout is {quantizer.dropout} but only residual stages can be left out: set it to 0, or"
            " quantizer.stages above 1 and quantizer.compound to residual."
        )
    if quantizer.stages == 1:
        return build(quantizer, dtype)
    if quantizer.basis_seed >= 0 or quantizer.basis_file:
        raise ValueError(
            f"quantizer.stages is {quantizer.stages}, quantizer.basis_seed {quantizer.basis_seed} and basis_file"
            f" {quantizer.basis_file!r}, but stages of one seed or file would have one basis: set stages to 1, or"
            " basis_seed to -1 and basis_file to ''."
        )
    if compound == "residual":
        stages = [build(quantizer, None) for _ in range(quantizer.stages)]
        if quantizer.estimator != "straight_through" and not stages[0].projects:
            raise ValueError(
                f"quantizer.estimator is {quantizer.estimator!r} but the gradient passes straight through residual"
                " stages: set it to straight_through, or quantizer.stages to 1."
            )
        return ResidualQuantizer(stages, dtype, quantizer.dropout)
    if quantizer.dim % quantizer.stages:
        raise ValueError(
            f"quantizer.stages is {quantizer.stages} but does not divide quantizer.dim = {quantizer.dim}: change one."
        )
    part = ml_collections.ConfigDict({**quantizer, "dim": quantizer.dim // quantizer.stages})
    return ProductQuantizer([build(part, None) for _ in range(quantizer.stages)], dtype)


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
    of_basis = ("basis_init", "basis_dtype", "trainable_basis", "use_bias", "hidden", "start_centred")
    of_use = ("restart_after", "codebook_loss", "activity_share", "region_sources")
    build = _nearest(SimVQ, {name: name for name in (*of_basis, *of_use)})
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
