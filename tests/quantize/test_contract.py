"""What all quantizers keep to, alone, in one another and under jax's flags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simvq_jax.quantize import (
    EMAVQ,
    FSQ,
    LFQ,
    VQ,
    FactorizedVQ,
    MomentVQ,
    ProductQuantizer,
    ResidualQuantizer,
    SimVQ,
)

D = 8
TOKENS = np.random.default_rng(0).standard_normal((2, 50, D), np.float32)
EVERY = {"start_scale": 1.0, "codebook_loss": "region", "region_sources": 16, "restart_after": 2}
ALONE = {
    "simvq": SimVQ(64, D, **EVERY),
    "mlp": SimVQ(64, D, hidden=16, start_scale=1.0),
    "trained basis": SimVQ(64, D, trainable_basis=True),
    "basis of tokens": SimVQ(64, D, basis_init="tokens"),
    "seeded basis": SimVQ(64, D, basis_seed=3, basis_dtype="bfloat16"),
    "vq": VQ(64, D, estimator="dynamic"),
    "restarting vq": VQ(16, D, codebook_init="kmeans", restart_after=2),
    "ema_vq": EMAVQ(16, D, codebook_init="kmeans", restart_after=2),
    "factorized_vq": FactorizedVQ(64, D, code_dim=4, estimator="rotation"),
    "moment_vq": MomentVQ(64, D),
    "fsq": FSQ((8, 5), D),
    "fsq of as many levels": FSQ((5,) * D, D),
    "lfq": LFQ(64, D),
}
COMPOUNDS = {
    "residual": ResidualQuantizer([SimVQ(16, D) for _ in range(2)], dropout=0.5),
    "residual fsq": ResidualQuantizer([FSQ((8, 5), D) for _ in range(2)], dropout=0.5),
    "residual lfq": ResidualQuantizer([LFQ(64, D) for _ in range(2)]),
    "residual factorized_vq": ResidualQuantizer([FactorizedVQ(64, D) for _ in range(2)]),
    "residual of fsq and vq": ResidualQuantizer([FSQ((8, 5), D), VQ(16, D)]),
    "residual of simvq and factorized_vq": ResidualQuantizer([SimVQ(16, D), FactorizedVQ(64, D), SimVQ(16, D)]),
    "product": ProductQuantizer([LFQ(64, 4), FSQ((5, 5, 5), 4)]),
    "product of residual": ProductQuantizer(
        [ResidualQuantizer([VQ(16, 4) for _ in range(2)], dropout=0.5) for _ in range(2)]
    ),
    "residual of product": ResidualQuantizer([ProductQuantizer([VQ(16, 4), VQ(16, 4)]) for _ in range(2)], dropout=0.5),
}
KINDS = ALONE | COMPOUNDS


def used(quantizer):
    """Of an init, a training step with gradients, a lookup and the codebook."""
    variables = quantizer.init(jax.random.key(0), TOKENS)

    def objective(params, z):
        rngs = {"quantizer": jax.random.key(1)}
        state = {**variables, "params": params}
        out, changed = quantizer.apply(state, z, train=True, mutable=["codebook_stats"], rngs=rngs)
        return jnp.sum(jnp.dot(out.z_q, jnp.arange(D, dtype=jnp.float32))) + out.loss, (out, changed)

    gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
    grads, (out, changed) = gradient(variables.get("params", {}), jnp.asarray(TOKENS))
    codes = quantizer.apply({**variables, **changed}, out.indices, method="lookup")
    before = quantizer.apply(variables, out.indices, method="lookup")
    return {
        "variables": variables,
        "gradients": grads,
        "out": out,
        "changed": changed,
        "codes": codes,
        "codes before": before,
        "codebook": quantizer.apply(variables, method="codebook"),
    }


FLAGS = {"x64": lambda: jax.enable_x64(True), "strict": lambda: jax.numpy_dtype_promotion("strict")}


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("kind", KINDS)
def test_types_do_not_depend_on_jax_s_flags(kind, flag):
    with FLAGS[flag]():
        shapes = jax.eval_shape(lambda: used(KINDS[kind]))
    types = {leaf.dtype for leaf in jax.tree.leaves(shapes)}
    assert types <= {jnp.dtype(name) for name in ("float32", "int32", "bfloat16")}


@pytest.mark.parametrize("kind", COMPOUNDS)
def test_compounds_train_every_parameter_and_look_up_what_they_gave(kind):
    found = jax.jit(lambda: used(COMPOUNDS[kind]))()
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(found["gradients"])}
    assert [path for path, leaf in flat.items() if not np.any(leaf)] == []
    np.testing.assert_allclose(found["codes before"], found["out"].z_q, atol=1e-6)
    assert found["out"].indices.shape == (*TOKENS.shape[:2], *COMPOUNDS[kind].index_shape)
    assert np.prod(COMPOUNDS[kind].index_shape) == len(COMPOUNDS[kind].codebook_sizes)


def test_more_stages_that_project_reconstruct_better():
    """Their projections are trained by the gradient of z_q alone."""

    def error(count):
        quantizer = ResidualQuantizer([FSQ((5, 5), D) for _ in range(count)])
        variables = quantizer.init(jax.random.key(0), TOKENS)

        def objective(params):
            return jnp.mean((quantizer.apply({**variables, "params": params}, TOKENS).z_q - TOKENS) ** 2)

        def step(params, _):
            grads = jax.grad(objective)(params)
            return jax.tree.map(lambda p, g: p - g, params, grads), None

        return float(objective(jax.lax.scan(step, variables["params"], length=200)[0]))

    one, three = error(1), error(3)
    assert three < 0.75 * one < 0.75


@pytest.mark.parametrize("kind", ["vq", "product", "residual"])
def test_codes_of_rounded_tokens_are_given_whole_where_that_is_asked(kind):
    quantizer = KINDS[kind].clone(dtype=jnp.float32)
    variables = quantizer.init(jax.random.key(0), TOKENS)
    out = quantizer.apply(variables, TOKENS.astype(jnp.bfloat16))
    np.testing.assert_allclose(out.z_q, quantizer.apply(variables, out.indices, method="lookup"), atol=1e-6)


@pytest.mark.parametrize("kind", ["simvq", "ema_vq", "fsq", "lfq", "factorized_vq", "residual", "product"])
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_indices_of_other_types_are_refused(kind, dtype):
    variables = KINDS[kind].init(jax.random.key(0), TOKENS)
    indices = KINDS[kind].apply(variables, TOKENS).indices.astype(dtype)
    with pytest.raises(ValueError, match=f"indices are {dtype} but must be whole numbers"):
        KINDS[kind].apply(variables, indices, method="lookup")
    whole = indices.astype(int)[0, 0]
    codes = KINDS[kind].apply(variables, whole.tolist(), method="lookup")  # a number, or a list of one of each stage
    np.testing.assert_array_equal(codes, KINDS[kind].apply(variables, whole, method="lookup"))


@pytest.mark.parametrize("kind", ["simvq", "ema_vq", "fsq", "factorized_vq", "residual", "product"])
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_tokens_of_other_types_are_refused(kind, dtype):
    with pytest.raises(ValueError, match=f"z is {dtype} but must be floats"):
        jax.eval_shape(KINDS[kind].init, jax.random.key(0), TOKENS.astype(dtype))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: VQ(8.0, D), r"codebook_size is 8\.0 but must be a whole number"),
        (lambda: VQ(8, D, dtype=jnp.int32), r"dtype is int32 but must be one of floats"),
        (lambda: FSQ((5, 5), D, dtype=jnp.int8), r"dtype is int8 but must be one of floats"),
        (lambda: VQ(8, D, beta=-1.0), r"beta is -1\.0 but must be at least 0"),
        (lambda: SimVQ(8, D, activity_share=-1.0), r"activity_share is -1\.0 but must be at least 0"),
        (lambda: FSQ(8, D), r"levels is 8 but must be a list of numbers"),
        (lambda: LFQ(2**31, 31), r"codebook_size is 2147483648 but must be a power of two from 2 to 2\^30"),
        (lambda: ResidualQuantizer(VQ(8, D)), r"stages is one quantizer but must be a list"),
        (lambda: ProductQuantizer([VQ(8, 4), VQ(8, 4, dtype=jnp.bfloat16)]), r"a stage has dtype bfloat16 but must"),
        (lambda: ProductQuantizer([VQ(8, 4)], dtype=jnp.int32), r"dtype is int32 but must be one of floats"),
        (
            lambda: ProductQuantizer([VQ(8, 4), ResidualQuantizer([VQ(8, 4)])]),
            r"indices of shapes \[\(\), \(1,\)\] a token but must agree",
        ),
    ],
)
def test_fields_that_cannot_be_get_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        jax.eval_shape(make().init, jax.random.key(0), TOKENS)
    assert "\n" not in str(caught.value)


def test_levels_of_a_list_can_be_hashed():
    assert hash(FSQ([8, 5], D)) == hash(FSQ((8, 5), D))
