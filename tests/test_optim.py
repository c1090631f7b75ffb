"""Schedules to their last step, and the transform's own rate, clipping and limit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvq_jax.optim import (
    discriminator_optimizer,
    generator_optimizer,
    label_groups,
    make_schedule,
    scale_factors,
    scale_transforms,
    transforms_of,
)

ADAM = {"b1": 0.5, "b2": 0.9}


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in range(steps)])


def parameters():
    """A SimVQ generator's parameters in small: a transform, and networks around it."""
    return {
        "encoder": {"conv": {"kernel": jnp.full((3, 2), 0.5)}},
        "quantizer": {"transform": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}},
        "decoder": {"conv_out": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}},
    }


def one_step(optimizer, grads, params):
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return updates


# Schedules


def test_constant_without_warmup_is_the_peak_at_every_step():
    np.testing.assert_allclose(rates(make_schedule("constant", 0.3, 10, 0.0), 20), 0.3)


@pytest.mark.parametrize("kind", ["constant", "warmup_cosine"])
def test_warmup_rises_in_equal_steps_and_the_first_one_moves(kind):
    schedule = make_schedule(kind, 1.0, 20, 0.25)
    np.testing.assert_allclose(rates(schedule, 5), [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)


def test_a_constant_stays_at_its_peak_after_warmup():
    np.testing.assert_allclose(rates(make_schedule("constant", 2.0, 20, 0.25), 40)[5:], 2.0)


def test_a_cosine_falls_to_zero_at_the_end_and_stays_there():
    schedule = make_schedule("warmup_cosine", 1.0, 20, 0.25)
    after = rates(schedule, 21)[5:]
    np.testing.assert_allclose(after, 0.5 * (1 + np.cos(np.pi * np.arange(16) / 15)), atol=1e-6)
    assert [float(schedule(step)) for step in (20, 21, 30, 10**6)] == [0.0] * 4


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["constant", "warmup_cosine"]),
    st.integers(1, 40),
    st.floats(0, 0.99),
)
def test_any_number_of_steps_gives_positive_rates_up_to_the_peak(kind, steps, warmup):
    schedule = make_schedule(kind, 0.1, steps, warmup)
    got = rates(schedule, steps)
    assert np.all(got > 0) and np.all(got <= 0.1 * (1 + 1e-6))
    np.testing.assert_allclose(got.max(), 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("cosine", 1.0, 10, 0.0), "kind is 'cosine' but must be one of"),
        (("constant", 1.0, 10, 1.0), r"warm-up fraction is 1.0 but must lie in \[0, 1\)"),
        (("constant", 1.0, 10, -0.1), r"warm-up fraction is -0.1 but must lie in \[0, 1\)"),
        (("constant", 1.0, 10, float("nan")), r"warm-up fraction is nan but must lie in"),
        (("constant", 1.0, 0, 0.0), "steps is 0 but must be at least 1"),
        (("constant", -1.0, 10, 0.0), "a learning rate is -1.0 but must be at least 0"),
        (("constant", float("nan"), 10, 0.0), "a learning rate is nan but must be at least 0"),
    ],
)
def test_impossible_schedules_get_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_schedule(*arguments)


# Optimisers


def test_the_transform_moves_by_its_own_rate_and_the_rest_by_the_other():
    """Adam's first step from a constant gradient is the rate itself."""
    params = parameters()
    optimizer = generator_optimizer(lambda step: 0.01, lambda step: 0.5, **ADAM, clip_norm=0.0)
    updates = one_step(optimizer, jax.tree.map(jnp.ones_like, params), params)
    for leaf in jax.tree.leaves(updates["quantizer"]):
        np.testing.assert_allclose(leaf, -0.5, rtol=1e-5)
    for leaf in jax.tree.leaves((updates["encoder"], updates["decoder"])):
        np.testing.assert_allclose(leaf, -0.01, rtol=1e-5)


def test_each_group_follows_its_own_schedule_step_by_step():
    params = parameters()
    optimizer = generator_optimizer(lambda step: 0.1 * step, lambda step: 1.0 / (1 + step), **ADAM, clip_norm=0.0)
    state, moved = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        moved.append((updates["quantizer"]["transform"]["bias"][0], updates["decoder"]["conv_out"]["bias"][0]))
    np.testing.assert_allclose(moved, [(-1, 0), (-1 / 2, -0.1), (-1 / 3, -0.2)], rtol=1e-5, atol=1e-7)


