"""Residual and product quantizers: what their stages do, one after the other or side by side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simvq_jax.quantize import EMAVQ, FSQ, LFQ, VQ, FactorizedVQ, ProductQuantizer, ResidualQuantizer, SimVQ

D = 6
TOKENS = np.random.default_rng(0).standard_normal((4, 5, D), np.float32)


SHARED = VQ(4, 3)
MIXED = ProductQuantizer([SimVQ(4, 3), FactorizedVQ(4, 3, code_dim=2)])


def stages(count=3, dim=D, **fields):
    return tuple(SimVQ(16, dim, **fields) for _ in range(count))


def residual(**fields):
    return made(ResidualQuantizer(stages(), **fields))


@functools.cache
def _init(module):
    return jax.jit(module.init)(jax.random.key(0), TOKENS)


def made(module):
    return module, _init(module)


def of_stage(variables, number):
    return {collection: tree[f"stages_{number}"] for collection, tree in variables.items()}


def trained(module, variables, z, mask=None, key=0):
    rngs = {"quantizer": jax.random.key(key)}
    return module.apply(variables, z, mask, train=True, mutable=["codebook_stats"], rngs=rngs)


def test_each_stage_quantizes_what_is_left():
    module, variables = residual()
    out, left, values, losses = module.apply(variables, TOKENS), TOKENS, 0.0, []
    for number, stage in enumerate(stages()):
        alone = stage.apply(of_stage(variables, number), left)
        np.testing.assert_array_equal(out.indices[..., number], alone.indices)
        left, values = left - alone.z_q, values + alone.z_q
        losses.append(alone.loss)
    np.testing.assert_allclose(out.z_q, values, atol=1e-6)
    np.testing.assert_allclose(out.loss, np.mean(losses), rtol=1e-5)
    assert module.dim == D and module.codebook_size == (16, 16, 16)
    np.testing.assert_array_equal(out.z_q, module.apply(variables, out.indices, method="lookup"))


@pytest.mark.parametrize(
    ("stage", "codes"),
    [
        (EMAVQ(16, D, decay=0.1), "codebook"),
        (VQ(16, D, codebook_init="normal", restart_after=0.1), "moved"),
        (SimVQ(16, D, restart_after=0.1), "basis"),
    ],
)
def test_a_training_step_leaves_what_the_codes_were_not_what_they_become(stage, codes):
    module, variables = made(ResidualQuantizer((stage, stage.clone())))
    out, changed = trained(module, variables, TOKENS)
    np.testing.assert_array_equal(out.indices, module.apply(variables, TOKENS).indices)
    np.testing.assert_array_equal(out.z_q, module.apply(variables, out.indices, method="lookup"))
    before, after = (tree["codebook_stats"]["stages_0"][codes] for tree in (variables, changed))
    assert np.any(before != after)


def test_stages_that_would_round_what_they_leave_are_refused():
    module = ResidualQuantizer(stages(dtype=jnp.bfloat16))
    with pytest.raises(ValueError, match=r"a stage has dtype bfloat16 but must give float32, .*: leave it None"):
        jax.eval_shape(module.init, jax.random.key(0), TOKENS)


def test_fewer_indices_than_stages_give_the_first_stages_sum():
    module, variables = residual()
    indices = module.apply(variables, TOKENS).indices
    first = stages()[0].apply(of_stage(variables, 0), indices[..., 0], method="lookup")
    np.testing.assert_array_equal(module.apply(variables, indices[..., :1], method="lookup"), first)
    with pytest.raises(ValueError, match=r"n from 1 to the 3 stages"):
        module.apply(variables, jnp.zeros((2, 4), jnp.int32), method="lookup")


def test_the_gradient_passes_straight_through_once():
    module, variables = residual()
    gradient = jax.grad(lambda z: module.apply(variables, z).z_q.sum())(TOKENS)
    np.testing.assert_array_equal(gradient, np.ones_like(TOKENS))


def test_every_stage_is_trained_by_its_own_residual():
    module, variables = residual()
    grads = jax.grad(lambda params: module.apply({**variables, "params": params}, TOKENS).loss)(variables["params"])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))
    left = TOKENS
    for number, stage in enumerate(stages()):
        own = of_stage(variables, number)
        alone = jax.grad(lambda p, s=stage, v=own, z=left: s.apply({**v, "params": p}, z).loss / 3)(own["params"])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), grads[f"stages_{number}"], alone
        )
        left = left - stage.apply(own, left).z_q


def test_dropout_leaves_later_stages_out_of_value_losses_and_counts():
    module, variables = residual(dropout=1.0)
    mask = np.ones(TOKENS.shape[:2], bool)
    mask[:, 4] = False
    for key in range(4):
        out, changed = trained(module, variables, TOKENS, mask, key)
        counts = [int(changed["codebook_stats"][f"stages_{n}"]["usage"].sum()) for n in range(3)]
        assert counts[0] == mask.sum() >= counts[1] >= counts[2] and not any(count % 4 for count in counts)
        sums = [module.apply(variables, out.indices[..., :n], method="lookup") for n in (1, 2, 3)]
        used = [next(n for n, s in enumerate(sums, 1) if np.allclose(out.z_q[i], s[i], atol=1e-6)) for i in range(4)]
        assert [4 * sum(u > n for u in used) for n in range(3)] == counts
        np.testing.assert_array_equal(out.indices >= 0, np.arange(3) < np.reshape(used, (4, 1, 1)) * np.ones((1, 5, 1)))
        np.testing.assert_allclose(out.z_q, sums[-1], atol=1e-6)
    whole = module.apply(variables, TOKENS)
    np.testing.assert_array_equal(whole.z_q, module.apply(variables, whole.indices, method="lookup"))


def test_dropout_draws_every_number_of_stages():
    module = ResidualQuantizer(stages(), dropout=1.0)
    z = np.random.default_rng(1).standard_normal((600, 1, D), np.float32)
    _, changed = trained(module, _init(module), z)
    counts = [int(changed["codebook_stats"][f"stages_{n}"]["usage"].sum()) for n in range(3)]
    assert counts[0] == 600 and abs(counts[1] - 400) < 60 and abs(counts[2] - 200) < 60


def test_a_product_quantizes_each_part():
    module, variables = made(ProductQuantizer((SimVQ(16, 2), VQ(8, 3, codebook_init="normal"), FSQ((5,), 1))))
    out = module.apply(variables, TOKENS)
    parts = [TOKENS[..., :2], TOKENS[..., 2:5], TOKENS[..., 5:]]
    for number, (stage, part) in enumerate(zip(module.stages, parts, strict=True)):
        own = {name: tree[f"stages_{number}"] for name, tree in variables.items() if f"stages_{number}" in tree}
        alone = stage.apply(own, part)
        np.testing.assert_array_equal(out.indices[..., number], alone.indices)
    assert module.dim == D and module.codebook_size == (16, 8, 5)
    np.testing.assert_array_equal(out.z_q, module.apply(variables, out.indices, method="lookup"))
    assert [c.shape for c in module.apply(variables, method="codebook")] == [(16, 2), (8, 3), (5, 1)]


def test_stages_of_different_kinds_may_have_different_losses():
    module, variables = made(ProductQuantizer((LFQ(8, 3), VQ(8, 3, codebook_init="normal"))))
    out = module.apply(variables, TOKENS)
    own = {name: tree["stages_0"] for name, tree in variables.items() if "stages_0" in tree}
    alone = module.stages[0].apply(own, TOKENS[..., :3])
    np.testing.assert_allclose(out.losses["entropy"], alone.losses["entropy"] / 2, rtol=1e-5)
    with pytest.raises(ValueError, match=r"indices have shape \(4, 3\) but must be \(..., 2\)"):
        module.apply(variables, jnp.zeros((4, 3), jnp.int32), method="lookup")


def test_a_compound_of_a_list_can_be_hashed():
    assert hash(ResidualQuantizer([VQ(4, D)])) == hash(ResidualQuantizer((VQ(4, D),)))
    assert ProductQuantizer([VQ(4, D)]) == ProductQuantizer((VQ(4, D),))


def test_padding_may_hold_anything():
    module, variables = residual()
    mask = np.ones(TOKENS.shape[:2], bool)
    mask[:, 4] = False
    out = module.apply(variables, np.where(mask[..., None], TOKENS, np.nan), mask)
    assert np.all(np.isfinite(out.z_q)) and np.isfinite(out.loss)


def test_masked_tokens_do_not_count():
    module, variables = residual()
    mask = np.ones(TOKENS.shape[:2], bool)
    mask[2:] = False
    out, changed = trained(module, variables, TOKENS, mask)
    alone, expected = trained(module, variables, TOKENS[:2])
    np.testing.assert_allclose(out.loss, alone.loss, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, changed, expected)


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (ResidualQuantizer([]), "stages is empty"),
        (ProductQuantizer([]), "stages is empty"),
        (ResidualQuantizer([VQ(4, 2), VQ(4, 3)]), r"dims \[2, 3\] but quantize"),
        (ResidualQuantizer([VQ(4, D)] * 2), r"stages holds one quantizer several times .*: write \[SimVQ"),
        (ProductQuantizer([VQ(4, 3)] * 2), "stages holds one quantizer several times"),
        (ProductQuantizer([ResidualQuantizer([SHARED]), ResidualQuantizer([SHARED])]), "one quantizer several times"),
        (ResidualQuantizer([MIXED]), "a stage is a product of which some parts project and others do not"),
        (ResidualQuantizer([ProductQuantizer([MIXED])]), "a stage is a product of which some parts project"),
        (ResidualQuantizer([VQ(4, D)], dropout=1.5), r"dropout is 1.5 but must lie in \[0, 1\]"),
        (ProductQuantizer([VQ(4, 2), VQ(4, 3)]), r"z has shape \(4, 5, 6\) but must be \(..., 5\)"),
    ],
)
def test_what_cannot_be(module, sentence):
    with pytest.raises(ValueError, match=sentence):
        module.init(jax.random.key(0), TOKENS)
