"""Study: a vision transformer beside convolutions, each with SimVQ, VQ and the best rival, VQ with k-means and
restarts; and SimVQ in residual stages and by parts.

    python launch/sweep.py --config=configs/study/architectures.py:reduced --workdir=runs/study/architectures
or  python -m simvq_jax.train --config=configs/study/architectures.py:reduced --workdir=runs/study/one
"""

from configs import photos_vit, recipes
from configs.study import base
from configs.study.methods import RIVAL

get_config = base.get_config


def sweep(add, size: str = "reduced"):
    """`add(name, changes)` for each run."""
    vit = {f"model.{key}": photos_vit.get_config().model[key] for key in ("kind", "patch", "width", "depth", "heads")}
    of = (recipes.paper, recipes.without_restarts, recipes.vanilla)
    paper, fixed, vanilla = (base.changes(recipe, get_config(size)) for recipe in of)
    for name, model in (("vit", vit), ("cnn", {})):
        add(f"{name}_simvq", model)
        add(f"{name}_simvq_frozen", {**model, **fixed})
        add(f"{name}_simvq_paper", {**model, **paper})
        add(f"{name}_vq", {**model, **vanilla})
        add(f"{name}_vq_kmeans_restart", {**model, **RIVAL})
    stages = {"quantizer.codebook_size": 1024, "quantizer.stages": 4}
    add("residual_simvq", stages)
    add("residual_simvq_frozen", {**stages, **fixed})
    add("residual_simvq_paper", {**stages, **paper})
    add("product_simvq", {**stages, "quantizer.compound": "product"})
