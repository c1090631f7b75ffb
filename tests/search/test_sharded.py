"""A codebook split over eight devices: the answer of one device, and what crosses the wire for it."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from simvq_jax.mesh import make_mesh
from simvq_jax.quantize import FSQ
from simvq_jax.search import nearest, nearest_allowed_code, nearest_code, take_codes
from simvq_jax.search.blockwise import Sizes

N, K, D = 203, 1000, 16  # N is no multiple of the devices
MESHES = ({"codebook": 8}, {"data": 4, "codebook": 2}, {"data": 2, "fsdp": 2, "codebook": 2})
COLLECTIVES = re.compile(r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def make_problem(n=N, k=K, d=D):
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(n, d)).astype(np.float32)
    codebook = rng.normal(size=(k, d)).astype(np.float32)
    return tokens, codebook, (rng.normal(size=(d, d)).astype(np.float32), rng.normal(size=d).astype(np.float32))


@contextlib.contextmanager
def mesh_of(**axes):
    """The mesh, made the current one."""
    mesh = make_mesh(**axes)
    with jax.set_mesh(mesh):
        yield mesh


def on_mesh(mesh, tokens, codebook, transform):
    """Tokens over the batch axes, where they divide, and codes over axis codebook."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    by_token = PartitionSpec(("data", "fsdp") if len(tokens) % shards == 0 else None)
    specs = (by_token, PartitionSpec("codebook"), PartitionSpec())
    arrays = (tokens, codebook, transform)
    return tuple(jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, specs, strict=True))


def lattice(n=N, k=K, d=5):
    """Tokens halfway between many codes: float32 cannot tell which is nearest."""
    tokens, codebook, _ = make_problem(n, k, d)
    return (np.round(tokens * 2) + 0.5) * np.float32(0.1), np.round(codebook * 2) * np.float32(0.1)


@pytest.fixture(params=[0, 4 << 20], ids=["transformed on the way", "transformed first"])
def fold_bytes(request, monkeypatch):
    monkeypatch.setattr(nearest, "FOLD_BYTES", request.param)


