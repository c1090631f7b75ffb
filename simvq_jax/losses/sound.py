"""Losses of sound: mel distances, and the adversarial terms over several discriminators. Every result is ()."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from simvq_jax import dsp
from simvq_jax.losses.means import mean_by_rows

MEL_SIZES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))  # n_fft, mels, as in DAC


def mel_loss(sound, target, sample_rate: int):
    """Mean absolute difference of log-mel magnitudes (Vocos, 2306.00814). (b, samples) both."""
    return mean_by_rows(jnp.abs(dsp.log_mel(sound, sample_rate) - dsp.log_mel(target, sample_rate)))


def multiscale_mel_loss(sound, target, sample_rate: int):
    """Sum of the same over seven resolutions, by logarithms to base 10 of magnitudes (after DAC, 2306.06546, section
    3.5, whose filters are of equal area, while these are of equal height, as those of `mel_loss`)."""
    spectra = [
        [dsp.log_mel(x, sample_rate, n_fft=n_fft, hop=n_fft // 4, mels=mels, floor=1e-5) for x in (sound, target)]
        for n_fft, mels in MEL_SIZES
    ]
    return sum(jnp.mean(jnp.abs(ours - theirs)) for ours, theirs in spectra) / jnp.log(10.0)


def sound_generator_loss(real, fake, resolution_weight: float):
    """The generator's adversarial and feature-matching terms, as in SimVQ: -> (), {name: ()}.

    real, fake: judgements by "period", "resolution" and "dac", as `SoundDiscriminator` gives them. Hinge and feature
    terms are means over the discriminators of a group; DAC's squares are sums.
    """
    terms = {
        "adversarial_period": mean_over(hinge(j.logits) for j in fake["period"]),
        "adversarial_resolution": mean_over(hinge(j.logits) for j in fake["resolution"]),
        "adversarial_dac": sum(square_to_one(j.logits) for j in fake["dac"]),
    }
    of_group = {"period": _behind_the_first, "resolution": _with_logits, "dac": lambda judgement: judgement.activations}
    for group, activations in of_group.items():
        pairs = zip(real[group], fake[group], strict=True)
        distances = [feature_distance(activations(r), activations(f)) for r, f in pairs]
        terms[f"features_{group}"] = sum(distances) / (1 if group == "dac" else len(distances))
    weighted = [resolution_weight * v if name.endswith("resolution") else v for name, v in terms.items()]
    return sum(weighted), terms


def sound_discriminator_loss(real, fake, resolution_weight: float):
    """The discriminators' terms, as in SimVQ: -> (), {name: ()}. Arguments as of `sound_generator_loss`."""

    def hinges(group):
        return mean_over(hinge(r.logits) + hinge(-f.logits) for r, f in zip(real[group], fake[group], strict=True))

    terms = {
        "discriminator_period": hinges("period"),
        "discriminator_resolution": hinges("resolution"),
        "discriminator_dac": sum(square_to_one(j.logits) for j in real["dac"])
        + sum(square_to_one(1 - j.logits) for j in fake["dac"]),
    }
    weighted = [resolution_weight * v if name.endswith("resolution") else v for name, v in terms.items()]
    return sum(weighted), terms


def _with_logits(judgement) -> list[jax.Array]:
    return [*judgement.activations, judgement.logits]


def _behind_the_first(judgement) -> list[jax.Array]:
    """Without the first layer's, which the official period discriminators leave out."""
    return _with_logits(judgement)[1:]


def hinge(values):
    """Mean of max(0, 1 - values)."""
    return jnp.mean(jax.nn.relu(1.0 - values))


def square_to_one(values):
    """Mean of (1 - values)^2."""
    return jnp.mean((1.0 - values) ** 2)


def feature_distance(real: Sequence[jax.Array], fake: Sequence[jax.Array]):
    """Sum over activations of their mean absolute difference (MelGAN, 1910.06711, eq. 3)."""
    return sum(
        jnp.mean(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32))) for a, b in zip(real, fake, strict=True)
    )


def mean_over(values):
    """Mean of an iterable of arrays."""
    values = list(values)
    return sum(values) / len(values)
