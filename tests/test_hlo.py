"""Bytes on the wire and arithmetic, read from compiled programs whose counts are known."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from simvq_jax.hlo import Program
from simvq_jax.mesh import make_mesh

DEVICES = 8


def program_of(f, *shapes) -> Program:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return Program(jax.jit(f).lower(*arguments).compile().as_text(), DEVICES)


def over(mesh, in_specs, out_specs):
    return functools.partial(jax.shard_map, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


@pytest.mark.parametrize("axes", [("data",), ("fsdp",), ("codebook",), ("data", "codebook"), ("fsdp", "codebook")])
def test_a_sum_is_found_with_its_group_and_bytes(axes):
    mesh = make_mesh(2, 2, 2)

    @over(mesh, PartitionSpec(), PartitionSpec())
    def f(x):
        return jax.lax.psum(x, axes)

    (found,) = program_of(f, (30, 5)).collectives()
    n = 2 ** len(axes)
    steps = {"data": 4, "fsdp": 2, "codebook": 1}
    group = {sum(steps[axis] * (place >> i & 1) for i, axis in enumerate(axes)) for place in range(n)}
    assert found.kind == "all-reduce" and set(found.group) == group
    assert found.size == 600 and found.wire == pytest.approx(2 * (n - 1) / n * 600)


def test_what_a_loop_sends_counts_for_every_turn():
    mesh = make_mesh(8)

    @over(mesh, PartitionSpec("data"), PartitionSpec("data"))
    def f(x):
        turn = lambda carry, _: (jax.lax.psum(carry, "data") / 9 + x, None)  # noqa: E731
        return jax.lax.scan(turn, x, None, length=5)[0]

    (found,) = program_of(f, (64,)).collectives()
    assert found.times == 5 and found.size == 8 * 4 and found.wire == pytest.approx(5 * 2 * 7 / 8 * 32)


def test_other_kinds():
    mesh = make_mesh(8)

    @over(mesh, PartitionSpec("data"), PartitionSpec())
    def gather(x):
        return jax.lax.all_gather(x, "data", tiled=True)

    (found,) = program_of(gather, (64,)).collectives()
    assert (found.kind, found.size, found.wire) == ("all-gather", 256, pytest.approx(256 * 7 / 8))

    @over(mesh, PartitionSpec("data"), PartitionSpec("data"))
    def shift(x):
        return jax.lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)])

    (found,) = program_of(shift, (64,)).collectives()
    assert (found.kind, found.size, found.wire) == ("collective-permute", 32, 32)


def test_arithmetic_of_products_and_convolutions():
    assert program_of(lambda a, b: a @ b, (6, 10), (10, 4)).flops() == 2 * 6 * 10 * 4
    loop = lambda a, b: jax.lax.fori_loop(0, 7, lambda _, x: jnp.tanh(x @ b), a)  # noqa: E731
    assert program_of(loop, (6, 10), (10, 10)).flops() == 7 * 2 * 6 * 10 * 10

    def convolve(x, kernel, stride=1):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=numbers)

    once = 2 * 2 * 16 * 16 * 3 * 3 * 8 * 4
    assert program_of(convolve, (2, 16, 16, 8), (3, 3, 8, 4)).flops() == once
    # With the gradients of both arguments it is three times as much; zeros between strided outputs do not count.
    gradients = jax.grad(lambda x, kernel: jnp.sum(convolve(x, kernel, 2) ** 2), argnums=(0, 1))
    assert program_of(gradients, (2, 16, 16, 8), (3, 3, 8, 4)).flops() == pytest.approx(3 * once / 4, rel=0.3)


def test_of_a_conditional_the_branch_that_computes_least_counts():
    def f(a, b):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b @ b, lambda: a @ b)

    assert program_of(f, (6, 6), (6, 6)).flops() == 2 * 6**3
