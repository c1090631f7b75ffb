"""From a config to modules, optimisers and losses. A config is read only here, in inputs.py and at the entry points."""

from simvq_jax.build.checks import check_ranges
from simvq_jax.build.networks import (
    build_autoencoder,
    build_networks,
    check_of_kind,
    compute_dtype,
    example_shape,
    of_sound,
    pixels_a_token,
    samples_a_token,
    tokens_an_example,
)
from simvq_jax.build.quantizers import build_quantizer, codebooks_named, seeded_codebook
from simvq_jax.build.stored import evaluated_at, read_config, read_conversion, read_evaluation
from simvq_jax.build.training import (
    build_loss_weights,
    build_objective,
    build_optimizers,
    build_perceptual,
    build_schedules,
    build_scoring_nets,
    build_state,
    build_timeouts,
    build_train_step,
    state_shapes,
)

__all__ = [
    "build_autoencoder",
    "build_loss_weights",
    "build_networks",
    "build_objective",
    "build_optimizers",
    "build_perceptual",
    "build_quantizer",
    "build_schedules",
    "build_scoring_nets",
    "build_state",
    "build_timeouts",
    "build_train_step",
    "check_of_kind",
    "check_ranges",
    "codebooks_named",
    "compute_dtype",
    "evaluated_at",
    "example_shape",
    "of_sound",
    "pixels_a_token",
    "read_config",
    "read_conversion",
    "read_evaluation",
    "samples_a_token",
    "seeded_codebook",
    "state_shapes",
    "tokens_an_example",
]
