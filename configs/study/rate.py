"""Study: learning rate and schedule of W.

    python launch/sweep.py --config=configs/study/rate.py:reduced --workdir=runs/study/rate
or  python -m simvq_jax.train --evaluate --config=configs/study/rate.py:reduced --workdir=runs/study/one

With this project's recipe, and with the plain quantizer, where the rate alone must do. The recipe's own
rate is a run of methods.py.
"""

from configs import recipes
from configs.study import base

RATES = {"reduced": (1e-3, 1e-1), "full": (1e-3, 3e-2, 1e-1, 1.0)}  # beside the recipe's
OF_METHODS = {"recipe": "simvq"}
get_config = base.get_config


def sweep(add, size: str = "reduced"):
    """`add(name, changes)` for each run."""
    plain = base.changes(recipes.plain, get_config(size))
    plain.pop("optimizer.transform_learning_rate")
    for rate in RATES[size]:
        add(f"constant_{rate:g}", {"optimizer.transform_learning_rate": rate})
        add(f"plain_constant_{rate:g}", {"optimizer.transform_learning_rate": rate, **plain})
    cosine = {"schedule.transform_kind": "warmup_cosine", "schedule.transform_warmup_fraction": 0.1}
    add("plain_recipe_rate", plain)
    add("cosine", cosine)
    add("plain_cosine", {**cosine, **plain})
