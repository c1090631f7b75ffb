"""The TPU kernel on a CPU: interpreted against float64, lowered without a device, and what fits on chip."""

import math
import types

import jax
import jax.numpy as jnp
import pytest
from coarse import CODE_LIMBS, PRODUCTS, U_LIMBS, assert_maxima, lowered, random_limbs

from simvq_jax.search import tpu

# (N, K, d): one of each; no multiples of any block; a second span of codes; limbs that are not joined.
SHAPES = [(1, 1, 1), (37, 519, 130), (21, 4099, 64), (130, 300, 256)]
VMEM = 16 << 20  # bytes of the smallest TPU


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maxima_equal_float64(shape, products):
    operands = *random_limbs(*shape, products), PRODUCTS[products]
    assert_maxima(tpu, *operands)


def test_several_tiles_of_tokens_and_steps_over_a_span(monkeypatch):
    monkeypatch.setattr(tpu, "VMEM_BUDGET", 530_000)
    n, k, d = 300, 4200, 8
    assert tpu.tile_sizes(n, tpu.LANES, 1, 1) == (160, 2)
    operands = *random_limbs(n, k, d, 3), PRODUCTS[3]
    assert_maxima(tpu, *operands)


def test_codes_of_infinite_half_norm_never_win():
    u_limbs, code_limbs, half_norms = random_limbs(5, 1000, 8, 2)
    alone = jnp.arange(1000) % tpu.LANES < 3  # all codes of the first three groups
    half_norms = jnp.where(alone | (jnp.arange(1000) % 3 == 0), jnp.inf, half_norms)
    got = assert_maxima(tpu, u_limbs, code_limbs, half_norms, PRODUCTS[2])
    assert (got[:, :3] == -jnp.inf).all()


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("d", [8, 64, 128, 256, 512])
def test_lowers_for_a_tpu(d, products):
    for n, k in ((1, 1), (100, 1000), (16_384, 65_537), (4096, 1 << 20)):
        text = lowered(tpu, "tpu", n, k, d, products)
        assert "tpu_custom_call" in text and "simvq_group_maxima" in text


def device(kind, platform="tpu"):
    return types.SimpleNamespace(platform=platform, device_kind=kind)


@pytest.mark.parametrize(
    ("on", "d", "sentence"),
    [
        (jax.devices("cpu")[0], 128, "it needs a TPU, not cpu"),
        (device("NVIDIA H200", "gpu"), 128, "it needs a TPU, not NVIDIA H200"),
        (device("TPU v3"), 128, "TPU v3 takes no bfloat16"),
        (device("TPU v5 lite"), 100_000, "do not fit in 12 MiB"),
    ],
)
def test_why_not(on, d, sentence):
    for code_limbs in (1, 2):
        assert sentence in tpu.why_not(on, d, code_limbs)


@pytest.mark.parametrize("kind", ["TPU v4", "TPU v5 lite", "TPU v5p", "TPU v6 lite"])
def test_why_not_has_nothing_against_a_tpu(kind):
    for d in (1, 8, 64, 128, 256, 512, 1024):
        assert tpu.why_not(device(kind), d, 1) is None
        assert tpu.why_not(device(kind), d, 2) is None


@pytest.mark.parametrize("products", [2, 3])
def test_what_why_not_allows_lowers_and_nothing_else(products):
    lengths = {}
    for d in (1, 500, 1000, 2000, 2600, 3840, 4096, 5888, 6000, 20_000):
        lengths[d] = tpu.why_not(device("TPU v5 lite"), d, CODE_LIMBS[products]) is None
        if lengths[d]:
            assert "tpu_custom_call" in lowered(tpu, "tpu", 1 << 14, 5000, d, products)
        else:
            with pytest.raises(ValueError, match="do not fit"):
                lowered(tpu, "tpu", 1 << 14, 5000, d, products)
    assert lengths[2000] and not lengths[20_000]


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("d", [128, 256, 512, 1024])
def test_tile_sizes(d, products):
    for n in (1, 16, 17, 129, 1000, 1025, 16_384, 100_003):
        tile, blocks = tpu.tile_sizes(n, d, U_LIMBS[products], CODE_LIMBS[products])
        assert tile % tpu.SUBLANES == 0 and (tpu.SPAN // tpu.BLOCK) % blocks == 0
        moved = 2 * d * (U_LIMBS[products] * tile + CODE_LIMBS[products] * blocks * tpu.BLOCK)
        scores = 4 * tile * (tpu.BLOCK + tpu.LANES)
        assert 2 * moved + scores < VMEM, "both copies of what the pipeline moves, and the scores of a block"
        tiles = math.ceil(n / tile)
        assert tiles * tile - n < tiles * tpu.SUBLANES, "tiles are equal, so that little is padding"


def test_limbs_are_joined_where_that_fills_the_matrix_unit():
    joined = {d: tpu.joins_limbs(d, 2) for d in (8, 64, 128, 256)}
    assert joined == {8: True, 64: True, 128: True, 256: False}
    assert not tpu.joins_limbs(64, 1)
