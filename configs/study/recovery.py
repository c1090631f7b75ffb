"""Study: recovery of codes that start at another scale than the tokens (StableVQ, 2609.26774: UR-AUC).

    python launch/sweep.py --config=configs/study/recovery.py:reduced --workdir=runs/study/recovery
or  python -m simvq_jax.train --config=configs/study/recovery.py:reduced --workdir=runs/study/one

UR-AUC is the mean over wrong starting scales of the mean over steps of the utilization, in percent. A start at the
tokens' own scale tells what could be regained.
"""

from configs import recipes
from configs.study import base

SCALES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
RATE = {"optimizer.learning_rate": 1e-3}  # of the networks, as in the quickstart: what is looked at is the codes
get_config = base.get_config


def sweep(add, size: str = "reduced"):
    """`add(name, changes)` for each run."""
    plain = base.changes(recipes.plain, size) | {"optimizer.transform_learning_rate": 1e-3}
    recipes_by_name = {"simvq": {}, "simvq_plain": plain}
    for scale in SCALES:
        for name, changes in recipes_by_name.items():
            start = {"quantizer.codebook_size": 1024, "quantizer.start_scale": scale}
            add(f"{name}_{scale:g}", {**changes, **start, **RATE})
