"""Study: every method at every codebook size, and at full size three seeds of those that matter most.

    python launch/sweep.py --config=configs/study/methods.py:reduced --workdir=runs/study/methods
or  python -m simvq_jax.train --evaluate --config=configs/study/methods.py:reduced --workdir=runs/study/one

Only the quantizer differs, and for SimVQ the recipe: this project's; the same with a frozen basis; "plain", the
quantizer as published; and the paper's, which has another schedule for the networks too. Others are set as their papers
have them where that fits. vqgan_lc needs its features first, of a trained tokenizer of FEATURE_DIM dimensions:

    bash launch/quickstart.sh && python -m benchmarks.features --run=runs/quickstart --out=runs/study/features

(of all sizes of the full study by --codebook_sizes=1024,8192,65536,262144); without them those runs alone fail.
"""

import math
from typing import Any

from configs import recipes
from configs.study import base

FSQ_LEVELS = {1024: (8, 5, 5, 5), 8192: (8, 8, 8, 16), 65_536: (8, 8, 8, 5, 5, 5), 262_144: (8, 8, 8, 8, 8, 8)}
FEATURE_DIM = 64
MLP_WIDTH = 256
RESTART = {"restart_after": 8.0}  # as in the recipe
METHODS: dict[str, dict[str, Any]] = {
    "vq_kmeans_restart": {"kind": "vq", "codebook_init": "kmeans", **RESTART},
    "ema_vq": {"kind": "ema_vq", "codebook_init": "normal", "restart_after": 0.0},
    "ema_vq_kmeans_restart": {"kind": "ema_vq", "codebook_init": "kmeans", **RESTART},
    "factorized_vq": {"kind": "factorized_vq"},
    "lfq": {"kind": "lfq"},
    "moment_vq": {"kind": "moment_vq"},
    "simvq": {"kind": "simvq"},
}
RIVAL = {f"quantizer.{key}": value for key, value in METHODS["vq_kmeans_restart"].items()}  # the best one
HEADLINE = ("vq", "simvq", "simvq_plain", "simvq_paper")  # of which every seed is run, others of the first alone
SEEDS = {"reduced": (0,), "full": (0, 1, 2)}
get_config = base.get_config


def sweep(add, size: str = "reduced"):
    """`add(name, changes)` for each run."""
    recipe_of = {
        "vq": recipes.vanilla,
        "simvq_frozen": recipes.without_restarts,
        "simvq_plain": recipes.plain,
        "simvq_paper": recipes.paper,
    }
    changes_of = {name: base.changes(recipe, get_config(size)) for name, recipe in recipe_of.items()}
    for k in base.CODEBOOK_SIZES[size]:
        features = {"quantizer.basis_file": f"runs/study/features_{k}.npy", "quantizer.basis_dim": FEATURE_DIM}
        mlp = changes_of["simvq_frozen"] | {"quantizer.hidden": MLP_WIDTH}
        of_recipes = {**changes_of, "simvq_mlp": mlp, "vqgan_lc": changes_of["simvq_plain"] | features}
        for name, changes in {**_methods(k), **of_recipes}.items():
            for seed in SEEDS[size] if name in HEADLINE else SEEDS[size][:1]:
                add(f"{name}_{k}_seed{seed}", {"quantizer.codebook_size": k, "seed": seed, **changes})


def _methods(k: int) -> dict[str, dict[str, Any]]:
    """Changes of every method, of SimVQ with this project's recipe."""
    levels = FSQ_LEVELS[k]
    fsq = {"kind": "fsq", "levels": levels, "codebook_size": math.prod(levels)}
    return {
        name: {f"quantizer.{key}": value for key, value in quantizer.items()}
        for name, quantizer in {**METHODS, "fsq": fsq}.items()
    }
