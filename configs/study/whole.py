"""Every study but headline and largest in one sweep, so that no core waits for the end of each.

    python launch/sweep.py --config=configs/study/whole.py:reduced --workdir=runs/study --jobs=2

A run's folder is runs/study/STUDY/RUN, as that of a sweep of the study alone: either goes on with what the other began.
vqgan_lc needs its features first, as methods.py says.
"""

from configs.study import architectures, base, basis, estimators, methods, rate, recovery

STUDIES = (architectures, methods, rate, basis, estimators, recovery)  # the longest runs first
get_config = base.get_config


def sweep(add, size: str = "reduced"):
    """`add(name, changes)` for each run."""
    for study in STUDIES:
        of_study = base.differences(get_config(size), study.get_config(size))
        name = study.__name__.rpartition(".")[2]
        study.sweep(lambda run, changes, name=name, of=of_study: add(f"{name}/{run}", {**of, **changes}), size)