def test_each_group_is_clipped_by_its_own_norm():
    """Two steps, for Adam's first forgets the gradient's size; clipped by hand and by the optimiser."""
    params = parameters()
    large = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7.0), params)
    small = {**large, "quantizer": jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), params["quantizer"])}
    rest_norm = optax.tree.norm((large["encoder"], large["decoder"]))
    by_hand = {name: jax.tree.map(lambda leaf: leaf / rest_norm, large[name]) for name in ("encoder", "decoder")}

    def second_update(clip_norm, *gradients):
        optimizer = generator_optimizer(lambda step: 0.1, lambda step: 0.1, **ADAM, clip_norm=clip_norm)
        state = optimizer.init(params)
        for grads in gradients:
            updates, state = optimizer.update(grads, state, params)
        return updates

    gentle = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), params)
    clipped = second_update(1.0, gentle, small)
    expected = second_update(0.0, gentle, {**small, **by_hand})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), clipped, expected)
    unclipped = second_update(0.0, gentle, small)
    assert not np.allclose(clipped["encoder"]["conv"]["kernel"], unclipped["encoder"]["conv"]["kernel"], rtol=1e-3)


def test_labels_tell_the_transform_from_the_rest():
    labels = label_groups(parameters())
    assert labels["quantizer"] == {"transform": {"kernel": "transform", "bias": "transform"}}
    assert set(jax.tree.leaves((labels["encoder"], labels["decoder"]))) == {"rest"}
    assert label_groups({"quantizer": {"basis": jnp.ones(2)}}) == {"quantizer": {"basis": "rest"}}


def test_parameters_without_a_transform_are_trained_at_the_rest_rate():
    params = {"encoder": {"kernel": jnp.ones(3)}, "quantizer": {"codebook": jnp.ones((4, 2))}}
    optimizer = generator_optimizer(lambda step: 0.01, lambda step: 0.5, **ADAM, clip_norm=1.0)
    updates = one_step(optimizer, jax.tree.map(jnp.ones_like, params), params)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_allclose(leaf, -0.01, rtol=1e-5)


def test_the_transform_is_found_or_empty():
    assert [set(layer) for layer in transforms_of(parameters())] == [{"kernel", "bias"}]
    stages = {f"stages_{i}": parameters()["quantizer"] for i in range(3)}
    assert len(transforms_of({"quantizer": stages})) == 3
    assert transforms_of({"quantizer": {"codebook": jnp.ones(2)}}) == []
    assert transforms_of({"encoder": {}}) == []


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3])
def test_the_discriminator_has_plain_adam(clip_norm):
    params = {"kernel": jnp.zeros(4)}
    grads = {"kernel": jnp.array([3.0, -3.0, 3.0, -3.0])}
    updates = one_step(discriminator_optimizer(lambda step: 0.2, **ADAM, clip_norm=clip_norm), grads, params)
    np.testing.assert_allclose(updates["kernel"], [-0.2, 0.2, -0.2, 0.2], rtol=1e-4)


# Muon


def test_muon_moves_kernels_by_orthogonal_steps_and_the_rest_by_adam():
    """The rate means what it means to Adam: the root mean square of an update is a fifth of it."""
    key = jax.random.key(0)
    params = {
        "encoder": {"conv": {"kernel": jnp.zeros((3, 8, 16)), "bias": jnp.zeros(16)}},
        "decoder": {"depthwise": {"kernel": jnp.zeros((7, 1, 16))}},
        "quantizer": {"transform": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}},
    }
    grads = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), params)
    optimizer = generator_optimizer(lambda step: 0.01, lambda step: 0.5, **ADAM, clip_norm=0.0, kind="muon")
    updates = one_step(optimizer, grads, params)
    adam = one_step(optax.nadam(0.01, **ADAM), grads, params)
    transform = one_step(optax.adam(0.5, **ADAM), grads, params)["quantizer"]
    singular = np.linalg.svd(np.reshape(updates["encoder"]["conv"]["kernel"], (24, 16)), compute_uv=False)
    assert singular.max() / singular.min() < 2  # five steps of Newton and Schulz leave between .7 and 1.2
    assert np.linalg.svd(np.reshape(grads["encoder"]["conv"]["kernel"], (24, 16)), compute_uv=False).min() < 1.5
    rms = float(jnp.sqrt(jnp.mean(updates["encoder"]["conv"]["kernel"] ** 2)))
    assert rms == pytest.approx(0.2 * 0.01, rel=0.2)
    updates["encoder"]["conv"].pop("kernel"), adam["encoder"]["conv"].pop("kernel")
    expected = {**adam, "quantizer": transform}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), updates, expected)


def test_an_unknown_optimizer_gets_one_sentence():
    with pytest.raises(ValueError, match=r"optimizer\.kind is 'lion' but must be one of adam, muon"):
        generator_optimizer(lambda step: 0.1, lambda step: 0.1, **ADAM, clip_norm=0.0, kind="lion")


# The codes' spread


def limited(limit=0.9, clip_norm=0.0):
    return generator_optimizer(lambda step: 0.01, lambda step: 0.5, **ADAM, clip_norm=clip_norm, spread_limit=limit)


