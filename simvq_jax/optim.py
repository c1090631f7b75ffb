"""Optimisers and learning-rate schedules; the codebook transform has its own of both."""

import jax
import optax

SCHEDULES = ("constant", "warmup_cosine")


def make_schedule(kind: str, peak: float, steps: int, warmup_fraction: float) -> optax.Schedule:
    """Learning rate by step: linear warm-up over `warmup_fraction` of `steps`, then constant or a cosine to 0.

    Any `steps` >= 1 works; past the end a cosine stays at 0.

    Raises:
        ValueError: unknown kind, a fraction outside [0, 1), steps below 1, a negative rate.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"a schedule's kind is {kind!r} but must be one of {', '.join(SCHEDULES)}.")
    if not 0 <= warmup_fraction < 1:
        raise ValueError(f"a schedule's warm-up fraction is {warmup_fraction} but must lie in [0, 1).")
    if steps < 1:
        raise ValueError(f"steps is {steps} but must be at least 1.")
    if not peak >= 0:  # nor NaN
        raise ValueError(f"a learning rate is {peak} but must be at least 0.")
    warmup = int(steps * warmup_fraction)
    after = optax.constant_schedule(peak) if kind == "constant" else optax.cosine_decay_schedule(peak, steps - warmup)
    # From 1 / warmup rather than 0, so that the first step already moves.
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


def _adam(schedule: optax.Schedule, b1: float, b2: float, clip_norm: float) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm > 0 else optax.identity()
    return optax.chain(clip, optax.adam(schedule, b1=b1, b2=b2))


def discriminator_optimizer(schedule, *, b1: float, b2: float, clip_norm: float) -> optax.GradientTransformation:
    """Adam, its gradient clipped to `clip_norm` (0 = off)."""
    return _adam(schedule, b1, b2, clip_norm)


def generator_optimizer(schedule, transform_schedule, *, b1: float, b2: float, clip_norm: float):
    """Adam with one schedule for the codebook transform and one for the rest, each clipped by its own norm.

    W needs a far larger rate than the networks: a code moves by the product of W's step with its basis vector,
    and must keep up with tokens that the whole encoder moves (see docs/NOTES.md).
    """
    groups = {
        "transform": _adam(transform_schedule, b1, b2, clip_norm),
        "rest": _adam(schedule, b1, b2, clip_norm),
    }
    return optax.multi_transform(groups, label_groups)


def label_groups(params):
    """ "transform" for the leaves of the layers that move the codebook, "rest" elsewhere."""

    def label(path, _):
        moves_codes = any(getattr(key, "key", None) in ("transform", "transform_hidden") for key in path)
        return "transform" if moves_codes else "rest"

    return jax.tree_util.tree_map_with_path(label, params)


def transform_of(params):
    """The codebook transform's {"kernel", "bias"} among generator parameters, or {} where there is none."""
    return params["quantizer"].get("transform", {}) if "quantizer" in params else {}
