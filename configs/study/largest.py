"""Study: 262,144 codes, with this project's recipe, the paper's, and vanilla VQ.

    python launch/sweep.py --config=configs/study/largest.py --workdir=runs/study/largest
or  python -m simvq_jax.train --evaluate --config=configs/study/largest.py --workdir=runs/study/one

The training of headline.py, with steps enough for a window of 20 tokens a code here. A run takes an hour and a half of
one CPU core.
"""

from configs import recipes
from configs.study import base, headline

SIZE = 262_144


def get_config():
    config = headline.get_config()
    config.quantizer.codebook_size = SIZE
    config.steps, config.checkpoint_every = 1300, 325
    return config


def sweep(add):
    """`add(name, changes)` for each run."""
    add(f"simvq_{SIZE}_seed0", {})
    add(f"simvq_paper_{SIZE}_seed0", base.changes(recipes.paper, get_config()))
    add(f"vq_{SIZE}_seed0", base.changes(recipes.vanilla, get_config()))
