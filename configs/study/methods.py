"""Study: every method at every codebook size, on scikit-image's photographs.

    python launch/sweep.py --config=configs/study/methods.py --workdir=runs/study/methods
or  python -m simvq_jax.train --config=configs/study/methods.py --workdir=runs/study/one

The quickstart's network, data and schedule; only the quantizer differs. Methods and settings are those of the SimVQ
paper's tables where they fit: VQ and FSQ as published, EMA codes with and without restart, factorized codes of 8
dimensions, LFQ, SimVQ with the paper's single rate and loss, and with this project's recipe.
"""

import math
from typing import Any

from configs import quickstart

SIZES = (1024, 8192, 65_536)
FSQ_LEVELS = ((8, 5, 5, 5), (8, 8, 8, 16), (8, 8, 8, 8, 16))  # as FSQ's paper has them: about as many codes
METHODS: dict[str, dict[str, Any]] = {
    "vq": {"kind": "vq"},
    "ema_vq": {"kind": "ema_vq", "codebook_init": "normal"},
    "ema_vq_restart": {"kind": "ema_vq", "codebook_init": "normal", "restart_after": 65_536},
    "factorized_vq": {"kind": "factorized_vq"},
    "lfq": {"kind": "lfq"},
    "moment_vq": {"kind": "moment_vq"},
    "simvq": {"kind": "simvq"},
}


def get_config():
    return quickstart.get_config()


def sweep(add):
    for size in SIZES:
        for name, quantizer in METHODS.items():
            changes = {f"quantizer.{key}": value for key, value in quantizer.items()}
            add(f"{name}_{size}", {**changes, "quantizer.codebook_size": size})
        paper = {
            "quantizer.codebook_size": size,
            "quantizer.codebook_loss": "token",
            "optimizer.transform_learning_rate": 1e-3,
            "schedule.transform_kind": "warmup_cosine",
            "schedule.transform_warmup_fraction": 0.1,
        }
        add(f"simvq_paper_{size}", paper)
    for levels in FSQ_LEVELS:
        size = math.prod(levels)
        add(f"fsq_{size}", {"quantizer.kind": "fsq", "quantizer.levels": levels, "quantizer.codebook_size": size})