def stats_of(ratio):
    return {"quantizer": {"age": jnp.zeros(4, jnp.int32), "spread_ratio": jnp.float32(ratio)}}


def spread_of(kernel):
    return float(jnp.linalg.norm(kernel))


def transform_after(updates, params):
    return optax.apply_updates(params, updates)["quantizer"]["transform"]


@pytest.mark.parametrize("ratio", [0.0, 1e-3, 0.9, np.nan])
def test_codes_within_the_limit_are_left_to_the_gradient(ratio):
    params = parameters()
    ones = jax.tree.map(jnp.ones_like, params)
    optimizer = limited(clip_norm=1.0)
    updates, state = optimizer.update(ones, optimizer.init(params), params, codebook_stats=stats_of(ratio))
    free = generator_optimizer(lambda step: 0.01, lambda step: 0.5, **ADAM, clip_norm=1.0)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), updates, one_step(free, ones, params))
    assert jax.tree.leaves(scale_factors(state)) == [1.0]


@pytest.mark.parametrize("ratio", [1.3, 1.5, 1.8])
def test_codes_beyond_the_limit_take_the_step_and_are_drawn_in(ratio):
    """The step itself changes the spread, here to 0.71 times what was measured before it."""
    params = parameters()
    optimizer = limited()
    ones = jax.tree.map(jnp.ones_like, params)
    updates, state = optimizer.update(ones, optimizer.init(params), params, codebook_stats=stats_of(ratio))
    before, after = params["quantizer"]["transform"], transform_after(updates, params)
    assert spread_of(before["kernel"] - 0.5) * ratio / spread_of(before["kernel"]) > 0.9
    np.testing.assert_allclose(spread_of(after["kernel"]) * ratio / spread_of(before["kernel"]), 0.9, rtol=1e-5)
    np.testing.assert_allclose(after["kernel"] / after["kernel"][0, 0], [[1, -1], [-1, 1]], rtol=1e-5)
    np.testing.assert_allclose(after["bias"], before["bias"] - 0.5, rtol=1e-5)
    assert jax.tree.leaves(scale_factors(state)) == [1.0]  # the average follows by averaging


@pytest.mark.parametrize("ratio", [1.81, 3.0, 1e4])
def test_codes_far_outside_the_tokens_are_drawn_in_at_once(ratio):
    """W keeps its shape and b its place, and the gradient of such a step is not taken, nor remembered by Adam."""
    params = parameters()
    params["quantizer"]["transform"] = {"kernel": ratio * jnp.array([[1.0, 2.0], [0.5, -1.0]]), "bias": jnp.ones(2)}
    optimizer = limited()
    grads = jax.tree.map(lambda leaf: 1e3 * jnp.ones_like(leaf), params)
    updates, state = optimizer.update(grads, optimizer.init(params), params, codebook_stats=stats_of(ratio))
    moved = optax.apply_updates(params, updates)
    after, before = moved["quantizer"]["transform"], params["quantizer"]["transform"]
    np.testing.assert_allclose(after["kernel"], 0.9 / ratio * before["kernel"], rtol=1e-2)
    np.testing.assert_array_equal(after["bias"], before["bias"])
    average = scale_transforms(params, scale_factors(state))
    np.testing.assert_allclose(average["quantizer"]["transform"]["kernel"], after["kernel"], rtol=1e-2)
    np.testing.assert_array_equal(average["encoder"]["conv"]["kernel"], params["encoder"]["conv"]["kernel"])
    np.testing.assert_allclose(moved["encoder"]["conv"]["kernel"], 0.5 - 0.01, rtol=1e-5)  # the networks go on
    small = jax.tree.map(lambda leaf: 1e-3 * jnp.ones_like(leaf), params)
    updates, _ = optimizer.update(small, state, moved, codebook_stats=stats_of(0.5))
    assert np.all(np.asarray(updates["quantizer"]["transform"]["kernel"]) < -0.2)  # Adam's memory is not of 1e3


def test_codes_far_outside_are_drawn_in_alone_though_the_optimiser_is_in_motion():
    params = parameters()
    optimizer = limited()
    ones = jax.tree.map(jnp.ones_like, params)
    _, state = optimizer.update(ones, optimizer.init(params), params, codebook_stats=stats_of(0.5))
    updates, state = optimizer.update(ones, state, params, codebook_stats=stats_of(10.0))
    after, before = transform_after(updates, params), params["quantizer"]["transform"]
    np.testing.assert_allclose(after["kernel"], 0.09 * before["kernel"], rtol=1e-5)
    np.testing.assert_array_equal(after["bias"], before["bias"])
    assert jax.tree.leaves(scale_factors(state)) == [pytest.approx(0.09)]


