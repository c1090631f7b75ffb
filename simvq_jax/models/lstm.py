"""Long short-term memory over time (Hochreiter and Schmidhuber, 1997), with torch's gates."""

import flax.linen as nn
import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST


class LSTM(nn.Module):
    """One layer; gates input, forget, cell, output. Always in float32: errors add up in time.

    Of torch's two biases there is the sum alone.

    Fields: features: of its output; None = as many as the input has.
    """

    features: int | None = None

    @nn.compact
    def __call__(self, x, state=None):
        """x: (b, t, c); state: what was returned before, (b, d) hidden and cell, or None -> y: (b, t, d), state."""
        b, _, inputs = x.shape
        d = self.features or inputs

        def uniform(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -(d**-0.5), d**-0.5)

        into = self.param("input_kernel", uniform, (inputs, 4 * d))
        again = self.param("recurrent_kernel", uniform, (d, 4 * d))
        bias = self.param("bias", uniform, (4 * d,))
        inputs = jnp.dot(x.astype(jnp.float32), into, precision=HIGHEST) + bias[None, None]

        def advance(carry, gates):
            hidden, cell = carry
            gates = gates + jnp.dot(hidden, again, precision=HIGHEST)
            enter, forget, new, leave = jnp.split(gates, 4, axis=-1)
            cell = nn.sigmoid(forget) * cell + nn.sigmoid(enter) * jnp.tanh(new)
            hidden = nn.sigmoid(leave) * jnp.tanh(cell)
            return (hidden, cell), hidden

        start = (jnp.zeros((b, d)), jnp.zeros((b, d))) if state is None else state
        state, y = jax.lax.scan(advance, start, inputs.swapaxes(0, 1))
        return y.swapaxes(0, 1).astype(x.dtype), state
