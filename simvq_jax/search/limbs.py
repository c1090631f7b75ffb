"""float32 numbers as sums of bfloat16 limbs, whose products matrix units compute exactly.

A float32 has 24 significant bits, a bfloat16 8: three limbs hold a value exactly (but for numbers near the smallest).
The split is written out, because on the CPU the presets of `jax.lax.Precision` compute in float32 and so could not show
what a device does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

ONE_LIMB, TWO_LIMBS = 2.0**-8, 2.0**-17  # what one or two limbs leave over at most, relative to the value


class Products(NamedTuple):
    """The products of limbs whose sum stands for that of a token and a code.

    pairs: (limb of the token, limb of the code) each. left_out: what else there is at most, for both of norm 1.
    """

    pairs: tuple[tuple[int, int], ...]
    left_out: float

    @property
    def code_limbs(self) -> int:
        return 1 + max(j for _, j in self.pairs)


# The rest of the tokens; and where codes have two limbs the rest of those, and the product of both second limbs.
OF_BFLOAT16 = Products(((0, 0), (1, 0)), TWO_LIMBS)
OF_FLOAT32 = Products(((0, 0), (1, 0), (0, 1)), 2 * TWO_LIMBS + ONE_LIMB**2)


def products_of(dtype) -> Products:
    """What scores as good as float32 take, of float32 tokens and codes of this type: bfloat16 is its own limb."""
    return OF_BFLOAT16 if dtype == jnp.bfloat16 else OF_FLOAT32


def split(x, count: int):
    """x: float32 (..., d) -> `count` bfloat16 arrays of that shape, largest first."""
    limbs = []
    for _ in range(count):
        # reduce_precision, and not a cast there and back, which XLA may drop as excess precision.
        limb = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        limbs.append(limb.astype(jnp.bfloat16))
        x = x - limb
    return tuple(limbs)
