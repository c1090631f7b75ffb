"""Study: how the gradient passes the choice of a code.

    python launch/sweep.py --config=configs/study/estimators.py:reduced --workdir=runs/study/estimators
or  python -m simvq_jax.train --config=configs/study/estimators.py:reduced --workdir=runs/study/one
"""

from configs.study import base

get_config = base.get_config


def sweep(add, size: str = "reduced"):
    """`add(name, changes)` for each run."""
    for estimator in ("straight_through", "rotation", "dynamic"):
        add(estimator, {"quantizer.estimator": estimator})
