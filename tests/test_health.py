"""Figures of a codebook's use, and warnings of collapse."""

import jax
import numpy as np
import pytest

from simvq_jax.health import CollapseWatch, rank_figures, stages_of, usage_figures, wide_window
from simvq_jax.quantize.base import NEVER, USAGE_WINDOW


def stats(ages, usage):
    return {"age": np.array(ages, np.int32), "usage": np.array(usage, np.float32)}


def test_figures_of_one_codebook():
    figures = usage_figures(stats([0, USAGE_WINDOW - 1, USAGE_WINDOW, 3 * USAGE_WINDOW, NEVER], [1, 1, 0, 0, 0]))
    assert figures["codebook_utilization"] == figures["codebook_utilization_wide"] == np.float32(2 / 5)
    np.testing.assert_allclose(figures["codebook_perplexity"], 2, rtol=1e-5)
    np.testing.assert_allclose(figures["codebook_perplexity_share"], 2 / 5, rtol=1e-5)
    np.testing.assert_allclose(figures["codes_never_used"], 1 / 5, rtol=1e-5)
    assert figures["dead_code_age"] == 2 * USAGE_WINDOW
    assert "codebook_utilization_least" not in figures


def test_a_large_codebook_is_given_twenty_tokens_a_code():
    size = 20_000
    assert wide_window(size) == 400_000 and wide_window(100) == USAGE_WINDOW
    figures = usage_figures(stats(np.where(np.arange(size) < 5000, 399_999, 400_000), np.ones(size)))
    assert figures["codebook_utilization"] == 0 and figures["codebook_utilization_wide"] == 0.25


def test_stages_are_averaged_and_the_worst_is_told():
    tree = {f"stages_{i}": stats([0] * i + [NEVER] * (12 - i), np.arange(12) < i) for i in range(12)}
    assert [int(s["usage"].sum()) for s in stages_of(tree)] == list(range(12))
    figures = usage_figures({f"stages_{i}": tree[f"stages_{i}"] for i in (4, 8)})
    np.testing.assert_allclose(figures["codebook_utilization"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(figures["codebook_utilization_least"], 1 / 3, rtol=1e-6)


def test_the_rank_is_of_the_transform_or_absent():
    kernel = np.diag([3.0, 3.0, 0.0]).astype(np.float32)
    params = {"quantizer": {"transform": {"kernel": kernel}}}
    np.testing.assert_allclose(rank_figures(params)["train/transform_effective_rank"], 2, rtol=1e-5)
    assert rank_figures({"quantizer": {"codebook": kernel}}) == {}
    stages = {f"stages_{i}": {"transform": {"kernel": np.eye(3, dtype=np.float32)[: i + 1]}} for i in (0, 2)}
    np.testing.assert_allclose(jax.device_get(rank_figures({"quantizer": stages}))["train/transform_effective_rank"], 2)


def row(used, tokens=1.0, codes=1.0):
    return {"train/codebook_utilization_wide": used, "train/token_scale": tokens, "train/code_scale": codes}


SETTLED = 2 * USAGE_WINDOW // 4096


def test_a_codebook_in_good_health_is_not_spoken_of():
    watch = CollapseWatch(1024, 4096)
    assert [watch.look(step, row(used)) for step, used in ((1, 0.01), (50, 0.6), (SETTLED, 0.99))] == [[], [], []]


def test_a_collapse_is_told_once_and_again_when_it_comes_back():
    watch = CollapseWatch(1024, 4096)
    assert watch.look(SETTLED - 1, row(0.2)) == []  # too early to say
    (sentence,) = watch.look(SETTLED, row(0.2))
    assert "only 20.0% of the 1,024 codes" in sentence and "recipes.stable" in sentence
    assert watch.look(SETTLED + 1, row(0.21)) == []
    assert watch.look(SETTLED + 2, row(0.9)) == []
    fallen = watch.look(SETTLED + 3, row(0.1))
    assert len(fallen) == 2 and any("fell from 90.0% to 10.0%" in s for s in fallen)


@pytest.mark.parametrize("tokens", [5.0, 0.2])
def test_tokens_far_from_the_codes_scale_are_told(tokens):
    watch = CollapseWatch(1024, 4096)
    (sentence,) = watch.look(SETTLED, row(0.9, tokens=tokens))
    assert f"tokens are {tokens:.3g} times as long as the codes" in sentence and "scale_band" in sentence
