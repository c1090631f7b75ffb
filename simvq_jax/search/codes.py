"""The codebook as a search sees it: rows in groups, with half squared norms and the largest norms of each group."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST
BATCH = {"cpu": 512}  # vectors transformed together, by platform
MEASURED = {"cpu": 2048}  # of a codebook that stays as it is under a transform: only norms are kept
BATCH_ELSEWHERE = 16_384


class Groups(NamedTuple):
    """How codes are grouped: group g holds `size` codes, `stride` apart, within a block of size * stride codes.

    Groups are strided so that a running maximum over groups is elementwise: no shuffles, no index arithmetic.
    """

    size: int
    stride: int

    @property
    def block(self) -> int:
        return self.size * self.stride

    def members(self, group):
        """Codes of each group, in rising order: int32 (...) -> int32 (..., size)."""
        first = group // self.stride * self.block + group % self.stride
        steps = jnp.arange(self.size, dtype=jnp.int32) * self.stride
        return first[..., None] + steps.reshape((1,) * group.ndim + (-1,))

    def largest(self, values):
        """Maximum of each group: (K,) -> (K / size,)."""
        return values.reshape(-1, self.size, self.stride).max(axis=1).reshape(-1)


class Codes(NamedTuple):
    """The codebook, padded to whole blocks.

    rows: (K', d_basis) float32 or bfloat16. middle: float32 (d_basis,), which codes and tokens count from, or None for
    0. It is taken off where rows are read, so that no second codebook is formed.
    norms: float32 (K',), ||c||. half_norms: (K',), ||c W||^2 / 2, infinite where a code must not win.
    group_norms, group_halves: float32 (K' / size,), the largest ||c|| and the largest half norm of each group.
    """

    rows: jax.Array
    middle: jax.Array | None
    norms: jax.Array
    half_norms: jax.Array
    group_norms: jax.Array
    group_halves: jax.Array

    def from_middle(self, rows):
        """Some of the rows, counted from the middle: (..., d_basis) -> float32."""
        return from_middle(rows, self.middle)


def from_middle(rows, middle):
    """float32 rows (..., d) less the middle (d,), if there is one."""
    rows = rows.astype(jnp.float32)
    return rows if middle is None else rows - jnp.broadcast_to(middle, rows.shape)


def shifted(tokens, bias, middle):
    """Tokens (n, d) less the bias and the middle (d,), of which either may be None."""
    return from_middle(tokens if bias is None else tokens - bias[None], middle)


def in_equal_batches(f, batch: int, *arrays):
    """`f(*arrays)` by batches of rows, all of one shape whatever the number of rows: (n, ...) each -> tree of (n, ...).

    A matrix product or a sum of another shape may round otherwise, as may one that is fused with what is around it. So
    every row's result is the same bits wherever the row stands, and equal codes tie.
    """
    alone = jax.lax.optimization_barrier
    n = arrays[0].shape[0]
    batched = [
        jnp.pad(a, ((0, -n % batch),) + ((0, 0),) * (a.ndim - 1)).reshape(-1, batch, *a.shape[1:]) for a in arrays
    ]
    results = jax.lax.map(lambda rows: alone(f(*alone(rows))), batched)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], results)


def batch_of(platform: str) -> int:
    """Vectors that are transformed together on such a device."""
    return BATCH.get(platform, BATCH_ELSEWHERE)


def effective(rows, weight, platform: str):
    """Q = C W: (n, d_basis), (d_basis, d) -> float32 (n, d), a row's bits the same in whatever shard it is."""
    product = lambda rows: jnp.dot(rows.astype(jnp.float32), weight, precision=HIGHEST)  # noqa: E731
    return in_equal_batches(product, batch_of(platform), rows)


def prepare(codebook, weight, allowed, middle, groups: Groups, platform: str) -> Codes:
    """Pads and measures the codes. codebook: (K, d_basis), weight: (d_basis, d) or None, allowed: bool (K,) or None,
    middle: (d_basis,), only without a weight, or None.

    A code with a NaN or an infinity, or whose squared norm overflows, must not win either.
    """

    def norms(rows):
        rows = from_middle(rows, middle)
        q = rows if weight is None else jnp.dot(rows, weight, precision=HIGHEST)
        return jnp.sum(q * q, axis=-1) / 2, jnp.sqrt(jnp.sum(rows * rows, axis=-1))

    batch = batch_of(platform) if weight is None else MEASURED.get(platform, BATCH_ELSEWHERE)
    halves, lengths = in_equal_batches(norms, batch, codebook)
    usable = jnp.isfinite(halves) & jnp.isfinite(lengths)
    usable = usable if allowed is None else usable & allowed
    pad = (0, -codebook.shape[0] % groups.block)
    finite_halves, lengths = (jnp.pad(jnp.where(usable, values, 0.0), pad) for values in (halves, lengths))
    return Codes(
        rows=jnp.pad(codebook, (pad, (0, 0))),
        middle=middle,
        norms=lengths,
        half_norms=jnp.pad(jnp.where(usable, halves, jnp.inf), pad, constant_values=jnp.inf),
        group_norms=groups.largest(lengths),
        group_halves=groups.largest(finite_halves),
    )
