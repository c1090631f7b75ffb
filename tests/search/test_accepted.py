"""What the search accepts: shapes, types, options, and the backends of a device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, Mesh

from simvq_jax.search import backends, nearest_allowed_code, nearest_code
from simvq_jax.search.blockwise import Sizes


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((zeros(4, 3), zeros(5, 2)), "z has last axis 3 but the codes have 2"),
        ((zeros(), zeros(5, 2)), "z has last axis None but the codes have 2"),
        ((zeros(4, 3), zeros(0, 3)), r"codebook has shape \(0, 3\)"),
        ((zeros(4, 3), zeros(3)), r"codebook has shape \(3,\)"),
        ((zeros(4, 3), zeros(5, 2), (zeros(3, 3), None)), r"must be \(basis_dim, d\) = \(2, 3\)"),
        ((zeros(4, 3), zeros(5, 3), (zeros(3, 3), zeros(2))), r"b has shape \(2,\)"),
        ((zeros(4, 3, dtype=np.float64), zeros(5, 3)), "z is float64 .* cast it to float32"),
        ((zeros(4, 3), zeros(5, 3, dtype=np.int32)), "codebook is int32 .* cast it to float32"),
        ((zeros(4, 3), zeros(5, 3), (zeros(3, 3, dtype=np.float64), None)), "W is float64"),
        ((zeros(4, 3), zeros(5, 3), (None, zeros(3))), r"transform must be None or a pair \(W, b\)"),
        ((zeros(4, 3), zeros(5, 3), ()), r"transform must be None or a pair \(W, b\)"),
        ((zeros(4, 3), zeros(5, 2), zeros(2, 3)), r"transform must be None or a pair \(W, b\)"),
        (([[0.0, 0.0]], zeros(5, 2)), "z is a list but must be an array"),
    ],
)
def test_input_that_does_not_fit(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        nearest_code(*arguments)


@pytest.mark.parametrize("allowed", [np.array([0, 2, 1]), [True, False, True], np.ones(3, np.float32)])
def test_what_is_allowed_is_said_by_bools(allowed):
    with pytest.raises(ValueError, match=r"allowed is (int64|list|float32) but must be an array of bool"):
        nearest_allowed_code(zeros(4, 2), zeros(3, 2), allowed)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"backend": "cuda"}, "'cuda' but must be one of"),
        ({"backend": "tpu"}, "'tpu' does not apply here .* pass backend='auto'"),
        ({"backend": "hopper"}, "'hopper' does not apply here .* pass backend='auto'"),
        ({"sizes": Sizes(8, 64, 8, 8)}, "sizes are for backend='blockwise'"),
        ({"sizes": Sizes(8, 64, 0, 8), "backend": "blockwise"}, "group=0.* but all must be at least 1"),
        ({"sizes": Sizes(8, 4, 8, 8), "backend": "blockwise"}, "and block at least group"),
    ],
)
def test_options_that_do_not_apply(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        nearest_code(zeros(1, 2), zeros(1, 2), **options)


def test_a_device_without_its_kernel_is_told_once(monkeypatch, caplog):
    rng = np.random.default_rng(21)
    z, codebook = (rng.normal(size=(n, 8)).astype(np.float32) for n in (4, 30))
    monkeypatch.setitem(backends.KERNEL_OF_PLATFORM, "cpu", "hopper")
    backends.choose.cache_clear()
    with caplog.at_level("WARNING", logger="simvq_jax"):
        for k in (30, 20):
            nearest_code(z, codebook[:k])
    (record,) = caplog.records
    assert "'blockwise' instead of 'hopper': it needs a Hopper GPU" in record.message
    backends.choose.cache_clear()


def test_the_device_is_that_of_the_array_the_mesh_or_the_default(monkeypatch):
    """Within jit an array does not tell; the mesh does, which may be of another platform than the default device."""
    seen = []
    traced = jax.jit(lambda z: seen.append(backends.device_of(z)) or z)
    monkeypatch.setattr(jax, "devices", lambda platform: [platform])
    traced(zeros(2))
    with jax.set_mesh(Mesh(np.array(jax.local_devices()[:1]), ("data",))):
        traced(zeros(3))
    assert seen == [None, "cpu"]
    assert backends.device_of(jnp.zeros(2)) == jax.local_devices()[0]


def test_a_program_for_a_machine_that_is_not_here():
    z, codebook = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((40, 16), (300, 16)))
    mesh = AbstractMesh((4,), ("data",), abstract_device=AbstractDevice("TPU v5e", 1, "tpu"))
    with jax.sharding.use_abstract_mesh(mesh):
        indices, _ = jax.eval_shape(nearest_code, z, codebook)
    assert indices.shape == (40,)


def test_no_tokens():
    indices, sq_distance = nearest_code(zeros(0, 3), zeros(5, 3))
    assert indices.shape == sq_distance.shape == (0,) and indices.dtype == jnp.int32
    assert nearest_code(zeros(2, 0, 3), zeros(5, 3))[0].shape == (2, 0)
