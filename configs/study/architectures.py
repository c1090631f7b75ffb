"""Study: a vision transformer with SimVQ, VQ and the best rival, VQ with k-means and restarts; and SimVQ in residual
stages and by parts. The same with convolutions, of one codebook, are runs of methods.py.

    python launch/sweep.py --config=configs/study/architectures.py:reduced --workdir=runs/study/architectures
or  python -m simvq_jax.train --evaluate --config=configs/study/architectures.py:reduced --workdir=runs/study/one
"""

from configs import photos_vit, recipes
from configs.study import base
from configs.study.methods import RIVAL

KINDS = ("simvq", "simvq_frozen", "simvq_paper", "vq", "vq_kmeans_restart")
OF_METHODS = {f"cnn_{kind}": kind for kind in KINDS}
get_config = base.get_config


def sweep(add, size: str = "reduced"):
    """`add(name, changes)` for each run."""
    vit = {f"model.{key}": photos_vit.get_config().model[key] for key in ("kind", "patch", "width", "depth", "heads")}
    of = (recipes.paper, recipes.without_restarts, recipes.vanilla)
    paper, fixed, vanilla = (base.changes(recipe, get_config(size)) for recipe in of)
    for name, changes in zip(KINDS, ({}, fixed, paper, vanilla, RIVAL), strict=True):
        add(f"vit_{name}", {**vit, **changes})
    stages = {"quantizer.codebook_size": 1024, "quantizer.stages": 4}
    add("residual_simvq", stages)
    add("residual_simvq_frozen", {**stages, **fixed})
    add("residual_simvq_paper", {**stages, **paper})
    add("product_simvq", {**stages, "quantizer.compound": "product"})
