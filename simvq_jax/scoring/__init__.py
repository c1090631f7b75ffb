"""How reconstructions are scored, pictures and sound apart; `evaluation.py` goes over the data with either.

A scorer has
    score(variables, batch) -> Scored, of a batch placed on the mesh;
    on_host(batch, reconstruction) -> {name: (b,)}: what is computed outside of jax, of this process's rows;
    of_batches(figures) -> {name: value}: what is of whole batches, from each one's figures, and takes out of them what
        served that alone;
    samples(batch, scored, rows) -> originals and reconstructions of those rows, as the report shows them;
    tokens(batch, scored) -> (n, d), the encoder outputs that count;
    counted: the name of what a figure is a mean over. may_lack: figures that some have none of, which are NaN there.
"""

from simvq_jax.scoring.evaluation import CONSTANT, Evaluation, evaluate, make_scorer

__all__ = ["CONSTANT", "Evaluation", "evaluate", "make_scorer"]
