"""A codebook that follows the tokens' moments in closed form: SimVQ's layer without a learning rate."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from simvq_jax.quantize.affine import HIGHEST
from simvq_jax.quantize.base import Quantized
from simvq_jax.quantize.basis import draw
from simvq_jax.quantize.nearest import NearestCode

# Tokens may lie in fewer dimensions than d. Added to each one's variance, of all together and times the root of d: what
# float32 rounds in a covariance and in its factors, which would make others negative. Up to d = 1,024 under 1% in all.
JITTER = 2 * jnp.finfo(jnp.float32).eps


class MomentVQ(NearestCode):
    """A frozen Gaussian basis C under the affine map that gives the codes the tokens' mean and covariance.

    Q = C W + b with b the running mean of the tokens and W = sqrt(d) L^T, L L^T their running covariance: as C is
    N(0, 1/d), the codes are spread as the tokens are, whatever their scale, from the first step on. Nothing of the
    codebook is trained, and the loss is the commitment alone. Of this project; docs/RESULTS.md has what it gives.

    Contract and fields as in `NearestCode` (`legacy` has no meaning), and `decay`: of the running moments.
    Collections: `codebook/basis` (K, d); `codebook_stats` also holds `mean` (d,), `covariance` (d, d) and `mass` (),
    the share of the moments that tokens have made up so far: so quantizing needs it too.
    """

    decay: float = 0.95

    def setup(self):
        self.check_fields()
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay is {self.decay} but must lie in [0, 1).")
        k, d = self.codebook_size, self.dim
        self.basis = self.variable("codebook", "basis", lambda: draw(self.make_rng("params"), (k, d), "normal"))
        self.mean = self.variable("codebook_stats", "mean", lambda: jnp.zeros(d, jnp.float32))
        self.covariance = self.variable("codebook_stats", "covariance", lambda: jnp.eye(d, dtype=jnp.float32) / d)
        self.mass = self.variable("codebook_stats", "mass", lambda: jnp.float32(0))
        self.make_stats()

    def codes(self):
        covariance = self.covariance.value
        jitter = JITTER * self.dim**0.5 * jnp.trace(covariance) + jnp.finfo(jnp.float32).tiny
        lower = jnp.linalg.cholesky(covariance + jitter * jnp.eye(self.dim, dtype=jnp.float32))
        return self.basis.value, (self.dim**0.5 * lower.T, self.mean.value)

    def quantize(self, tokens, weight, train: bool) -> Quantized:
        if train and not self.is_initializing():
            self._follow(jax.lax.stop_gradient(tokens).reshape(-1, self.dim), weight.reshape(-1))
        out = super().quantize(tokens, weight, train)
        return replace(out, loss=self.beta * out.losses["commitment"])

    def _follow(self, tokens, weight):
        """Takes the batch into the moments, before it is quantized. tokens: (N, d), weight: (N,)."""
        total = jnp.sum(weight)
        share = (weight / jnp.maximum(total, 1.0))[:, None]
        batch_mean = jnp.sum(share * tokens, axis=0)
        centred = tokens - batch_mean[None]
        batch_covariance = jnp.dot((share * centred).T, centred, precision=HIGHEST)
        mass = self.decay * self.mass.value + 1 - self.decay
        # The first batch is all there is; a batch without tokens says nothing.
        step = jnp.where(total > 0, (1 - self.decay) / mass, 0.0)
        moved = batch_mean - self.mean.value
        between = step * (1 - step) * jnp.outer(moved, moved)
        self.covariance.value = (1 - step) * self.covariance.value + step * batch_covariance + between
        self.mean.value = self.mean.value + step * moved
        self.mass.value = jnp.where(total > 0, mass, self.mass.value)
