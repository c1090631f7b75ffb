"""How reconstructions are scored: `common.py` says what a scorer has, pictures and sound have one each, and
`evaluation.py` goes over the data with either."""

from simvq_jax.scoring.evaluation import CONSTANT, Evaluation, evaluate, make_scorer

__all__ = ["CONSTANT", "Evaluation", "evaluate", "make_scorer"]
