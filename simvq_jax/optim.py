"""Optimisers and learning-rate schedules; the codebook transform has its own of both."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax.traverse_util import unflatten_dict

SCHEDULES = ("constant", "warmup_cosine")
OPTIMIZERS = ("adam", "muon")
MUON_UPDATE = 0.2  # root mean square of its updates over the rate, about Adam's: the same rates serve both
LOST = 2.0  # times the limit: codes spread so far are drawn in at once


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
    if not 0 <= peak < math.inf:  # nor NaN
        raise ValueError(f"a learning rate is {peak} but must be at least 0, and finite.")
    warmup = int(steps * warmup_fraction)
    after = optax.constant_schedule(peak) if kind == "constant" else optax.cosine_decay_schedule(peak, steps - warmup)
    # From 1 / warmup rather than 0, so that the first step already moves.
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


def _adam(schedule: optax.Schedule, b1: float, b2: float, clip_norm: float) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm > 0 else optax.identity()
    return optax.chain(clip, optax.adam(schedule, b1=b1, b2=b2))


def _muon(schedule: optax.Schedule, b1: float, b2: float, clip_norm: float) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024; updates as large as in 2502.16982) for kernels, Adam for the rest, both with
    Nesterov's momentum."""
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm > 0 else optax.identity()
    muon = optax.contrib.muon(
        schedule,
        consistent_rms=MUON_UPDATE,
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=_as_matrices,
    )
    return optax.chain(clip, muon)


def _as_matrices(params):
    """How a kernel is a matrix from all that it sums over to its outputs; None for what is none: vectors, and the
    kernels of depthwise convolutions, which sum over one channel each."""

    def dimensions(path, leaf):
        if not path[-1].endswith("kernel") or leaf.ndim < 2 or leaf.shape[-2] == 1:
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,))

    return _mapped(dimensions, params)


def discriminator_optimizer(schedule, *, b1: float, b2: float, clip_norm: float) -> optax.GradientTransformation:
    """Adam, its gradient clipped to `clip_norm` (0 = off)."""
    return _adam(schedule, b1, b2, clip_norm)


def generator_optimizer(
    schedule,
    transform_schedule,
    *,
    b1: float,
    b2: float,
    clip_norm: float,
    spread_limit: float = 0.0,
    kind: str = "adam",
):
    """One schedule for the codebook transform, with Adam, and one for the rest, each clipped by its own norm.

    W needs a far larger rate than the networks: a code moves by the product of W's step with its basis vector,
    and must keep up with tokens that the whole encoder moves (see docs/NOTES.md).

    spread_limit: see `limit_spread`, whose argument `update` then needs; 0 = off. kind: of the rest, one of OPTIMIZERS;
    b1 and b2 are of Adam, which Muon leaves vectors to. Raises ValueError on another kind.

    Serves any model's parameters, dicts of linen or a State of NNX: the transform is what lies under the names that
    SimVQ gives its layers, `transform` and `transform_hidden`, so give no other layer these names.
    """
    if kind not in OPTIMIZERS:
        raise ValueError(f"optimizer.kind is {kind!r} but must be one of {', '.join(OPTIMIZERS)}.")
    rest = _muon if kind == "muon" else _adam
    transform = _adam(transform_schedule, b1, b2, clip_norm)
    groups = {
        "transform": limit_spread(transform, spread_limit) if spread_limit else transform,
        "rest": rest(schedule, b1, b2, clip_norm),
    }
    return optax.multi_transform(groups, label_groups)


class SpreadState(NamedTuple):
    """State of `limit_spread`. factors: what it multiplied each W by in place of a step, else 1; nested as those, and
    of W that are stacked one each."""

    inner: Any
    factors: Any


