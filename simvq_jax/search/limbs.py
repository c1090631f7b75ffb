"""float32 numbers as sums of bfloat16 limbs, whose products matrix units compute exactly.

A float32 has 24 significant bits, a bfloat16 8: three limbs hold a value exactly (but for numbers near the smallest).
The split is written out, because on the CPU the presets of `jax.lax.Precision` compute in float32 and so could not show
what a device does.
"""

import jax
import jax.numpy as jnp

ONE_LIMB, TWO_LIMBS = 2.0**-8, 2.0**-17  # what one or two limbs leave over at most, relative to the value


def split(x, count: int):
    """x: float32 (..., d) -> `count` bfloat16 arrays of that shape, largest first."""
    limbs = []
    for _ in range(count):
        # reduce_precision, and not a cast there and back, which XLA may drop as excess precision.
        limb = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        limbs.append(limb.astype(jnp.bfloat16))
        x = x - limb
    return tuple(limbs)