def hard_codebooks():
    _, codebook, _ = make_problem()
    yield "random", codebook
    yield "every code eight times, once on each device", np.tile(codebook[: K // 8], (8, 1))
    yield "all codes equal", np.full_like(codebook, 0.3)
    yield "collapsed", (3 + 1e-3 * codebook).astype(np.float32)
    with_nan = codebook.copy()
    with_nan[: K // 2] = np.nan  # of eight devices, four have no code that may win
    yield "half of the codes are NaN", with_nan


@pytest.mark.parametrize("axes", MESHES[:2], ids=str)
def test_near_ties_are_decided_as_by_the_whole_codebook(axes):
    tokens, codebook = lattice()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0].astype(np.float32)
    for z, c in ((tokens, codebook), (tokens @ rotation, codebook @ rotation), (tokens * 1e-3, codebook)):
        expected = nearest_code(z, c)
        for sizes in (Sizes(64, K, 1, 8), Sizes(32, 256, 32, 16)):
            for a, b in zip(nearest_code(z, c, backend="blockwise", sizes=sizes), expected, strict=True):
                np.testing.assert_array_equal(a, b)
        with mesh_of(**axes):
            got = jax.jit(nearest_code)(z, c)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_the_answer_is_that_of_the_whole_codebook(axes, fold_bytes):
    tokens, _, transform = make_problem()
    tokens[5, 3], tokens[6, 0] = np.nan, np.inf
    for name, codebook in hard_codebooks():
        expected = nearest_code(tokens, codebook, transform)
        with mesh_of(**axes) as mesh:
            search = functools.partial(nearest_code)  # of its own: jit would take what it traced with other bytes
            got = jax.jit(search)(*on_mesh(mesh, tokens, codebook, transform))
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("scale", [1e-3, 10, 1e3, 1e6])
@pytest.mark.parametrize("kind", ["alike", "of unlike lengths", "with a transform"])
def test_tokens_of_any_length_beside_the_codes(kind, scale, monkeypatch):
    """A squared distance of long tokens does not tell in float32 which code is nearest; scores do."""
    monkeypatch.setattr(nearest, "FOLD_BYTES", 0)
    tokens, codebook, transform = make_problem()
    if kind == "of unlike lengths":
        codebook *= np.float32(10) ** -np.random.default_rng(1).integers(0, 4, (K, 1)).astype(np.float32)
    arguments = (np.float32(scale) * tokens, codebook, transform if kind == "with a transform" else None)
    expected = nearest_code(*arguments)
    with mesh_of(data=2, codebook=4):
        got = jax.jit(lambda *arguments: nearest_code(*arguments))(*arguments)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert_as_near_as_scores_tell(expected[0], *arguments)


def assert_as_near_as_scores_tell(indices, tokens, codebook, transform):
    """In float64, no code is nearer by more than the rounding of a product of the token and a code."""
    weight, bias = transform or (np.eye(D), np.zeros(D))
    v, rows = tokens.astype(np.float64) - bias, codebook.astype(np.float64)
    codes = rows @ weight
    scores = v @ codes.T - (codes**2).sum(axis=1) / 2
    regret = scores.max(axis=1) - scores[np.arange(len(v)), np.asarray(indices)]
    size = np.linalg.norm(v, axis=1) * np.linalg.norm(codes, axis=1).max() + (codes**2).sum(axis=1).max()
    assert (regret <= 1e-6 * size).all()


def test_allowed_codes_are_split_with_the_codes():
    tokens, codebook, transform = make_problem()
    allowed = np.arange(K) % 7 == 0
    expected = nearest_allowed_code(tokens, codebook, allowed, transform)
    with mesh_of(data=2, codebook=4):
        got = jax.jit(nearest_allowed_code)(tokens, codebook, allowed, transform)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def collectives(compiled) -> list[tuple[str, str]]:
    """(kind, shapes of what is sent) of every collective in the program."""
    return [(kind, re.sub(r"\{[^}]*\}", "", shape)) for shape, kind in COLLECTIVES.findall(compiled.as_text())]


@pytest.mark.parametrize("d", [16, 64])
def test_two_numbers_and_one_row_a_token_cross_the_wire(d):
    n, k = 256, 1024
    tokens, codebook, transform = make_problem(n, k, d)

    def quantize(tokens, codebook, transform):
        indices, sq_distance = nearest_code(tokens, codebook, transform)
        return take_codes(codebook, indices), sq_distance

    with mesh_of(data=2, codebook=4) as mesh:
        operands = on_mesh(mesh, tokens, codebook, transform)
        found = collectives(jax.jit(quantize).lower(*operands).compile())
    share = n // 2
    expected = [("all-reduce", f"f32[{share}]"), ("all-reduce", f"s32[{share}]"), ("all-reduce", f"f32[{share},{d}]")]
    of_middle = ("all-reduce", f"f32[{nearest.MIDDLE_CODES},{d}]")  # whatever N
    assert sorted(found) == sorted([*expected, of_middle])


def test_whole_codebooks_need_no_word():
    tokens, codebook, transform = make_problem(256, 1024)
    with mesh_of() as mesh:
        operands = on_mesh(mesh, tokens, codebook, transform)
        assert collectives(jax.jit(nearest_code).lower(*operands).compile()) == []


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_rows_and_their_gradients_are_those_of_the_whole_codebook(axes):
    _, codebook, _ = make_problem()
    indices = np.random.default_rng(1).integers(0, K, (7, 3)).astype(np.int32)
    cotangent = np.random.default_rng(2).normal(size=(7, 3, D)).astype(np.float32)
    expected = np.zeros((K, D), np.float32)
    np.add.at(expected, indices, cotangent)

    def objective(codebook):
        rows = take_codes(codebook, indices)
        return jnp.sum(rows * cotangent), rows

    with mesh_of(**axes):
        gradient, rows = jax.jit(jax.grad(objective, has_aux=True))(codebook)
    np.testing.assert_array_equal(rows, codebook[indices])
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def explicit_mesh():
    return jax.make_mesh((4, 2), ("data", "codebook"), axis_types=(AxisType.Explicit,) * 2)


def test_arrays_split_over_axes_of_type_explicit_are_refused_with_what_to_do():
    tokens, codebook, _ = make_problem(N + 5)
    quantizer = FSQ(levels=(8, 8), dim=D)
    mesh = explicit_mesh()
    with jax.set_mesh(mesh):
        by_token = jax.device_put(tokens, NamedSharding(mesh, PartitionSpec("data")))
        by_code = jax.device_put(codebook, NamedSharding(mesh, PartitionSpec("codebook")))
        for call in (
            lambda: nearest_code(by_token, codebook),
            lambda: jax.jit(nearest_code)(tokens, by_code),
            lambda: take_codes(by_code, np.zeros(3, np.int32)),
            lambda: quantizer.init(jax.random.key(0), by_token),
        ):
            with pytest.raises(
                ValueError, match=r"an array is split over mesh axes of type Explicit, as .*: make the mesh"
            ):
                call()


def test_whole_arrays_on_a_mesh_of_type_explicit():
    tokens, codebook, _ = make_problem()
    expected = nearest_code(tokens, codebook)
    with jax.set_mesh(explicit_mesh()):
        for a, b in zip(nearest_code(tokens, codebook), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_axes_of_type_explicit_within_auto_axes():
    tokens, codebook, _ = make_problem(N + 5)
    expected = nearest_code(tokens, codebook)
    mesh = explicit_mesh()
    with jax.set_mesh(mesh):
        search = jax.sharding.auto_axes(nearest_code, out_sharding=PartitionSpec("data"))
        by_token = jax.device_put(tokens, NamedSharding(mesh, PartitionSpec("data")))
        by_code = jax.device_put(codebook, NamedSharding(mesh, PartitionSpec("codebook")))
        for a, b in zip(jax.jit(search)(by_token, by_code), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("call", [lambda c: nearest_code(c[:3], c), lambda c: take_codes(c, np.zeros(3, np.int32))])
def test_an_axis_that_does_not_divide_the_codes(call):
    codebook = np.zeros((K + 1, D), np.float32)
    with mesh_of(codebook=8), pytest.raises(ValueError, match="1001 codes but mesh axis 'codebook' has 8"):
        call(codebook)
