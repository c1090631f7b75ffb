"""Figures of a codebook's use, and warnings of collapse."""

import jax
import numpy as np
import pytest

from configs import common
from simvq_jax.health import TOKENS_A_CODE, CollapseWatch, rank_figures, stages_of, usage_figures
from simvq_jax.quantize.base import NEVER, USAGE_WINDOW


def stats(ages, usage):
    return {"age": np.array(ages, np.int32), "usage": np.array(usage, np.float32)}


def test_figures_of_one_codebook():
    figures = usage_figures(stats([0, USAGE_WINDOW - 1, USAGE_WINDOW, 3 * USAGE_WINDOW, NEVER], [1, 1, 0, 0, 0]))
    assert figures["codebook_utilization"] == np.float32(2 / 5)
    assert figures["codebook_utilization_recent"] == np.float32(1 / 5)
    np.testing.assert_allclose(figures["codebook_perplexity"], 2, rtol=1e-5)
    np.testing.assert_allclose(figures["codebook_perplexity_share"], 2 / 5, rtol=1e-5)
    np.testing.assert_allclose(figures["codes_never_used"], 1 / 5, rtol=1e-5)
    assert figures["dead_code_age"] == 2 * USAGE_WINDOW
    assert not {"codebook_utilization_least", "spread_ratio"} & figures.keys()


