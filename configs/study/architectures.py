"""Study: a vision transformer beside the convolutions of methods.py, and SimVQ in residual stages and by parts.

    python launch/sweep.py --config=configs/study/architectures.py:reduced --workdir=runs/study/architectures
or  python -m simvq_jax.train --config=configs/study/architectures.py:reduced --workdir=runs/study/one
"""

from configs import photos_vit, recipes
from configs.study import base

get_config = base.get_config


def sweep(add, size: str = "reduced"):
    """`add(name, changes)` for each run."""
    vit = {f"model.{key}": photos_vit.get_config().model[key] for key in ("kind", "patch", "width", "depth", "heads")}
    add("vit_simvq", vit)
    paper, restarting = (base.changes(recipe, get_config(size)) for recipe in (recipes.paper, recipes.restarting))
    add("vit_simvq_restart", {**vit, **restarting})
    add("vit_simvq_paper", {**vit, **paper})
    add("vit_vq", {**vit, "quantizer.kind": "vq"})
    add("cnn_simvq", {})
    add("cnn_simvq_paper", paper)
    add("cnn_vq", {"quantizer.kind": "vq"})
    stages = {"quantizer.codebook_size": 1024, "quantizer.stages": 4}
    add("residual_simvq", stages)
    add("residual_simvq_restart", {**stages, **restarting})
    add("residual_simvq_paper", {**stages, **paper})
    add("product_simvq", {**stages, "quantizer.compound": "product"})
