"""What jit, vmap, gradients, export and a mesh of eight devices make of the search: its programs and their answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import random_problem
from jax.sharding import NamedSharding, PartitionSpec

from simvq_jax.mesh import make_mesh
from simvq_jax.search import blockwise, nearest_allowed_code, nearest_code, rerank


def test_under_jit_vmap_and_grad():
    z, codebook, transform = random_problem(11, 24, 200, 8)
    expected, _ = nearest_code(z, codebook, transform)
    batched = jax.jit(jax.vmap(lambda z: nearest_code(z, codebook, transform)[0]))(z.reshape(4, 6, 8))
    np.testing.assert_array_equal(batched.reshape(-1), expected)
    gradient = jax.grad(lambda z: nearest_code(z, codebook, transform)[1].sum())(jnp.asarray(z))
    np.testing.assert_array_equal(gradient, 0)


def test_vmap_over_tokens_searches_for_all_as_one_array():
    z, codebook, transform = random_problem(11, 64 * 512, 4096, 16)

    def temporaries(search, shape):
        return jax.jit(search).lower(z.reshape(shape)).compile().memory_analysis().temp_size_in_bytes

    search = lambda z: nearest_code(z, codebook, transform)  # noqa: E731
    shape = (8, 8, 512, 16)
    assert temporaries(jax.vmap(jax.vmap(search)), shape) <= 1.1 * temporaries(search, shape)


def test_vmap_over_codebooks_and_transforms():
    problems = [random_problem(seed, 24, 200, 8) for seed in (1, 2, 3)]
    z, codebooks, transforms = jax.tree.map(lambda *several: np.stack(several), *problems)
    expected = [nearest_code(*problem)[0] for problem in problems]
    np.testing.assert_array_equal(jax.vmap(nearest_code)(z, codebooks, transforms)[0], expected)
    of_none = jax.vmap(lambda codebook: nearest_allowed_code(z[0], codebook, codebook[:, 0] > 0))(codebooks[:0])
    assert of_none[0].shape == (0, 24)
    of_first = [nearest_code(z[0], codebook, problems[0][2])[0] for codebook in codebooks]
    with_one = jax.vmap(lambda codebook: nearest_code(z[0], codebook, problems[0][2])[0])
    np.testing.assert_array_equal(with_one(codebooks), of_first)


def test_vmap_over_a_symbolic_batch():
    z, codebook, transform = random_problem(3, 15, 40, 8)
    (batch,) = jax.export.symbolic_shape("b")
    program = jax.jit(jax.vmap(lambda z: nearest_code(z, codebook, transform)[0]))
    exported = jax.export.export(program)(jax.ShapeDtypeStruct((batch, 5, 8), jnp.float32))
    np.testing.assert_array_equal(exported.call(z.reshape(3, 5, 8)).ravel(), nearest_code(z, codebook, transform)[0])


def test_inside_a_shard_map_of_the_caller():
    z, codebook, transform = random_problem(18, 64, 200, 8)
    expected, _ = nearest_code(z, codebook, transform)
    mesh = make_mesh()
    by_token = PartitionSpec("data")
    with jax.set_mesh(mesh):
        search = jax.shard_map(lambda z: nearest_code(z, codebook, transform)[0], in_specs=by_token, out_specs=by_token)
        np.testing.assert_array_equal(jax.jit(search)(z), expected)


def test_no_array_over_tokens_and_codes():
    n, k, d = 4096, 65_536, 128
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n, d), (k, d), (d, d), (d,))]
    compiled = jax.jit(lambda z, c, w, b: nearest_code(z, c, (w, b))).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 140e6 < 4 * n * k
    plain = jax.jit(nearest_code).lower(*shapes[:2]).compile()
    assert plain.memory_analysis().temp_size_in_bytes < 4 * k * d  # nor a second codebook


def test_tokens_less_what_codes_share_are_formed_a_tile_at_a_time():
    """Copies of all of them took up to a third of the time."""
    n, k, d = 16_384, 512, 512  # four tiles
    z, codebook, w, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n, d), (k, d), (d, d), (d,)))
    for arguments in ((z, codebook), (z, codebook, (w, b))):
        memory = jax.jit(nearest_code).lower(*arguments).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 4 * n * d


@pytest.mark.parametrize("most", [8, 128, 1000, 4096])
@pytest.mark.parametrize("n", [1, 7, 1000, 4096, 4097, 100_001])
def test_tiles_are_as_equal_as_may_be(n, most):
    tile = rerank._even_tile(n, most)
    count = -(-n // tile)
    assert 1 <= tile <= most and count == -(-n // most), "no more tiles than tiles of the largest size"
    assert count * tile - n < count * rerank.EVEN
    assert tile in (n, most) or tile % rerank.EVEN == 0


def compiled_search(devices_in_mesh, n, k, d):
    """The search compiled for tokens split over the mesh."""
    z, codebook, transform = random_problem(13, n, k, d)
    if devices_in_mesh == 1:
        return z, jax.jit(nearest_code).lower(z, codebook, transform).compile()
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        split = jax.device_put(z, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
        whole = jax.device_put((codebook, transform), NamedSharding(mesh, PartitionSpec()))
        return split, jax.jit(nearest_code).lower(split, *whole).compile()


def test_eight_devices_share_the_work_and_gather_nothing():
    """Each device scores its own eighth of the tokens; no token and no score crosses the wire."""
    n, k, d = 4096, 2048, 16
    _, alone = compiled_search(1, n, k, d)
    _, shared = compiled_search(8, n, k, d)
    text = shared.as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert f" {collective}" not in text, collective
    assert f"f32[{n},{d}]" not in text, "all tokens stand on one device"
    assert f"f32[{n // 8},{d}]" in text
    # A while body is counted once whatever its trip count, so tiles must be counted with it. The norms of the codes
    # are every device's own work, hence the 5%.
    assert tile_flops(shared, n // 8) <= 1.05 * tile_flops(alone, n) / 8


def tile_flops(compiled, n):
    tile = min(n, blockwise.choose_sizes(2048, 16, "cpu").tile)
    return compiled.cost_analysis()["flops"] * (n // tile)


def test_eight_devices_give_the_answer_of_one():
    n, k, d = 803, 1000, 16  # no multiple of eight
    z, codebook, transform = random_problem(14, n, k, d)
    expected = nearest_code(z, codebook, transform)
    mesh = make_mesh(data=4, fsdp=2)
    with jax.set_mesh(mesh):
        got = jax.jit(nearest_code)(z, codebook, transform)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
