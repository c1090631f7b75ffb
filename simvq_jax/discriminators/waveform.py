"""Discriminators of sound: by period, by the magnitudes of its spectra, and by bands of its complex spectra.

Each gives a `Judgement` of (b, samples). Together, as `SoundDiscriminator`, they are those of SimVQ's speech tokenizer.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from simvq_jax import dsp
from simvq_jax.models.layers import WeightNormConv

Pair = tuple[int, int]
BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # edges, as shares of all frequencies
DAC_PEAK = 0.8  # of the sound that the band and period discriminators of DAC are given


@flax.struct.dataclass
class Judgement:
    """logits: (b, ...) float32; activations: of the layers before them, first to last."""

    logits: jax.Array
    activations: list[jax.Array]


class PeriodDiscriminator(nn.Module):
    """Looks at every `period`-th sample (HiFi-GAN, 2010.05646, section 2.3).

    Fields:
        widths: channels of the layers, all but the last of stride 3.
        always_pad: pad sound whose length is a multiple of the period by a period more, as DAC does.
    """

    period: int
    widths: Sequence[int] = (32, 128, 512, 1024, 1024)
    always_pad: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x) -> Judgement:
        """x: (b, samples)."""
        short = -x.shape[1] % self.period or (self.period if self.always_pad else 0)
        x = jnp.pad(x, ((0, 0), (0, short)), mode="reflect")
        x = x.reshape(x.shape[0], -1, self.period, 1)
        strides = [3] * (len(self.widths) - 1) + [1]
        layers = [(width, (5, 1), (stride, 1)) for width, stride in zip(self.widths, strides, strict=True)]
        return judge(x, layers, (3, 1), self.dtype)


class ResolutionDiscriminator(nn.Module):
    """Looks at the magnitudes of a spectrum through rectangular windows (UnivNet, 2106.07889, section 2.2)."""

    n_fft: int
    hop: int
    width: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(self, x) -> Judgement:
        """x: (b, samples)."""
        x = jnp.abs(dsp.stft(x, self.n_fft, self.hop))[..., None]
        shapes = [((5, 7), (2, 2)), ((3, 5), (1, 2)), ((3, 5), (2, 2)), ((3, 3), (1, 2)), ((3, 3), (2, 2))]
        return judge(x, [(self.width, *shape) for shape in shapes], (3, 3), self.dtype)


class BandDiscriminator(nn.Module):
    """Looks at real and imaginary parts of a spectrum, by bands of frequencies (DAC, 2306.06546, section 3.4)."""

    n_fft: int
    width: int = 32
    dtype: Any = None

    @nn.compact
    def __call__(self, x) -> Judgement:
        """x: (b, samples)."""
        spectrum = dsp.stft(x, self.n_fft, self.n_fft // 4)
        x = jnp.stack([spectrum.real, spectrum.imag], axis=-1)
        edges = [int(share * x.shape[2]) for share in BANDS]
        shapes = [((3, 9), (1, 1)), *[((3, 9), (1, 2))] * 3, ((3, 3), (1, 1))]
        bands, activations = [], []
        for i, (low, high) in enumerate(itertools.pairwise(edges)):
            layers = [(self.width, *shape) for shape in shapes]
            bands.append(convolve(x[:, :, low:high], layers, self.dtype, f"band{i}_"))
            activations += bands[-1]
        joined = jnp.concatenate([band[-1] for band in bands], axis=2)
        return Judgement(last(joined, (3, 3), self.dtype), activations)


class SoundDiscriminator(nn.Module):
    """Those of SimVQ's speech tokenizer: Vocos's by period and resolution, and DAC's by period and band.

    Fields:
        periods: of both kinds of period discriminators. resolutions: (n_fft, hop) of each. band_sizes: n_fft of each.
        share: of the published widths that all have here.
    """

    periods: Sequence[int] = (2, 3, 5, 7, 11)
    resolutions: Sequence[Pair] = ((1024, 256), (2048, 512), (512, 128))
    band_sizes: Sequence[int] = (2048, 1024, 512)
    share: float = 1.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x) -> dict[str, list[Judgement]]:
        """x: (b, samples) -> judgements by "period", "resolution" and "dac"."""
        widths = [max(int(self.share * width), 1) for width in PeriodDiscriminator.widths]
        dtype = self.dtype
        level = peak_normalized(x)
        by_period = [PeriodDiscriminator(p, widths, dtype=dtype, name=f"period{p}")(x) for p in self.periods]
        by_resolution = [
            ResolutionDiscriminator(n, hop, max(int(self.share * 64), 1), dtype, name=f"resolution{n}")(x)
            for n, hop in self.resolutions
        ]
        dac = [PeriodDiscriminator(p, widths, True, dtype, name=f"dac_period{p}")(level) for p in self.periods]
        dac += [
            BandDiscriminator(n, max(int(self.share * 32), 1), dtype, name=f"dac_band{n}")(level)
            for n in self.band_sizes
        ]
        return {"period": by_period, "resolution": by_resolution, "dac": dac}


def peak_normalized(x):
    """Sound without its mean, at a peak of DAC_PEAK. x: (b, samples) -> the same."""
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    # By its place: the gradient of `max` looks for the samples that equal it, and where XLA computes them anew with
    # other rounding there are none, which gives 0 / 0.
    place = jnp.argmax(jnp.abs(x), axis=-1, keepdims=True)
    return DAC_PEAK * x / (jnp.abs(jnp.take_along_axis(x, place, axis=-1)) + 1e-9)


def judge(x, layers: Sequence[tuple[int, Pair, Pair]], size: Pair, dtype) -> Judgement:
    """The layers (features, kernel size, strides), and logits by one more of the given size. x: (b, h, w, c)."""
    activations = convolve(x, layers, dtype)
    return Judgement(last(activations[-1], size, dtype), activations)


def convolve(x, layers: Sequence[tuple[int, Pair, Pair]], dtype, prefix: str = "") -> list[jax.Array]:
    """Outputs of all layers, each a padded convolution and a leaky ReLU of slope 0.1."""
    outputs = []
    for i, (features, size, strides) in enumerate(layers):
        x = WeightNormConv(features, size, strides, same(size), dtype=dtype, name=f"{prefix}conv{i}")(x)
        x = nn.leaky_relu(x, 0.1)
        outputs.append(x)
    return outputs


def last(x, size: Pair, dtype) -> jax.Array:
    """Logits: (b, h, w), float32."""
    return WeightNormConv(1, size, padding=same(size), dtype=dtype, name="conv_out")(x)[..., 0].astype(jnp.float32)


def same(size: Pair) -> tuple[Pair, Pair]:
    """Padding by half a kernel of odd size."""
    return (size[0] // 2, size[0] // 2), (size[1] // 2, size[1] // 2)
