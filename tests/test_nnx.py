"""The quantizers and their optimiser in a model of NNX, by flax's bridge."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import simvq_jax
from simvq_jax.optim import generator_optimizer

DIM = 8
RATES = {"schedule": optax.constant_schedule(1e-3), "transform_schedule": optax.constant_schedule(3e-2)}
EVERY = {"start_scale": 1.0, "codebook_loss": "region", "region_sources": 32, "restart_after": 2}
QUANTIZERS = {
    "simvq": lambda: simvq_jax.SimVQ(64, DIM, **EVERY),
    "mlp": lambda: simvq_jax.SimVQ(64, DIM, hidden=16, start_scale=1.0, codebook_loss="region", region_sources=32),
    "residual": lambda: simvq_jax.ResidualQuantizer([simvq_jax.SimVQ(32, DIM, **EVERY) for _ in range(2)]),
    "vq": lambda: simvq_jax.VQ(64, DIM, restart_after=2),
    "fsq": lambda: simvq_jax.FSQ((8, 8), DIM),
}


class Model(nnx.Module):
    """The quantizer in a list, deep in a model, between two layers."""

    def __init__(self, quantizer, examples, *, rngs):
        self.encoder, self.decoder = nnx.Linear(DIM, DIM, rngs=rngs), nnx.Linear(DIM, DIM, rngs=rngs)
        bridged = nnx.bridge.ToNNX(quantizer, rngs=rngs).lazy_init(self.encoder(examples))
        self.bottlenecks = nnx.List([bridged])

    def __call__(self, x, train: bool):
        out = self.bottlenecks[0](self.encoder(x), train=train, mutable=["codebook_stats"] if train else False)
        return self.decoder(out.z_q), out


@nnx.jit
def training_step(model, optimizer, x):
    def loss_of(model):
        decoded, out = model(x, train=True)
        return jnp.mean((decoded - x) ** 2) + out.loss, out

    (loss, out), grads = nnx.value_and_grad(loss_of, has_aux=True)(model)
    optimizer.update(model, grads, codebook_stats=nnx.state(model))
    return loss, out


def tokens(seed):
    return jax.random.normal(jax.random.key(seed), (2, 64, DIM))


@pytest.mark.parametrize(("kind", "optimizer"), [*((kind, "adam") for kind in QUANTIZERS), ("simvq", "muon")])
def test_a_model_of_nnx_trains(kind, optimizer):
    model = Model(QUANTIZERS[kind](), tokens(0), rngs=nnx.Rngs(0))
    transformation = generator_optimizer(**RATES, b1=0.9, b2=0.99, clip_norm=1.0, spread_limit=1.0, kind=optimizer)
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    losses = [float(training_step(model, optimizer, tokens(0))[0]) for _ in range(20)]
    assert losses[-1] < losses[0]
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    assert all(jax.tree.leaves(moved))
    out = model(tokens(0), train=False)[1]
    np.testing.assert_array_equal(model.bottlenecks[0].lookup(out.indices), out.z_q)


def test_the_state_and_the_random_stream_advance_by_themselves():
    """As in linen by hand: the same codes for the same parameters, and other ones drawn at each step."""
    model = Model(QUANTIZERS["simvq"](), tokens(0), rngs=nnx.Rngs(0, quantizer=1))
    bridged = model.bottlenecks[0]
    count = bridged.to_nnx__rngs["quantizer"].count[...]
    model(tokens(0), train=True)
    model(tokens(0), train=True)
    assert float(jnp.sum(bridged.usage[...])) == pytest.approx(256, rel=2e-3)
    assert bridged.to_nnx__rngs["quantizer"].count[...] == count + 2
    variables = {
        "params": {"transform": {name: value[...] for name, value in bridged.transform.items()}},
        "codebook_stats": {"basis": bridged.basis[...]},
    }
    linen = QUANTIZERS["simvq"]().apply(variables, model.encoder(tokens(1)))
    np.testing.assert_array_equal(model(tokens(1), train=False)[1].indices, linen.indices)


def test_codes_far_outside_the_tokens_are_drawn_in():
    """So the optimiser finds the quantizer and its ratio in NNX's state."""
    model = Model(QUANTIZERS["simvq"](), tokens(0), rngs=nnx.Rngs(0))
    transformation = generator_optimizer(**RATES, b1=0.9, b2=0.99, clip_norm=1.0, spread_limit=1.0)
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    kernel = model.bottlenecks[0].transform["kernel"]
    wide = 50 * kernel[...]
    kernel[...] = wide
    training_step(model, optimizer, tokens(0))
    np.testing.assert_allclose(model.bottlenecks[0].transform["kernel"][...] * 50, wide, rtol=0.3)
