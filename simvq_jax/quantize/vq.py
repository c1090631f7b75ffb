"""Vanilla vector quantization, the baseline that collapses."""

import jax
import jax.numpy as jnp

from simvq_jax.quantize.base import Quantizer


class VQ(Quantizer):
    """VQ-VAE's quantizer (van den Oord et al., 2017, 1711.00937): every code is a free parameter.

    Only selected codes receive a gradient, so most codes of a large codebook die. Contract and fields as in
    `Quantizer`; `codebook_init` is "uniform", U(-1/K, 1/K) as in VQGAN, or "normal", N(0, 1/d).
    The codebook is `params/codebook`: (K, d).
    """

    codebook_init: str = "uniform"

    def setup(self):
        self.check_fields()
        if self.codebook_init not in ("uniform", "normal"):
            raise ValueError(f"codebook_init is {self.codebook_init!r} but must be 'uniform' or 'normal'.")
        self.rows = self.param("codebook", self._draw, (self.codebook_size, self.dim))
        self.make_stats()

    def _draw(self, key, shape):
        if self.codebook_init == "normal":
            return jax.random.normal(key, shape) * self.dim**-0.5
        bound = 1.0 / self.codebook_size
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    def codes(self):
        return self.rows, None
