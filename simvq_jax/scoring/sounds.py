"""Scores of whole recordings: mel distance, SI-SDR, pitch; STOI and PESQ where their packages are installed; UTMOS
where there are weights for it."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from simvq_jax.dsp import before
from simvq_jax.metrics.crepe import crepe_tracker
from simvq_jax.metrics.pitch import pitch_errors
from simvq_jax.metrics.pyin import pyin_pitch
from simvq_jax.metrics.sound import mel_distance, pesq, si_sdr, stoi
from simvq_jax.metrics.utmos import utmos_scorer
from simvq_jax.scoring.common import Scored, Scorer, count_stages, local, token_figures

PITCH = {"vuv_f1": "vuv_f1", "periodicity_error": "periodicity", "pitch_error_cents": "cents"}  # figure -> field
OPTIONAL = {"stoi": (stoi, "pystoi", "audio"), "pesq": (pesq, "pesq", "pesq")}  # name -> function, package, extra


class SoundScorer(Scorer):
    """Of recordings; a batch is one of `EvalSounds`.

    crepe: weights of the pitch tracker that published figures use; "" = pYIN, whose figures end in "_pyin".
    utmos: weights of UTMOS; "" = without it.
    """

    counted = "recordings"

    def __init__(self, autoencoder, sample_rate: int, crepe: str = "", utmos: str = ""):
        super().__init__(autoencoder)
        self._rate, self._hop = sample_rate, autoencoder.hop
        self._optional = _installed()
        self._track = crepe_tracker(crepe) if crepe else pyin_pitch
        self._pitch = (
            {name if crepe else f"{name}_pyin": field for name, field in PITCH.items()} if _resamples() else {}
        )
        self._utmos = _utmos(utmos)
        self.may_lack = ("si_sdr", *OPTIONAL, *self._pitch, *self._utmos)

        @jax.jit
        def score(variables, sound, lengths, mask):
            return _score(autoencoder, sample_rate, variables, sound, lengths, mask)

        self._score = score

    def score(self, variables, batch) -> Scored:
        return self._score(variables, batch["audio"], batch["lengths"], batch["mask"])

    def on_host(self, batch, reconstruction) -> dict[str, np.ndarray]:
        sounds, names = local(reconstruction), ["si_sdr", *self._optional, *self._pitch, *self._utmos]
        figures = {name: np.full((len(sounds),), np.nan) for name in names}
        for row in np.flatnonzero(batch["mask"]):
            sound, target = (x[row, : batch["lengths"][row]] for x in (sounds, batch["audio"]))
            figures["si_sdr"][row] = si_sdr(sound, target)
            for name, function in self._optional.items():
                figures[name][row] = function(sound, target, self._rate)
            if self._pitch:
                errors = pitch_errors(*(self._track(x, self._rate) for x in (sound, target)))
                for name, field in self._pitch.items():
                    figures[name][row] = getattr(errors, field)
            for name, function in self._utmos.items():
                figures[name][row] = function(sound, self._rate)
        return figures

    def samples(self, batch, scored: Scored, rows) -> tuple[list[np.ndarray], list[np.ndarray]]:
        sounds = local(scored.reconstruction)
        ends = [(row, batch["lengths"][row]) for row in rows]
        return [batch["audio"][row, :end] for row, end in ends], [sounds[row, :end] for row, end in ends]

    def tokens(self, batch, scored: Scored) -> np.ndarray:
        latents = local(scored.latents)
        tokens = -(-batch["lengths"] // self._hop)
        counts = (np.arange(latents.shape[1])[None] < tokens[:, None]) & batch["mask"][:, None]
        return latents[counts]


def _installed() -> dict:
    """Functions of OPTIONAL whose package is installed; the others are named once."""
    return {name: function for name, (function, package, extra) in OPTIONAL.items() if _is_there(package, extra)}


def _resamples() -> bool:
    """Whether there is what brings sound to the rate of the pitch trackers."""
    return _is_there("soxr", "audio")


def _is_there(package: str, extra: str) -> bool:
    if importlib.util.find_spec(package):
        return True
    logging.warning("%s is not installed: going on without it (pip install 'simvq_jax[%s]').", package, extra)
    return False


def _utmos(utmos: str) -> dict:
    """The score that needs no original, if there are weights for it."""
    if utmos:
        return {"utmos": utmos_scorer(utmos)}
    logging.warning("metrics.utmos is '': going on without UTMOS (README, 'Figures of speech', says where it is).")
    return {}


def _score(autoencoder, sample_rate: int, variables, sound, lengths, mask) -> Scored:
    out = autoencoder.apply(variables, sound, lengths=lengths)
    reconstruction = jnp.clip(out.reconstruction, -1.0, 1.0)
    tokens = -(-lengths // autoencoder.hop)
    token_mask = before(tokens, out.latents.shape[1]) & mask[:, None]
    figures = token_figures(out, token_mask) | {
        "mask": mask,
        "seconds": lengths / sample_rate,
        "mel_distance": mel_distance(reconstruction, sound, lengths, sample_rate),
        "l1": jnp.sum(jnp.abs(reconstruction - sound), axis=1) / lengths,
    }
    counts = count_stages(autoencoder.quantizer, out.quantized.indices, token_mask)
    return Scored(figures, counts, out.latents.astype(jnp.float32), reconstruction, {})
