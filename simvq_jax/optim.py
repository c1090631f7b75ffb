"""Optimisers and learning-rate schedules; the codebook transform has its own of both."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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


def generator_optimizer(
    schedule, transform_schedule, *, b1: float, b2: float, clip_norm: float, scale_band: float = 0.0
):
    """Adam with one schedule for the codebook transform and one for the rest, each clipped by its own norm.

    W needs a far larger rate than the networks: a code moves by the product of W's step with its basis vector,
    and must keep up with tokens that the whole encoder moves (see docs/NOTES.md).

    scale_band: see `keep_in_scale`; 0 = off.
    """
    transform = _adam(transform_schedule, b1, b2, clip_norm)
    groups = {
        "transform": keep_in_scale(transform, scale_band) if scale_band else transform,
        "rest": _adam(schedule, b1, b2, clip_norm),
    }
    return optax.multi_transform(groups, label_groups)


class ScaleState(NamedTuple):
    """State of `keep_in_scale`. scale_factor: (), what W was last multiplied by, 1 if the step was one of `inner`."""

    inner: Any
    scale_factor: jax.Array


def keep_in_scale(inner: optax.GradientTransformation, band: float) -> optax.GradientTransformationExtraArgs:
    """Shrinks W, instead of a step of `inner`, where codes are spread over `band` times as far as tokens: to 1 / band.

    Gradients cannot do that: of codes far outside the tokens few are selected, and W turns until those fit, while the
    others stay where they are. Nor may those gradients be remembered: Adam would take far too small steps for hundreds
    of steps. Codes that are too close together need no help, for W then grows by its rate.

    Needs the extra argument `token_spread`, the tokens' root mean square distance from their mean; the codes' is
    ||W||_F / sqrt(rows), the rows of the basis being N(0, 1 / columns). Quantizers without a single transform are left
    alone: the tokens of a compound one's stages are not known here.
    """

    def update(updates, state, params, *, token_spread, **_):
        if "transform" not in params.get("quantizer", {}):
            updates, inner_state = inner.update(updates, state.inner, params)
            return updates, ScaleState(inner_state, state.scale_factor)
        kernel = params["quantizer"]["transform"]["kernel"]
        ratio = jnp.sqrt(jnp.sum(kernel**2) / kernel.shape[0]) / jnp.maximum(token_spread, 1e-30)
        off = (ratio > band) & (token_spread > 0)
        factor = jnp.where(off, 1 / (band * ratio), 1.0)
        updates = jax.tree.map(lambda u: jnp.where(off, 0.0, u), updates)
        updates, inner_state = inner.update(updates, state.inner, params)
        layer = updates["quantizer"]["transform"]
        kept = jnp.where(off, (factor - 1) * kernel, layer["kernel"])
        updates = {**updates, "quantizer": {**updates["quantizer"], "transform": {**layer, "kernel": kept}}}
        return updates, ScaleState(inner_state, factor)

    return optax.GradientTransformationExtraArgs(lambda params: ScaleState(inner.init(params), jnp.ones(())), update)


def scale_factor(opt_state):
    """What `keep_in_scale` multiplied W by in the last step: (), or None where it is not in use."""
    return optax.tree.get(opt_state, "scale_factor")


def scale_transform(params, factor):
    """Parameters whose W is multiplied by the factor. A copy of them, as their average, follows a rescaling so."""
    if "transform" not in params.get("quantizer", {}):
        return params
    quantizer = params["quantizer"]
    layer = {**quantizer["transform"], "kernel": factor * quantizer["transform"]["kernel"]}
    return {**params, "quantizer": {**quantizer, "transform": layer}}


def label_groups(params):
    """ "transform" for the leaves of the layers that move the codebook, "rest" elsewhere."""

    def label(path, _):
        moves_codes = any(getattr(key, "key", None) in ("transform", "transform_hidden") for key in path)
        return "transform" if moves_codes else "rest"

    return jax.tree_util.tree_map_with_path(label, params)


def transforms_of(params) -> list:
    """The codebook transforms' {"kernel", "bias"} among generator parameters: one, of every stage one, or none."""
    quantizer = params.get("quantizer", {})
    stages = [quantizer] if "transform" in quantizer else [quantizer[name] for name in sorted(quantizer)]
    return [stage["transform"] for stage in stages if isinstance(stage, dict) and "transform" in stage]
