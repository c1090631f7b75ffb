"""Quantizers made of quantizers: one after the other on what is left, or side by side on parts of a token."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from simvq_jax.quantize.base import Quantized, Quantizer, check_dtype, counted_tokens
from simvq_jax.quantize.estimators import straight_through


class _Compound(Quantizer):
    """What both share. `stages`: the quantizers, each a codebook of its own; a token has one index of each, in the last
    axis of `indices`."""

    stages: Sequence[Quantizer]
    dtype: Any = None

    def __post_init__(self):
        if isinstance(self.stages, Quantizer):
            raise ValueError("stages is one quantizer but must be a list of them: put it in one.")
        object.__setattr__(self, "stages", tuple(self.stages))  # hashable, as jit asks of what is static
        super().__post_init__()

    @property
    def codebook_size(self) -> tuple[int, ...]:
        """K of every stage."""
        return tuple(stage.codebook_size for stage in self.stages)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return tuple(size for stage in self.stages for size in stage.codebook_sizes)

    @property
    def index_shape(self) -> tuple[int, ...]:
        return (*self.stages[0].index_shape, len(self.stages))

    @property
    def projects(self) -> bool:
        return any(stage.projects for stage in self.stages)

    @property
    def start_tokens(self) -> int:
        return max(stage.start_tokens for stage in self.stages)

    @property
    def starts_at_tokens(self) -> bool:
        return any(stage.starts_at_tokens for stage in self.stages)

    def check_stages(self):
        if not self.stages:
            raise ValueError("stages is empty but must hold at least one quantizer.")
        leaves = self.leaves()
        if len({id(leaf) for leaf in leaves}) < len(leaves):
            raise ValueError(
                "stages holds one quantizer several times but each must be its own: write [SimVQ(...) for _ in"
                " range(n)], not [SimVQ(...)] * n."
            )
        shapes = [stage.index_shape for stage in self.stages]
        if len(set(shapes)) > 1:
            raise ValueError(f"the stages give indices of shapes {shapes} a token but must agree: nest them alike.")
        for stage in self.stages:
            if stage.dtype is not None and jnp.dtype(stage.dtype) != jnp.float32:
                raise ValueError(
                    f"a stage has dtype {jnp.dtype(stage.dtype)} but must give float32, of which sums and parts are"
                    f" made: leave it None, and set that of the {type(self).__name__}."
                )
        check_dtype(self.dtype)

    def codebook(self):
        """The stages' codebooks: a tuple of (K, d) float32."""
        return tuple(stage.codebook() for stage in self.stages)

    def leaves(self) -> list[Quantizer]:
        """The quantizers that are no compounds."""
        inner = [stage.leaves() if isinstance(stage, _Compound) else [stage] for stage in self.stages]
        return [leaf for of_stage in inner for leaf in of_stage]

    def joined(self, z, z_q, outs) -> Quantized:
        """One result of all, losses averaged over the stages; one that a stage has not counts as 0."""
        names = dict.fromkeys(name for out in outs for name in out.losses)
        losses = {name: sum(out.losses.get(name, 0.0) for out in outs) / len(outs) for name in names}
        z_q = z_q.astype(self.dtype or z.dtype)
        indices = jnp.stack([out.indices for out in outs], axis=-1)
        return Quantized(z_q, indices, losses, sum(out.loss for out in outs) / len(outs))


