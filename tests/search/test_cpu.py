"""Which CPUs multiply limbs, of which codebooks, and that XLA then has the one product that is fast there."""

import jax
import jax.numpy as jnp
import pytest

from simvq_jax.search import backends, blockwise, cpu

FLAGS = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx512_bf16 {} la57\nbugs\t\t: amx_bf16\n"


@pytest.mark.parametrize(("flag", "has"), [("amx_bf16", True), ("amx_bf16_not", False), ("amx_int8", False)])
def test_the_tiles_are_read_off_linux(flag, has):
    assert cpu.has_tiles(FLAGS.format(flag)) is has


@pytest.mark.parametrize(
    ("tiles", "k", "d", "by_limbs"),
    [
        (True, 1024, 64, True),
        (True, 65_536, 256, True),
        (True, 1023, 64, False),
        (True, 1024, 63, False),
        (True, 1024, 257, False),
        (False, 65_536, 128, False),
    ],
)
def test_limbs_are_multiplied_where_that_is_faster(monkeypatch, tiles, k, d, by_limbs):
    monkeypatch.setattr(cpu, "multiplies_bfloat16", lambda: tiles)
    codebook = jax.ShapeDtypeStruct((k, d), jnp.float32)
    search = backends.choose.__wrapped__("auto", jax.devices("cpu")[0], codebook, None)
    assert search.keywords["by_limbs"] is by_limbs


@pytest.mark.parametrize(("dtype", "width"), [(jnp.float32, 3 * 64), (jnp.bfloat16, 2 * 64)])
def test_limbs_are_one_product_of_rows_by_rows(dtype, width):
    """XLA:CPU multiplies in float32 where one of the two is transposed before."""
    sizes = blockwise.Sizes(16, 256, 8, 8)
    program = jax.jit(lambda z, c: blockwise.search(z, c, sizes=sizes, platform="cpu", by_limbs=True))
    text = program.lower(jnp.zeros((16, 64)), jnp.zeros((1024, 64), dtype)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line and f"tensor<256x{width}xbf16>" in line]
    assert len(products) == 1 and "contracting_dims = [1] x [1]" in products[0]
    assert f"(tensor<16x{width}xbf16>, tensor<256x{width}xbf16>) -> tensor<16x256xf32>" in products[0]
