"""Tokens of a sound that comes in chunks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.data.sounds import check_level
from simvq_jax.models.conv1d import clear
from simvq_jax.models.seanet import LAST
from simvq_jax.models.tokenizer import SoundAutoencoder


class TokenStream:
    """One sound, chunk by chunk: `push` gives tokens as they become known, `finish` the rest.

    Together they are the tokens that the whole sound has. Convolutions look at a few tokens' samples before each
    block, kept beside the states of the LSTM, so memory does not grow. At the start of a sound they reflect it, so its
    first tokens wait for LAST of them.
    """

    def __init__(self, autoencoder: SoundAutoencoder, variables: Any, block: int):
        """block: tokens computed at once. Raises ValueError if the encoder is not causal, or the block is under 1."""
        if not autoencoder.encoder.causal:
            raise ValueError(
                "model.causal is False, so tokens depend on later samples: train a causal model to stream."
            )
        if block < 1:
            raise ValueError(f"block is {block} but must be at least 1 token.")
        self._variables, self._hop, self._block = variables, autoencoder.hop, block
        self._context = -(-autoencoder.encoder.reach // self._hop) + 1  # tokens before a block that are computed again
        self._first = max(block, LAST, self._context)  # tokens of the first block, which has none before it
        self._module = autoencoder
        self._states: Any = None  # of the LSTM, and its last outputs; None before the first block
        self._before = np.zeros((0,), np.float32)  # samples of the context
        self._pending = np.zeros((0,), np.float32)  # samples that no token stands for yet
        self._finished = False

    def push(self, chunk) -> np.ndarray:
        """The next samples, float (n,) -> the tokens known by now: int32 (m,), or (m, stages).

        Raises ValueError on anything but finite floats about in [-1, 1], and after `finish`.
        """
        chunk = np.asarray(chunk)
        if self._finished:
            raise ValueError("the stream is finished: open another for another sound.")
        if chunk.ndim != 1 or not np.issubdtype(chunk.dtype, np.floating) or not np.isfinite(chunk).all():
            raise ValueError(f"a chunk is {chunk.dtype} {chunk.shape} but must be finite floats (samples,).")
        check_level(chunk, "a chunk")
        self._pending = np.concatenate([self._pending, chunk.astype(np.float32)])
        found = []
        while len(self._pending) > self._wanted():  # one sample more: the last block is `finish`'s
            found.append(self._take(self._wanted()))
        return self._joined(found)

    def finish(self) -> np.ndarray:
        """The tokens of what is left; the stream ends."""
        self._finished = True
        return self._joined([self._take(len(self._pending))] if len(self._pending) else [])

    def _wanted(self) -> int:
        return self._hop * (self._first if self._states is None else self._block)

    def _take(self, samples: int) -> np.ndarray:
        """Tokens of the next block, of which `samples` are there."""
        size = self._wanted()
        block = np.pad(self._pending[:samples], (0, size - samples))
        if self._states is None:
            indices, self._states = _start(self._module, self._variables, block[None], jnp.array([samples]))
        else:
            x, length = np.concatenate([self._before, block]), len(self._before) + samples
            indices, self._states = _advance(
                self._module, self._context, self._variables, x[None], jnp.array([length]), self._states
            )
        kept = self._context * self._hop
        self._before = np.concatenate([self._before, self._pending[:samples]])[-kept:]
        self._pending = self._pending[samples:]
        return np.asarray(indices[0, : -(-samples // self._hop)])

    def _joined(self, found: list[np.ndarray]) -> np.ndarray:
        stages = len(self._module.quantizer.codebook_sizes)
        none = np.zeros((0,) if stages == 1 else (0, stages), np.int32)
        return np.concatenate([none, *found])


@functools.partial(jax.jit, static_argnums=0)
def _start(module, variables, x, lengths):
    """The first block: indices (1, tokens), and what the next one goes on from."""

    def run(module):
        encoder = module.encoder
        tokens = -(-lengths // module.hop)
        y, states = encoder.remember(encoder.convolve(x, lengths))
        indices = module.quantizer(encoder.project(clear(y, tokens), tokens)).indices
        return indices, (states, y[:, -(LAST - 1) :])

    return module.apply(variables, method=run)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _advance(module, context: int, variables, x, lengths, before):
    """A later block, behind `context` tokens' samples. before: what the block before gave beside its indices."""

    def run(module):
        encoder, (states, tail) = module.encoder, before
        y, after = encoder.remember(encoder.convolve(x, lengths)[:, context:], states)
        y = jnp.concatenate([tail, y], axis=1)
        indices = module.quantizer(encoder.project(y)[:, LAST - 1 :]).indices
        return indices, (after, y[:, -(LAST - 1) :])

    return module.apply(variables, method=run)
