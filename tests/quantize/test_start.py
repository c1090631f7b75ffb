"""Where SimVQ's transform starts: at the tokens that `init` is given."""

import jax
import numpy as np
import pytest
from small_simvq import D, K, tokens

from simvq_jax.quantize import ResidualQuantizer, SimVQ


def spread(x):
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return np.sqrt(((x - x.mean(0)) ** 2).sum(-1).mean())


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("fields", [{}, {"hidden": 16}, {"basis_dim": 9}])
def test_a_start_scale_matches_the_codes_to_the_tokens(scale, fields):
    z = 4 * tokens(10, 12) + np.arange(D, dtype=np.float32)
    module = SimVQ(4000, D, start_scale=scale, **fields)
    variables = jax.jit(module.init)(jax.random.key(0), z)
    codes = module.apply(variables, method="codebook")
    np.testing.assert_allclose(spread(codes), scale * spread(z), rtol=1e-4)
    np.testing.assert_allclose(codes.mean(0), z.mean((0, 1)), atol=0.1 * spread(codes))
    if "hidden" not in fields:
        np.testing.assert_allclose(variables["params"]["transform"]["bias"], z.mean((0, 1)), rtol=1e-4)
    plain = jax.jit(SimVQ(4000, D, **fields).init)(jax.random.key(0), z)
    ratio = variables["params"]["transform"]["kernel"] / plain["params"]["transform"]["kernel"]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)  # W keeps its shape


def test_a_start_that_is_not_centred_is_torch_s_at_another_scale():
    z = 4 * tokens(10, 12) + 50
    variables = jax.jit(SimVQ(4000, D, start_scale=0.5, start_centred=False).init)(jax.random.key(0), z)
    codes = SimVQ(4000, D).apply(variables, method="codebook")
    np.testing.assert_allclose(spread(codes), 0.5 * spread(z), rtol=1e-4)
    plain = jax.jit(SimVQ(4000, D).init)(jax.random.key(0), z)["params"]["transform"]
    ratios = jax.tree.map(np.divide, variables["params"]["transform"], plain)
    np.testing.assert_allclose(np.concatenate([r.ravel() for r in ratios.values()]), ratios["kernel"][0, 0], rtol=1e-4)


def test_masked_tokens_do_not_set_the_start():
    module, z = SimVQ(K, D, start_scale=1.0), tokens(20)
    mask = np.arange(20) < 8
    filled = np.where(mask[:, None], z, 1e6).astype(np.float32)
    apart, alone = (jax.jit(module.init)(jax.random.key(0), *a) for a in ((filled, mask), (z[:8],)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), apart["params"], alone["params"])


def test_tokens_that_are_all_equal_give_their_place_and_torch_s_scale():
    z = np.full((5, D), 3.0, np.float32)
    matched = jax.jit(SimVQ(K, D, start_scale=1.0).init)(jax.random.key(0), z)["params"]["transform"]
    plain = jax.jit(SimVQ(K, D).init)(jax.random.key(0), z)["params"]["transform"]
    np.testing.assert_array_equal(matched["kernel"], plain["kernel"])
    np.testing.assert_allclose(matched["bias"], 3.0, rtol=1e-6)


def test_residual_stages_start_at_what_is_left_to_each():
    z = 7 * tokens(300)
    module = ResidualQuantizer([SimVQ(500, D, start_scale=1.0) for _ in range(3)])
    variables = jax.jit(module.init)(jax.random.key(0), z)
    left, codebooks = z, module.apply(variables, method="codebook")
    for stage, codes in enumerate(codebooks):
        np.testing.assert_allclose(spread(codes), spread(left), rtol=1e-3)
        indices = module.apply(variables, z).indices[:, stage]
        left = left - np.asarray(codes)[indices]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_start_scale_gets_one_sentence(scale):
    with pytest.raises(ValueError, match=r"start_scale is .* but must be above 0 and finite, or left out"):
        SimVQ(K, D, start_scale=scale).init(jax.random.key(0), tokens(3))