def test_a_codebook_of_any_size_is_given_twenty_tokens_a_code():
    for size in (40, 20_000):
        window = TOKENS_A_CODE * size
        figures = usage_figures(stats(np.where(np.arange(size) < size // 4, window - 1, window), np.ones(size)))
        assert figures["codebook_utilization_recent"] == 0.25


def test_stages_are_averaged_and_the_worst_is_told():
    tree = {
        f"stages_{i}": {**stats([0] * i + [NEVER] * (12 - i), np.arange(12) < i), "spread_ratio": np.float32(i)}
        for i in range(12)
    }
    assert [int(s["usage"].sum()) for s in stages_of(tree)] == list(range(12))
    figures = usage_figures({f"stages_{i}": tree[f"stages_{i}"] for i in (4, 8)})
    np.testing.assert_allclose(figures["codebook_utilization"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(figures["codebook_utilization_least"], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(figures["codebook_utilization_recent_least"], 1 / 3, rtol=1e-6)
    assert figures["spread_ratio"] == 6


def test_the_rank_is_of_the_transform_or_absent():
    kernel = np.diag([3.0, 3.0, 0.0]).astype(np.float32)
    params = {"quantizer": {"transform": {"kernel": kernel}}}
    np.testing.assert_allclose(rank_figures(params)["train/transform_effective_rank"], 2, rtol=1e-5)
    assert rank_figures({"quantizer": {"codebook": kernel}}) == {}
    stages = {f"stages_{i}": {"transform": {"kernel": np.eye(3, dtype=np.float32)[: i + 1]}} for i in (0, 2)}
    np.testing.assert_allclose(jax.device_get(rank_figures({"quantizer": stages}))["train/transform_effective_rank"], 2)


def row(used, tokens=1.0, codes=1.0, perplexity=900.0):
    return {
        "train/codebook_utilization_recent": used,
        "train/codebook_perplexity": perplexity,
        "train/token_scale": tokens,
        "train/code_scale": codes,
    }


SETTLED = 2 * TOKENS_A_CODE * 1024 // 1024


def watch(**changes):
    quantizer = common.get_config().quantizer
    quantizer.update({"kind": "simvq", "codebook_size": 1024, "restart_after": 8.0, **changes})
    return CollapseWatch(quantizer, tokens_a_step=1024)


def test_a_codebook_in_good_health_is_not_spoken_of():
    healthy = watch()
    assert [healthy.look(step, row(used)) for step, used in ((1, 0.01), (30, 0.6), (SETTLED, 0.99))] == [[], [], []]


def test_of_several_codebooks_the_worst_is_watched():
    (sentence,) = watch().look(SETTLED, row(0.9) | {"train/codebook_utilization_recent_least": 0.1})
    assert "only 10.0% of the 1,024 codes" in sentence


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({"codebook_loss": "token"}, "set quantizer.codebook_loss to region, and raise optimizer.transform_"),
        ({"codebook_loss": "region"}, "raise quantizer.region_sources, and raise optimizer.transform_learning_rate."),
        ({"restart_after": 0.0}, "so the codebook has collapsed: set quantizer.restart_after to 8, so that codes"),
        ({"restart_after": 0.0, "trainable_basis": True}, "set quantizer.codebook_loss to region, and"),
        ({"restart_after": 0.0, "basis_seed": 3}, "set quantizer.codebook_loss to region, and"),
        ({"restart_after": 0.0, "basis_file": "a.npy"}, "set quantizer.codebook_loss to region, and"),
        ({"restart_after": 0.0, "hidden": 8}, "set quantizer.codebook_loss to region, and"),
        ({"restart_after": 0.0, "kind": "vq"}, "set quantizer.restart_after to 8"),
        ({"restart_after": 0.0, "kind": "ema_vq"}, "set quantizer.restart_after to 8"),
    ],
)
def test_the_mend_is_one_that_is_not_in_force_and_may_be(changes, mend):
    (sentence,) = watch(**changes).look(SETTLED, row(0.2))
    assert mend in sentence


def test_a_run_s_warnings_are_found_again_in_its_metrics():
    uses = {SETTLED - 1: 0.2, SETTLED: 0.2, SETTLED + 1: 0.9, SETTLED + 2: 0.3}
    numbers = {name: {step: row(used)[name] for step, used in uses.items()} for name in row(0)} | {
        "eval/psnr": {0: 9.0}
    }
    found = watch().look_back(numbers)
    assert [sentence.partition(":")[0] for sentence in found] == [f"step {SETTLED}", f"step {SETTLED + 2}"]
    assert watch().look_back({}) == []


def test_a_collapse_is_told_once_and_again_when_it_comes_back():
    sick = watch()
    assert sick.look(SETTLED - 1, row(0.2)) == []  # too early to say
    (sentence,) = sick.look(SETTLED, row(0.2))
    assert "only 20.0% of the 1,024 codes" in sentence and "quantizer.codebook_loss to region" in sentence
    assert sick.look(SETTLED + 1, row(0.21)) == []
    assert sick.look(SETTLED + 2, row(0.9)) == []
    fallen = sick.look(SETTLED + 3, row(0.1))
    assert len(fallen) == 2 and any("fell from 90.0% to 10.0%" in s for s in fallen)


def test_of_a_large_codebook_few_codes_in_the_first_window_are_told_before_its_use_can_be():
    size, first = 65_536, USAGE_WINDOW // 1024
    sick, healthy = (watch(codebook_size=size) for _ in range(2))
    assert sick.look(first - 1, row(0.01, perplexity=9.0)) == []  # too early to say
    (sentence,) = sick.look(first, row(0.01, perplexity=9.0))
    assert "as if among 9 of the 65,536 codes" in sentence and "quantizer.codebook_loss to region" in sentence
    assert healthy.look(first, row(0.01, perplexity=0.02 * size)) == []
    (sentence,) = sick.look(2 * TOKENS_A_CODE * size // 1024, row(0.01, perplexity=9.0))
    assert "only 1.0% of the 65,536 codes" in sentence
    assert watch().look(USAGE_WINDOW // 1024, row(0.9, perplexity=9.0)) == []  # of a small one use is the measure


@pytest.mark.parametrize("tokens", [5.0, 0.2])
def test_tokens_far_from_the_codes_scale_are_told(tokens):
    (sentence,) = watch().look(SETTLED, row(0.9, tokens=tokens))
    assert f"tokens are {tokens:.3g} times as long as the codes" in sentence and "transform_learning_rate" in sentence


def test_codes_that_restart_and_do_not_stay_in_use_are_told():
    """Their use in training is high all the same."""
    sick, restless = watch(), row(0.99) | {"train/restart_pace": 0.7}
    assert (
        sick.look(SETTLED - 1, restless) == [] and watch().look(SETTLED, restless | {"train/restart_pace": 0.3}) == []
    )
    (sentence,) = sick.look(SETTLED, restless)
    assert "70.0% of the codes restart" in sentence
    assert sentence.endswith("lower optimizer.transform_learning_rate, or raise quantizer.restart_after.")
    assert watch(kind="vq").look(SETTLED, restless)[0].endswith("stay in use: raise quantizer.restart_after.")


def test_other_kinds_are_given_no_advice_that_they_cannot_take():
    for changes in ({"kind": "vq"}, {"kind": "lfq", "restart_after": 0.0}):
        (sentence,) = watch(**changes).look(SETTLED, row(0.01))
        assert sentence.endswith("so the codebook has collapsed.")
    assert watch(kind="fsq").look(SETTLED, row(0.9, tokens=100.0)) == []  # codes of another space than the tokens


def test_a_row_without_finite_means_says_nothing():
    assert watch().look(SETTLED, row(0.1, tokens=float("nan"))) == []
