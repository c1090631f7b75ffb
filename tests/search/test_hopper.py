"""The Hopper kernel on a CPU: interpreted against float64, lowered without a device, and what fits shared memory."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coarse import (
    CODE_LIMBS,
    PRODUCTS,
    U_LIMBS,
    assert_maxima,
    lowered,
    needs_gpu_interpreter,
    random_limbs,
)

from simvq_jax.search import hopper

# (N, K, d, products): one of each; two blocks of codes; four chunks of a code; two tiles of tokens; groups of each
# size. None is a multiple of a block, and the larger come with one number of products each, as the interpreter takes a
# second for them.
CASES = [
    (1, 1, 1, 1),
    (1, 1, 1, 2),
    (37, 519, 8, 3),
    (65, 2100, 64, 3),
    (130, 300, 200, 2),
    (290, 300, 8, 1),
    (3, 16_500, 8, 2),
]
SHARED_MEMORY = 227 * 1024  # bytes that one block may have
H200 = types.SimpleNamespace(platform="gpu", compute_capability="9.0", device_kind="NVIDIA H200")


@needs_gpu_interpreter
@pytest.mark.parametrize("case", CASES, ids=str)
def test_maxima_equal_float64(case):
    assert_maxima(hopper, *random_limbs(*case), PRODUCTS[case[-1]])


def test_the_cases_take_every_way_through_the_kernel():
    group_of = lambda k: hopper.coarse_pass(k)[1].size  # noqa: E731
    plans = [hopper.plan_launch(n, k, d, U_LIMBS[products], group_of(k)) for n, k, d, products in CASES]
    assert {group_of(k) for _, k, *_ in CASES} == {8, 16, 32}
    assert {plan[:3] for plan in plans} == {layout[:3] for layout in hopper.LAYOUTS}
    assert {plan.chunks for plan in plans} == {1, 4}
    assert {plan.tiles for plan in plans} >= {1, 2}
    for size in ("blocks", "splits"):
        assert {getattr(plan, size) for plan in plans} == {1, 2, 3, 9}, size


@needs_gpu_interpreter
def test_codes_of_infinite_half_norm_never_win():
    u_limbs, code_limbs, half_norms = random_limbs(5, 1000, 8, 2)
    alone = jnp.arange(1000) % hopper.LANES < 3  # all codes of the first three groups
    half_norms = jnp.where(alone | (jnp.arange(1000) % 3 == 0), jnp.inf, half_norms)
    got = assert_maxima(hopper, u_limbs, code_limbs, half_norms, PRODUCTS[2])
    assert (got[:, np.arange(got.shape[1]) % hopper.LANES >= 3] > -1e3).all()


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize(
    ("n", "k", "d"),
    [
        (1, 1, 8),
        (4096, 8192, 8),
        (100, 1000, 64),
        (16_384, 65_537, 128),
        (4096, 1 << 20, 128),
        (64, 1 << 20, 256),
        (16_384, 65_537, 512),
    ],
)
def test_lowers_for_a_gpu(n, k, d, products):
    assert "mosaic_gpu" in lowered(hopper, "cuda", n, k, d, products)


@pytest.mark.parametrize(
    ("on", "d", "sentence"),
    [
        (jax.devices("cpu")[0], 128, "it needs a Hopper GPU (compute capability 9.0), not cpu (none)"),
        (types.SimpleNamespace(platform="tpu", device_kind="TPU v5 lite"), 128, "not TPU v5 lite (none)"),
        (types.SimpleNamespace(platform="gpu", compute_capability="8.0", device_kind="A100"), 128, "not A100 (8.0)"),
        (H200, 100_000, "d is 100000 but shared memory holds at most"),
    ],
)
def test_why_not(on, d, sentence):
    for code_limbs in (1, 2):
        assert sentence in hopper.why_not(on, d, code_limbs)


def test_why_not_has_nothing_against_a_hopper():
    for d in (1, 8, 64, 128, 256, 512):
        assert hopper.why_not(H200, d, 1) is None
        assert hopper.why_not(H200, d, 2) is None


def test_what_why_not_allows_lowers():
    """Up to the longest codes it allows, and no further; and its sentence names that length."""
    for products in (2, 3):
        why_not = functools.partial(hopper.why_not, H200, code_limbs=CODE_LIMBS[products])
        longest = max(d for d in range(64, 4096, 64) if why_not(d=d) is None)
        assert f"at most {longest} " in why_not(d=longest + 1)
        assert "mosaic_gpu" in lowered(hopper, "cuda", 1 << 14, 5000, longest, products)
        with pytest.raises(ValueError, match="shared memory holds at most"):
            lowered(hopper, "cuda", 1 << 14, 5000, longest + 1, products)


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("d", [1, 8, 64, 65, 128, 256, 512])
@pytest.mark.parametrize("group", [8, 16, 32])
def test_plan(group, d, products):
    block = group * hopper.LANES
    for n in (1, 64, 65, 1000, 16_384, 100_003):
        for k in (1, 2048, 2049, 65_536, 1 << 20):
            plan = hopper.plan_launch(n, k, d, U_LIMBS[products], group)
            tokens = plan.tiles * plan.workers * plan.rows
            assert n <= tokens < n + plan.workers * plan.rows, "tiles hold all tokens, and the last is not empty"
            assert k <= plan.blocks * block < k + block
            assert plan.chunks * hopper.CHUNK >= d
            assert plan.blocks % plan.splits == 0
            held = plan.workers * plan.rows * plan.chunks * hopper.CHUNK * 2 * U_LIMBS[products]
            streamed = plan.stages * plan.tile * (hopper.CHUNK * 2 + 4)
            assert held + streamed < SHARED_MEMORY
            assert 2 <= plan.stages <= plan.blocks // plan.splits * block // plan.tile * plan.chunks


def test_a_few_tokens_fill_the_chip_by_splitting_the_codes():
    plan = hopper.plan_launch(64, 1 << 20, 128, 2)
    assert plan.tiles == 1 and 0.9 * hopper.MULTIPROCESSORS <= plan.splits <= hopper.MULTIPROCESSORS
    assert hopper.plan_launch(256 * hopper.MULTIPROCESSORS, 1 << 20, 128, 2).splits == 1
