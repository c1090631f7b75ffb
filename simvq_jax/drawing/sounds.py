"""Sound for reports: mel spectrograms as pictures, waveforms as SVG, and players.

sound: float32 (samples,) in [-1, 1].
"""

import base64
import io

import numpy as np

from simvq_jax.dsp import log_mel

MEL_HEIGHT = 100
COLUMNS = 600  # of a waveform
QUIETEST, LOUDEST = -9.0, 3.0  # log-mel magnitudes that are drawn darkest and lightest
RAMP = np.array([[7, 10, 38], [69, 20, 107], [166, 44, 96], [236, 105, 51], [252, 190, 74], [252, 253, 191]])


def mel_picture(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log-mel magnitudes, low below: uint8 (MEL_HEIGHT, frames, 3), a frame each 256 samples."""
    frames = len(sound) // 256 + 1
    filled = np.pad(sound, (0, -len(sound) % sample_rate))  # few lengths, so that few programs are compiled
    mel = np.asarray(log_mel(filled, sample_rate, mels=MEL_HEIGHT))[:frames]
    share = np.clip((mel - QUIETEST) / (LOUDEST - QUIETEST), 0, 1) * (len(RAMP) - 1)
    channels = [np.interp(share, np.arange(len(RAMP)), RAMP[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8).swapaxes(0, 1)[::-1]


def waveform(sound: np.ndarray, color: str) -> str:
    """An SVG of the smallest and largest sample of each of up to COLUMNS stretches. color: of CSS."""
    stretches = np.array_split(sound, min(COLUMNS, len(sound)))
    top = [f"{i},{50 - 50 * float(part.max()):.1f}" for i, part in enumerate(stretches)]
    bottom = [f"{i},{50 - 50 * float(part.min()) + 0.4:.1f}" for i, part in enumerate(stretches)]
    points = " ".join(top + bottom[::-1])
    return (
        f'<svg class="waveform" viewBox="0 0 {len(stretches)} 100" preserveAspectRatio="none" role="img">'
        f'<polygon points="{points}" fill="{color}"/></svg>'
    )


def player(sound: np.ndarray, sample_rate: int, label: str) -> str:
    """An `<audio>` element that holds the sound itself, as 16-bit FLAC."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(sound, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<audio controls preload="none" aria-label="{label}" src="data:audio/flac;base64,{encoded}"></audio>'
