"""What a stranger needs to repeat an evaluation: data, weights, versions."""

import platform
from pathlib import Path
from typing import Any

import jax

from simvq_jax.api import Tokenizer
from simvq_jax.build import of_sound
from simvq_jax.inputs import EvalData
from simvq_jax.models.pretrained.weights import sha256
from simvq_jax.versions import of_installed

PACKAGES = (
    "simvq_jax",
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "pillow",
    "scikit-image",
    "soundfile",
    "soxr",
    "pystoi",
    "pesq",
)
WEIGHT_FILES = ("losses.lpips_vgg", "losses.lpips_linear")  # that score, and all of metrics; the rest is in the model's


def provenance(tokenizer: Tokenizer, data: EvalData, limit: int) -> dict[str, Any]:
    """Of an evaluation of the tokenizer, by its config, on the data. limit: of crops or recordings; 0 = all."""
    config = tokenizer.config
    keys = [*WEIGHT_FILES, *(f"metrics.{name}" for name in config.metrics)]
    files = {key: path for key in keys if (path := _at(config, key))}
    return {
        "step": tokenizer.step,
        "model_sha256": tokenizer.fingerprint(decoder=True),
        "data_identity": data.identity,
        "split": data.split,
        "limit": limit,
        "batch_size": config.data.eval_batch_size,  # the official PSNR is of whole batches
        "preprocessing": _preprocessing(config),
        "largest_file": largest_file(config),
        "weight_files": {key: {"file": Path(path).name, "sha256": sha256(path)} for key, path in files.items()},
        "versions": {"python": platform.python_version()} | of_installed(PACKAGES),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _at(config, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _preprocessing(config) -> str:
    data = config.data
    if of_sound(config):
        return f"whole recordings, channels averaged, resampled to {data.sample_rate} Hz by soxr"
    crop = f"{data.eval_crops} crop(s) of {data.size} x {data.size} a picture"
    if not data.resize_short:
        return f"{crop}, at its own resolution"
    return f"{crop}, its short side resized to {data.resize_short} by Pillow's bilinear filter"


def largest_file(config) -> str:
    """How much a file may hold; larger ones are skipped."""
    return f"{config.data.max_seconds:g} seconds" if of_sound(config) else f"{config.data.max_pixels:,} pixels"