def limit_spread(inner: optax.GradientTransformation, limit: float) -> optax.GradientTransformationExtraArgs:
    """Keeps codes spread at most `limit` times as far as tokens, by shrinking W after each step of `inner`.

    The codebook's loss spreads codes further than tokens, for it counts large errors most; but a code outside the
    tokens is never chosen. Where codes are spread over LOST times the limit, W is shrunk in place of a step: of codes
    far outside few are chosen, W turns until those fit, and Adam would remember such gradients for hundreds of steps.
    Codes that are too close together need no help, for W then grows by its rate. W alone is shrunk, about b: rows of C
    are meant to be centred, as drawn ones are; the hidden features of an MLP are not, so its codes' mean moves too.

    Needs the extra argument `codebook_stats`, the collection of the model whose parameters these are, or all of the
    model's state: it has `spread_ratio` where they have `transform`, wherever in the model the quantizer is. Quantizers
    that `vmap` stacks have one each, along the same axes. Raises ValueError where it is not found.
    """

    def init(params):
        ones = {path: jnp.ones(kernel.shape[:-2], jnp.float32) for path, kernel in _kernels(params).items()}
        return SpreadState(inner.init(params), unflatten_dict(ones))

    def update(updates, state, params, *, codebook_stats=None, **_):
        found = _flat({} if codebook_stats is None else codebook_stats).items()
        ratios = {path[:-1]: ratio for path, ratio in found if path[-1:] == ("spread_ratio",)}
        lost = {stage: ratio > LOST * limit for stage, ratio in ratios.items()}
        kernels = _kernels(params)
        _check_places(ratios.keys(), {path[:-2] for path in kernels})

        def without_lost(path, update):
            known = _moves_codes(path) and path[:-2] in ratios
            return jnp.where(_along(lost[path[:-2]], update), 0.0, update) if known else update

        def limited(path, update):
            if path not in kernels:
                return update
            ratio, moved = ratios[path[:-2]], kernels[path] + update
            ratio = ratio * _norm(moved) / jnp.maximum(_norm(kernels[path]), 1e-30)
            return _along(jnp.where(ratio > limit, limit / ratio, 1.0), moved) * moved - kernels[path]

        updates, inner_state = inner.update(_mapped(without_lost, updates), state.inner, params)
        updates = _mapped(limited, _mapped(without_lost, updates))  # again, for momentum still moves what is lost
        factors = _flat(state.factors) | {
            path: jnp.where(lost[path[:-2]], limit / ratios[path[:-2]], 1.0) for path in kernels
        }
        return updates, SpreadState(inner_state, unflatten_dict(factors))

    return optax.GradientTransformationExtraArgs(init, update)


def _check_places(measured, known):
    if missing := sorted("/".join(path) or "the top" for path in known - measured):
        raise ValueError(
            f"the parameters have a transform at {', '.join(missing)} but codebook_stats has no spread_ratio there:"
            " give update codebook_stats=..., that of a training step of the whole model"
            " (mutable=['codebook_stats']), and layers of another kind another name."
        )


def scale_factors(opt_state):
    """What `limit_spread` multiplied W by in place of the last step, nested as the parameters; None where it is not in
    use."""
    return optax.tree.get(opt_state, "factors")


def scale_transforms(params, factors):
    """Parameters whose W are multiplied by the factors. A copy of them, as their average, follows a rescaling so."""
    factors = _flat(factors)
    return _mapped(lambda path, leaf: _along(factors[path], leaf) * leaf if path in factors else leaf, params)


def _mapped(change: Callable[[tuple[str, ...], Any], Any], tree):
    """`change(path, leaf)` of every leaf of a tree like the parameters."""
    return jax.tree_util.tree_map_with_path(lambda keys, leaf: change(_names(keys), leaf), tree)


def _along(of_each, leaf):
    """What is said of each of stacked quantizers, for every element of theirs: (...) -> (..., 1, 1)."""
    return jnp.reshape(of_each, (*jnp.shape(of_each), *(1,) * (jnp.ndim(leaf) - jnp.ndim(of_each))))


def _norm(kernels):
    """Of each of stacked matrices: (..., n, d) -> (...)."""
    return jnp.sqrt(jnp.sum(kernels * kernels, axis=(-2, -1)))


def _flat(tree) -> dict[tuple[str, ...], Any]:
    """Path -> leaf."""
    return {_names(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _names(keys) -> tuple[str, ...]:
    """A path by the names of dicts, lists and States; without attributes, as NNX has a variable's `value`."""
    names = (getattr(key, "key", getattr(key, "idx", None)) for key in keys)
    return tuple(str(name) for name in names if name is not None)


def _kernels(params) -> dict[tuple[str, ...], jax.Array]:
    """Path -> W, of every stage."""
    return {path: leaf for path, leaf in _flat(params).items() if path[-2:] == ("transform", "kernel")}


def _moves_codes(path) -> bool:
    return any(name in ("transform", "transform_hidden") for name in path)


def label_groups(params):
    """ "transform" for the leaves of the layers that move the codebook, "rest" elsewhere."""

    return _mapped(lambda path, _: "transform" if _moves_codes(path) else "rest", params)


def transforms_of(params) -> list:
    """The codebook transforms' {"kernel", "bias"} among generator parameters: one, of every stage one, or none."""
    quantizer = params.get("quantizer", {})
    stages = [quantizer] if "transform" in quantizer else [quantizer[name] for name in sorted(quantizer)]
    return [stage["transform"] for stage in stages if isinstance(stage, dict) and "transform" in stage]
