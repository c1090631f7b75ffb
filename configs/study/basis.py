"""Study: the basis Gaussian, uniform or of tokens, frozen or trained, and W frozen under a trained basis.

    python launch/sweep.py --config=configs/study/basis.py:reduced --workdir=runs/study/basis
or  python -m simvq_jax.train --evaluate --config=configs/study/basis.py:reduced --workdir=runs/study/one

The paper's ablation (its table at K = 65,536; reduced, 8,192), under this project's recipe without restarts of
rows, which a trained basis does not admit, and in the plain quantizer.
"""

from configs import recipes
from configs.study import base

OF_METHODS = {"normal_frozen": "simvq_frozen", "plain_normal_frozen": "simvq_plain"}


def get_config(size: str = "reduced"):
    """size: "reduced" or "full"."""
    config = base.get_config(size)
    if size == "full":
        config.quantizer.codebook_size = 65_536
    return config


def sweep(add, size: str = "reduced"):
    """`add(name, changes)` for each run."""
    fixed = base.changes(recipes.without_restarts, get_config(size))
    for init in ("normal", "uniform"):
        add(f"{init}_trained", {**fixed, "quantizer.basis_init": init, "quantizer.trainable_basis": True})
    add("uniform_frozen", {**fixed, "quantizer.basis_init": "uniform"})
    plain = base.changes(recipes.plain, get_config(size))
    add("plain_normal_trained", {**plain, "quantizer.trainable_basis": True})
    frozen_transform = {**fixed, "optimizer.transform_learning_rate": 0.0, "optimizer.spread_limit": 0.0}
    add("normal_trained_transform_frozen", {"quantizer.trainable_basis": True, **frozen_transform})
    add("tokens_frozen", {**fixed, "quantizer.basis_init": "tokens"})
