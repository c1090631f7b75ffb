"""Study: how the gradient passes the choice of a code; straight through, it is a run of methods.py.

    python launch/sweep.py --config=configs/study/estimators.py:reduced --workdir=runs/study/estimators
or  python -m simvq_jax.train --evaluate --config=configs/study/estimators.py:reduced --workdir=runs/study/one
"""

from configs.study import base

OF_METHODS = {"straight_through": "simvq"}
get_config = base.get_config


def sweep(add, size: str = "reduced"):
    """`add(name, changes)` for each run."""
    for estimator in ("rotation", "dynamic"):
        add(estimator, {"quantizer.estimator": estimator})
