"""Figures of a codebook's use against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvq_jax.metrics.codebook import effective_rank, perplexity, scale, utilization

COUNTS = st.lists(st.integers(0, 10**6), min_size=8, max_size=8)


@settings(max_examples=30, deadline=None)
@given(COUNTS)
def test_perplexity_is_exp_of_the_entropy(counts):
    share = np.array([count for count in counts if count], np.float64)
    share /= max(share.sum(), 1)
    expected = np.exp(-np.sum(share * np.log(share))) if len(share) else 0.0
    got = float(perplexity(jnp.array(counts, jnp.float32)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert got <= 8 * (1 + 1e-6)


def test_perplexity_of_even_use_is_the_number_of_codes_in_use():
    counts = jnp.zeros(5000).at[:4096].set(3.0)
    np.testing.assert_allclose(perplexity(counts), 4096, rtol=1e-5)
    np.testing.assert_allclose(perplexity(counts * 1e-6), 4096, rtol=1e-5)


def test_perplexity_of_no_tokens_is_zero():
    assert float(perplexity(jnp.zeros(4))) == 0.0


@pytest.mark.parametrize(
    ("used", "share"), [([True] * 4, 1.0), ([False] * 4, 0.0), ([True, False, False, False], 0.25)]
)
def test_utilization_is_the_share_of_codes_in_use(used, share):
    assert float(utilization(jnp.array(used))) == share


def test_effective_rank_counts_directions():
    np.testing.assert_allclose(effective_rank(jnp.array([2.0, 2.0, 2.0, 0.0])), 3, rtol=1e-6)
    assert 1 < float(effective_rank(jnp.array([5.0, 0.1, 0.1]))) < 2


def test_scale_is_the_root_mean_square_length():
    vectors = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    expected = np.sqrt(np.mean(np.sum(vectors.astype(np.float64) ** 2, axis=-1)))
    np.testing.assert_allclose(scale(jnp.asarray(vectors)), expected, rtol=1e-6)
    assert scale(jnp.ones((2, 4), jnp.bfloat16)).dtype == jnp.float32
