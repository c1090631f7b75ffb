"""Codes out of use: some of them drawn, and those that tokens have long passed by moved to tokens."""

import jax
import jax.numpy as jnp

from simvq_jax.quantize.base import NEVER
from simvq_jax.quantize.kmeans import random_tokens
from simvq_jax.quantize.measures import count_codes
from simvq_jax.quantize.nearest import NearestCode
from simvq_jax.search import codebook_shards

MOVES = 8192  # codes that a step may move, so that no array (n, d) is as long as a large codebook
LONGEST_WAIT = 1024  # tokens a code


class RestartedCodes(NearestCode):
    """Base of quantizers whose codes may start anew where tokens are.

    Contract and fields as in `NearestCode`, and:
        restart_after: tokens of training, in multiples of the codebook's size, that pass a code by before it is moved
            to a random one of the batch (after Jukebox, 2005.00341, section 3.1), MOVES codes a step at most; 0 =
            never. At even use, a share of e^-restart_after of the codes is passed by for so long by chance. In training
            that needs `rngs={"quantizer": key}`.

    `codebook_stats` then also has `waiting`, int32 (K,), tokens since a code was last selected or moved, and
    `restart_pace` (), the share of the codes that move within `restart_after` at the pace of the last step. A move does
    not count as being selected, so it leaves `age` and `usage` alone.
    """

    restart_after: float = 0.0

    def check_fields(self):
        super().check_fields()
        longest = min(LONGEST_WAIT, NEVER // self.codebook_size)
        if not 0 <= self.restart_after <= longest:
            raise ValueError(
                f"restart_after is {self.restart_after} but must be at least 0 and at most {longest}: it counts tokens"
                " a code, not tokens."
            )

    def make_stats(self):
        super().make_stats()
        if self.restart_after and self.is_mutable_collection("codebook_stats"):
            shape = (self.codebook_size,)
            self.waiting = self.variable("codebook_stats", "waiting", lambda: jnp.zeros(shape, jnp.int32))
            self.restart_pace = self.variable("codebook_stats", "restart_pace", lambda: jnp.float32(0))

    def restarts(self, tokens, indices, weight):
        """Advances `waiting`, and tells codes to move, int32 (n,), K where there is none, and where to, float32 (n, d):
        each to a token of its own.

        tokens: (N, d), without a gradient; indices: int32 (N,), of this step; weight: (N,), 1 = counts.
        """
        if not len(tokens):
            return jnp.zeros(0, jnp.int32), tokens
        counts, passed = count_codes(indices, weight, self.codebook_size), jnp.sum(weight)
        waiting = jnp.where(counts > 0, 0, self.waiting.value + passed.astype(jnp.int32))
        waiting = jnp.minimum(waiting, NEVER)
        patience = max(round(self.restart_after * self.codebook_size), 1)  # tokens
        idle, is_idle = idle_codes(self.key_to_draw(), waiting >= patience, MOVES)
        place = jnp.cumsum(is_idle) - 1
        moved = is_idle & (place < jnp.sum(weight > 0))
        codes = jnp.where(moved, idle, self.codebook_size)
        self.waiting.value = waiting.at[codes].set(0, mode="drop")
        self.restart_pace.value = jnp.sum(moved).astype(jnp.float32) * self.restart_after / jnp.maximum(passed, 1)
        drawn = random_tokens(self.key_to_draw(), tokens, weight, len(idle))
        return codes, drawn[jnp.maximum(place, 0)]


def idle_codes(key, unused, size: int):
    """Up to `size` codes out of use, from a random one on: int32 (n,), and which of them are: bool (n,).

    unused: bool (K,). They are neighbours in the codebook, whose order means nothing where codes are drawn alike. A
    codebook of up to `size` codes is given whole, in order.
    """
    k = unused.shape[0]
    if k <= size:
        return jnp.arange(k, dtype=jnp.int32), unused
    size = -(-size // codebook_shards()) * codebook_shards()
    total, before = jnp.sum(unused, dtype=jnp.int32), jnp.cumsum(unused, dtype=jnp.int32) - unused.astype(jnp.int32)
    first = before[jax.random.randint(key, (), 0, k)]
    place = jnp.where(unused, (before - first) % jnp.maximum(total, 1), size)
    idle = jnp.zeros((size,), jnp.int32).at[place].set(jnp.arange(k, dtype=jnp.int32), mode="drop")
    return idle, jnp.arange(size) < total