class ResidualQuantizer(_Compound):
    """Each stage quantizes what the ones before left over (SoundStream, 2107.03312, section III-C).

    Contract as in `Quantizer`, with `indices`: int32 (..., stages). Losses are means over the stages. The gradient
    passes straight through all of them at once, whatever their own estimators; where stages project (`projects`),
    through those instead, one after the other as in DAC (2306.06546), so that it trains what projects.

    Fields:
        stages: quantizers of one `dim`, as `[SimVQ(1024, 64) for _ in range(8)]`, without a dtype of their own. Stages
            of FSQ or LFQ should project (a `dim` other than that of their codes): else all have one scale, and those
            after the first find little that they could tell apart. Of a product all parts must project, or none.
        dropout: in training, share of the items (first axis of z) that are given a random number of stages, from one
            up, so that few stages serve too; it needs `rngs={"quantizer": key}`. Of a stage that an item is not given
            the index is -1, and a stage's losses are means over the items that it is given, not over all as in DAC.
        dtype: of z_q; None keeps that of z.
    """

    dropout: float = 0.0

    @property
    def dim(self) -> int:
        return self.stages[0].dim

    def setup(self):
        self.check_stages()
        dims = [stage.dim for stage in self.stages]
        if len(set(dims)) > 1:
            raise ValueError(f"the stages have dims {dims} but quantize what others left: give all the same dim.")
        if any(stage.mixes for stage in self.stages):
            raise ValueError(
                "a stage is a product of which some parts project and others do not, whose gradients pass differently:"
                " make a product of residual quantizers instead."
            )
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout is {self.dropout} but must lie in [0, 1].")

    def __call__(self, z, mask=None, train: bool = False) -> Quantized:
        """Raises ValueError if the last axis of z is not `dim` or the mask's shape is not that of the tokens."""
        weight = self.weights_of(z, mask)
        tokens = left = counted_tokens(z, mask)
        active = self._stages_of_items(z) if train and self.dropout and not self.is_initializing() else None
        values, outs = jnp.zeros_like(left), []
        for number, stage in enumerate(self.stages):
            counts = weight > 0 if active is None else (weight > 0) & (number < active)
            counts = None if mask is None and active is None else counts
            outs.append(stage(left, mask=counts, train=train))
            code = outs[-1].z_q  # not a lookup: codes may have moved on with this batch
            code = code if stage.projects else jax.lax.stop_gradient(code)
            if active is not None:
                code = jnp.where((number < active)[..., None], code, 0.0)
                given = _for_each(number < active, outs[-1].indices)
                outs[-1] = replace(outs[-1], indices=jnp.where(given, outs[-1].indices, -1))
            values, left = values + code, left - code
        return self.joined(z, values if self.projects else straight_through(tokens, values), outs)

    def lookup(self, indices):
        """Sum of the stages' codes: int (..., n) -> (..., d) float32, n from 1 to all stages: the first n are used. An
        index of -1 adds nothing.

        Raises ValueError where there are more indices than stages.
        """
        indices = self.checked_indices(indices)
        if not 1 <= sum(indices.shape[-1:]) <= len(self.stages):
            raise ValueError(
                f"indices have shape {indices.shape} but must be (..., n), n from 1 to the {len(self.stages)} stages."
            )
        values = jnp.float32(0)
        for number, stage in enumerate(self.stages[: indices.shape[-1]]):
            own = indices[..., number]
            of_token = tuple(range(own.ndim - len(stage.index_shape), own.ndim))
            left_out = jnp.all(own < 0, axis=of_token)
            code = stage.lookup(jnp.where(_for_each(left_out, own), 0, own))
            values = values + jnp.where(left_out[..., None], 0.0, code)
        return values

    def _stages_of_items(self, z):
        """How many stages the item of each token has: int (...)."""
        items = z.shape[:1] if z.ndim > 1 else ()
        chosen, number = jax.random.split(self.key_to_draw())
        dropped = jax.random.bernoulli(chosen, self.dropout, items)
        number = jnp.where(dropped, jax.random.randint(number, items, 1, len(self.stages) + 1), len(self.stages))
        return jnp.broadcast_to(number.reshape(*items, *(1,) * (z.ndim - 1 - len(items))), z.shape[:-1])


class ProductQuantizer(_Compound):
    """Each stage quantizes its own part of the token (Jegou et al., "Product quantization", 2011; grouped VQ).

    Contract as in `Quantizer`, with `indices`: int32 (..., stages), and `dim` the sum of the stages'. Losses are means
    over the stages. `dtype`: of z_q; None keeps that of z.
    """

    @property
    def dim(self) -> int:
        return sum(stage.dim for stage in self.stages)

    @property
    def mixes(self) -> bool:
        return len({stage.projects for stage in self.stages}) > 1 or any(stage.mixes for stage in self.stages)

    def setup(self):
        self.check_stages()

    def __call__(self, z, mask=None, train: bool = False) -> Quantized:
        """Raises ValueError if the last axis of z is not `dim` or the mask's shape is not that of the tokens."""
        self.weights_of(z, mask)
        tokens, outs, start = counted_tokens(z, mask), [], 0
        for stage in self.stages:
            outs.append(stage(tokens[..., start : start + stage.dim], mask=mask, train=train))
            start += stage.dim
        return self.joined(z, jnp.concatenate([out.z_q for out in outs], axis=-1), outs)

    def lookup(self, indices):
        """The stages' codes side by side: int (..., stages) -> (..., d) float32."""
        indices = self.checked_indices(indices)
        if indices.shape[-1:] != (len(self.stages),):
            raise ValueError(
                f"indices have shape {indices.shape} but must be (..., {len(self.stages)}), an index of every stage."
            )
        return jnp.concatenate([s.lookup(indices[..., i]) for i, s in enumerate(self.stages)], axis=-1)


def _for_each(of_tokens, indices):
    """What is said of tokens, for each of their indices: (...) -> (..., 1, 1) of as many axes as the indices."""
    return of_tokens.reshape(*of_tokens.shape, *(1,) * (indices.ndim - of_tokens.ndim))
