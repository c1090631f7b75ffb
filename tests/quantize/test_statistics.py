"""What SimVQ notes in training: ages and usage of its codes, and how far they are spread beside the tokens."""

import jax.numpy as jnp
import numpy as np
import pytest
from small_simvq import K, apply, make, tokens, trained

from simvq_jax.quantize.base import NEVER, USAGE_WINDOW


def test_age_counts_tokens_since_a_code_was_last_selected():
    module, variables = make()
    assert np.all(variables["codebook_stats"]["age"] == NEVER)
    first = apply(module, variables, np.array([3, 3, 5]), method="lookup")
    second = apply(module, variables, np.array([5, 7]), method="lookup")
    _, stats = trained(module, variables, first)
    assert stats["age"][3] == 0 and stats["age"][5] == 0 and stats["age"][7] == NEVER
    _, stats = trained(module, {**variables, "codebook_stats": stats}, second)
    assert stats["age"][3] == 2 and stats["age"][5] == 0 and stats["age"][7] == 0 and stats["age"][0] == NEVER
    np.testing.assert_allclose(np.asarray(stats["usage"])[[3, 5, 7, 0]], [2, 2, 1, 0], rtol=1e-4)


def test_a_code_once_selected_is_told_from_one_that_never_was_however_long_ago():
    module, variables = make()
    z = apply(module, variables, np.array([5, 7]), method="lookup")
    ages = np.full(K, NEVER, np.int32)
    ages[3] = NEVER - 2
    for _ in range(2):
        _, stats = trained(module, {**variables, "codebook_stats": {**variables["codebook_stats"], "age": ages}}, z)
        ages = stats["age"]
    assert ages[3] == NEVER - 1 and ages[0] == NEVER and ages[5] == 0


def test_usage_forgets_by_the_number_of_tokens():
    module, variables = make()
    before = {**variables["codebook_stats"], "usage": jnp.full(K, 1000.0)}
    z, mask = tokens(2000), np.arange(2000) < 1500
    out, stats = trained(module, {**variables, "codebook_stats": before}, z, mask=mask)
    counts = np.bincount(np.asarray(out.indices)[:1500], minlength=K)
    np.testing.assert_allclose(stats["usage"], np.exp(-1500 / USAGE_WINDOW) * 1000.0 + counts, rtol=1e-6)


def test_usage_of_a_large_codebook_is_counted_over_more_tokens():
    """At one token a code of even use, a seventh of the codes would have less than a quarter of the mean's."""
    module, variables = make(codebook_size=100_000)
    before = {**variables["codebook_stats"], "usage": jnp.full(100_000, 1000.0)}
    _, stats = trained(module, {**variables, "codebook_stats": before}, tokens(2000))
    np.testing.assert_allclose(np.median(stats["usage"]), np.exp(-2000 / 400_000) * 1000.0, rtol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"hidden": 16}, {"trainable_basis": True}, {"codebook_size": 5000}])
def test_the_spread_ratio_is_that_of_the_codes_to_the_tokens_that_count(fields):
    module, variables = make(**fields)
    z, mask = 3 * tokens(40) + 7, np.arange(40) < 30

    def spread(x):
        return np.sqrt(np.mean((x - np.mean(x, axis=0)) ** 2))

    _, stats = trained(module, variables, z, mask=mask)
    codes = np.asarray(apply(module, variables, method="codebook"))
    np.testing.assert_allclose(stats["spread_ratio"], spread(codes) / spread(z[:30]), rtol=2e-2)
    equal = np.repeat(tokens(1) + 3, 60, axis=0)  # whose mean rounds, so that their variance is not 0
    _, after = trained(module, {**variables, "codebook_stats": stats}, equal)
    assert after["spread_ratio"] == stats["spread_ratio"]  # equal tokens tell nothing
