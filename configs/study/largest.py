"""Study: more codes for longer, up to 262,144 of this project's recipe; the best rival at the sizes that k-means can
start, and the paper's recipe and vanilla VQ at the largest.

    python launch/sweep.py --config=configs/study/largest.py --workdir=runs/study/largest
or  python -m simvq_jax.train --evaluate --config=configs/study/largest.py --workdir=runs/study/one

The training of headline.py, with steps enough for a window of 20 tokens a code at the largest K. One run of that takes
two hours of one CPU core.
"""

import itertools

from configs import recipes
from configs.study import base, headline
from configs.study.methods import RIVAL

SIZE = 262_144
SEEDS = (0, 1)  # of the smaller ones


def get_config():
    config = headline.get_config()
    config.quantizer.codebook_size = SIZE
    config.steps, config.checkpoint_every = 1300, 325
    return config


def sweep(add):
    """`add(name, changes)` for each run."""
    add(f"simvq_{SIZE}_seed0", {})
    for k, seed in itertools.product(reversed(headline.SIZES), SEEDS):
        size = {"quantizer.codebook_size": k, "seed": seed}
        add(f"simvq_{k}_seed{seed}", size)
        add(f"vq_kmeans_restart_{k}_seed{seed}", {**size, **RIVAL})
    add(f"simvq_paper_{SIZE}_seed0", base.changes(recipes.paper, get_config()))
    add(f"vq_{SIZE}_seed0", base.changes(recipes.vanilla, get_config()))
