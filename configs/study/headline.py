"""Study: the quickstart at full length by codebook size, with this project's recipe, the same with C frozen, trained or
frozen under an MLP in place of W, the paper's recipe, vanilla VQ, and VQ with k-means and restarts, the best rival; and
four residual stages.

    python launch/sweep.py --config=configs/study/headline.py --workdir=runs/study/headline
or  python -m simvq_jax.train --evaluate --config=configs/study/headline.py --workdir=runs/study/one

d = 128, and steps enough for a window of 20 tokens a code at the largest K.
"""

from configs import quickstart, recipes
from configs.study import base
from configs.study.methods import MLP_WIDTH, RIVAL

SIZES = (1024, 8192, 65_536)
SEEDS = (0, 1, 2)


def get_config():
    config = quickstart.get_config()
    config.quantizer.dim = 128
    config.checkpoint_every = config.steps
    config.eval_every = 0  # sweep.py has it evaluated once it is whole
    return config


def sweep(add):
    """`add(name, changes)` for each run."""
    of = (recipes.paper, recipes.without_restarts, recipes.vanilla)
    paper, fixed, vanilla = (base.changes(recipe, get_config()) for recipe in of)
    for k in SIZES:
        size = {"quantizer.codebook_size": k}
        for seed in SEEDS:
            add(f"simvq_{k}_seed{seed}", {**size, "seed": seed})
            add(f"simvq_frozen_{k}_seed{seed}", {**size, **fixed, "seed": seed})
            add(f"simvq_trained_{k}_seed{seed}", {**size, **fixed, "quantizer.trainable_basis": True, "seed": seed})
            add(f"simvq_paper_{k}_seed{seed}", {**size, **paper, "seed": seed})
            add(f"vq_{k}_seed{seed}", {**size, **vanilla, "seed": seed})
            add(f"vq_kmeans_restart_{k}_seed{seed}", {**size, **RIVAL, "seed": seed})
        add(f"simvq_mlp_{k}_seed0", {**size, **fixed, "quantizer.hidden": MLP_WIDTH, "seed": 0})
    residual = {"quantizer.codebook_size": 1024, "quantizer.stages": 4, "seed": 0}
    add("residual_simvq_1024_seed0", residual)
    add("residual_simvq_frozen_1024_seed0", {**residual, **fixed})
