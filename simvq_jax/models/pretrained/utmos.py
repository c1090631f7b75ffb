"""UTMOS (Saeki et al., 2022, 2204.02152), its strong learner: what listeners would say of speech, from wav2vec 2.0.

Weights: epoch=3-step=7459.ckpt of https://huggingface.co/spaces/sarulab-speech/UTMOS-demo, its state_dict alone.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from simvq_jax.dsp import before
from simvq_jax.models.lstm import LSTM
from simvq_jax.models.pretrained.wav2vec2 import BASE, Sizes, Wav2Vec2, dense_params, frames_of, wav2vec2_params
from simvq_jax.models.pretrained.weights import select_weights

DOMAIN, JUDGE = 0, 288  # of the embeddings; what the authors' demonstration scores with
DOMAINS, JUDGES, EMBEDDING = 3, 3000, 128
MEMORY, HIDDEN = 512, 2048
SSL, RNN = "feature_extractors.0.ssl_model.", "output_layers.0.decoder_rnn"


class Utmos(nn.Module):
    """Fields: sizes: of wav2vec 2.0. memory: of each direction of the LSTM. hidden: of the last layers."""

    sizes: Sizes = BASE
    memory: int = MEMORY
    hidden: int = HIDDEN

    @nn.compact
    def __call__(self, sound, lengths):
        """sound: float32 (b, samples) at 16 kHz, lengths: int32 (b,) -> (b,), from 1 to 5."""
        x = Wav2Vec2(self.sizes, name="wav2vec2")(sound, lengths)
        frames = frames_of(lengths)
        asked = self.param("domain_and_judge", nn.initializers.normal(1.0), (2 * EMBEDDING,))
        x = jnp.concatenate([x, jnp.broadcast_to(asked[None, None], (*x.shape[:2], asked.size))], axis=-1)
        forward, _ = LSTM(self.memory, name="forward")(x)
        backward, _ = LSTM(self.memory, name="backward")(reversed_within(x, frames))
        x = jnp.concatenate([forward, reversed_within(backward, frames)], axis=-1)
        x = nn.Dense(1, name="out")(nn.relu(nn.Dense(self.hidden, name="mlp")(x)))[..., 0]
        counts = before(frames, x.shape[1])
        return 3 + 2 * jnp.sum(jnp.where(counts, x, 0.0), axis=1) / jnp.maximum(frames, 1)


def reversed_within(x, lengths):
    """Each item's frames from its last to its first; what is behind them stays: (b, frames, c) -> the same."""
    place = jnp.arange(x.shape[1])[None]
    place = jnp.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)
    return jnp.take_along_axis(x, place[..., None], axis=1)


def utmos_params(
    weights: Mapping[str, np.ndarray],
    name: str = "The UTMOS weights",
    sizes: Sizes = BASE,
    memory: int = MEMORY,
    hidden: int = HIDDEN,
) -> dict[str, Any]:
    """Parameters of `Utmos` from tensors under the authors' names.

    Raises WeightFileError: tensors are missing or misshapen; one sentence lists all of them.
    """
    inputs = sizes.width + 2 * EMBEDDING
    shapes: dict[str, tuple[int, ...]] = {
        "feature_extractors.1.embedding.weight": (DOMAINS, EMBEDDING),
        "output_layers.0.judge_embedding.weight": (JUDGES, EMBEDDING),
        "output_layers.1.net.0.weight": (hidden, 2 * memory),
        "output_layers.1.net.0.bias": (hidden,),
        "output_layers.1.net.3.weight": (1, hidden),
        "output_layers.1.net.3.bias": (1,),
    }
    for way in ("", "_reverse"):
        shapes |= {f"{RNN}.weight_ih_l0{way}": (4 * memory, inputs), f"{RNN}.weight_hh_l0{way}": (4 * memory, memory)}
        shapes |= {f"{RNN}.bias_{part}_l0{way}": (4 * memory,) for part in ("ih", "hh")}
    w = {key: value.astype(np.float32) for key, value in select_weights(weights, shapes, name).items()}
    asked = [
        w["feature_extractors.1.embedding.weight"][DOMAIN],
        w["output_layers.0.judge_embedding.weight"][JUDGE],
    ]
    return {
        "wav2vec2": wav2vec2_params(weights, sizes, SSL, name),
        "domain_and_judge": np.concatenate(asked),
        "forward": _lstm(w, ""),
        "backward": _lstm(w, "_reverse"),
        "mlp": dense_params(w, "output_layers.1.net.0"),
        "out": dense_params(w, "output_layers.1.net.3"),
    }


def _lstm(w, way: str) -> dict[str, np.ndarray]:
    return {
        "input_kernel": w[f"{RNN}.weight_ih_l0{way}"].T,
        "recurrent_kernel": w[f"{RNN}.weight_hh_l0{way}"].T,
        "bias": w[f"{RNN}.bias_ih_l0{way}"] + w[f"{RNN}.bias_hh_l0{way}"],
    }
