"""Study: recovery of codes that start at another scale than the tokens (StableVQ, 2609.26774: UR-AUC).

    python launch/sweep.py --config=configs/study/recovery.py:reduced --workdir=runs/study/recovery
or  python -m simvq_jax.train --evaluate --config=configs/study/recovery.py:reduced --workdir=runs/study/one

UR-AUC is the mean over wrong starting scales of the mean over steps of the utilization, in percent. A start at the
tokens' own scale tells what could be regained. Codes of this project's recipe start around the tokens' mean, as always;
those of the published quantizer around the origin, as it has them, and in "plain_centred" around the tokens' mean too.
"""

import itertools

from configs import recipes
from configs.study import base

SIZES = (1024, 8192)
SCALES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
RATE = 1e-3  # of the networks, as in the quickstart: what is looked at is the codes
get_config = base.get_config


def sweep(add, size: str = "reduced"):
    """`add(name, changes)` for each run."""
    networks = {"optimizer.learning_rate": RATE}
    one_rate = networks | {"optimizer.transform_learning_rate": RATE}
    plain = base.changes(recipes.plain, get_config(size)) | one_rate
    paper = base.changes(recipes.paper, get_config(size)) | one_rate
    as_published = {"quantizer.start_centred": False}
    recipes_by_name = {
        "simvq": networks,
        "simvq_plain": plain | as_published,
        "simvq_plain_centred": plain,
        "simvq_paper": paper | as_published,
    }
    for k, scale in itertools.product(SIZES, SCALES):
        start = {"quantizer.codebook_size": k, "quantizer.start_scale": scale}
        for name, changes in recipes_by_name.items():
            add(f"{name}_{k}_{scale:g}", {**changes, **start})