@pytest.mark.parametrize("at", [(), ("model", "bottleneck", "vq")])
def test_the_quantizer_may_be_anywhere_in_a_model(at):
    quantizer, stats = parameters()["quantizer"], stats_of(10.0)["quantizer"]
    for name in reversed(at):
        quantizer, stats = {name: quantizer}, {name: stats}
    params = {**parameters(), "quantizer": {}, **quantizer}
    optimizer = limited()
    ones = jax.tree.map(jnp.ones_like, params)
    updates, state = optimizer.update(ones, optimizer.init(params), params, codebook_stats=stats)
    after, average = optax.apply_updates(params, updates), scale_transforms(params, scale_factors(state))
    for tree in (after, average):
        for name in at:
            tree = tree[name]
        np.testing.assert_allclose(tree["transform"]["kernel"], 0.09 * jnp.eye(2), rtol=1e-5)


def test_every_stage_has_a_limit_of_its_own():
    stages = {f"stages_{i}": parameters()["quantizer"] for i in range(2)}
    params = {**parameters(), "quantizer": stages}
    stats = {"quantizer": {"stages_0": stats_of(0.1)["quantizer"], "stages_1": stats_of(100.0)["quantizer"]}}
    optimizer = limited()
    ones = jax.tree.map(jnp.ones_like, params)
    updates, state = optimizer.update(ones, optimizer.init(params), params, codebook_stats=stats)
    kernel = stages["stages_0"]["transform"]["kernel"]
    after = optax.apply_updates(params, updates)["quantizer"]
    np.testing.assert_allclose(after["stages_0"]["transform"]["kernel"], kernel - 0.5, rtol=1e-5)
    np.testing.assert_allclose(after["stages_1"]["transform"]["kernel"], 0.009 * kernel, rtol=1e-2)
    average = scale_transforms(params, scale_factors(state))["quantizer"]
    np.testing.assert_array_equal(average["stages_0"]["transform"]["kernel"], kernel)
    np.testing.assert_allclose(average["stages_1"]["transform"]["kernel"], 0.009 * kernel, rtol=1e-5)


NO_STATS: list[dict] = [{}, {"codebook_stats": None}, {"codebook_stats": {}}]
WRONG_STATS = [{"codebook_stats": stats_of(1.0)["quantizer"]}, {"codebook_stats": {"model": stats_of(1.0)}}]


@pytest.mark.parametrize("given", [*NO_STATS, *WRONG_STATS])
def test_a_limit_without_the_ratio_that_it_limits_is_refused(given):
    """Also where the collection is not that of the model, or only of a part of it."""
    params, optimizer = parameters(), limited()
    with pytest.raises(ValueError, match=r"have a transform at quantizer but codebook_stats has no spread_ratio there"):
        optimizer.update(params, optimizer.init(params), params, **given)


def test_ratios_of_quantizers_that_are_not_trained_are_left_alone():
    params, optimizer = parameters(), limited()
    stats = {**stats_of(10.0), "frozen": stats_of(9.0)["quantizer"]}
    updates, _ = optimizer.update(params, optimizer.init(params), params, codebook_stats=stats)
    alone, _ = optimizer.update(params, optimizer.init(params), params, codebook_stats=stats_of(10.0))
    jax.tree.map(np.testing.assert_array_equal, updates, alone)


@pytest.mark.parametrize("ratio", [0.1, 1.5, 10.0])
def test_stacked_quantizers_are_limited_one_by_one(ratio):
    """As vmap makes them; as many as W has rows, which must not be taken for those."""
    ratios, params = (0.1, ratio), parameters()
    alone = [limited().update(params, limited().init(params), params, codebook_stats=stats_of(own)) for own in ratios]
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    stats = {"quantizer": {"spread_ratio": jnp.array(ratios, jnp.float32)}}
    updates, state = limited().update(stacked, limited().init(stacked), stacked, codebook_stats=stats)
    average = scale_transforms(stacked, scale_factors(state))
    for number, (own, own_state) in enumerate(alone):
        kept = jax.tree.map(lambda leaf, n=number: leaf[n], (updates, average))
        expected = own, scale_transforms(params, scale_factors(own_state))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), kept, expected)


def test_a_limit_leaves_quantizers_without_a_transform_alone():
    params = {"encoder": {"kernel": jnp.ones(3)}, "quantizer": {"codebook": jnp.ones((4, 2))}}
    optimizer = limited()
    stats = {"quantizer": {"age": jnp.zeros(4, jnp.int32)}}
    updates, _ = optimizer.update(
        jax.tree.map(jnp.ones_like, params), optimizer.init(params), params, codebook_stats=stats
    )
    jax.tree.map(lambda u: np.testing.assert_allclose(u, -0.01, rtol=1e-5), updates)
