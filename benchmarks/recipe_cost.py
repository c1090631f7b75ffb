"""What the stability options add to a training step: this project's recipe against the paper's, in alternation.

    python -m benchmarks.recipe_cost [--codebook_size=65536] [--dim=128] [--repeats=9]
        [--out=benchmarks/results/recipe_cost_cpu.json]

The quickstart's network and batch. Ours adds the region loss, restarts of rows, the limit on the codes' spread, and
clipping.
"""

from typing import Any

import jax

from benchmarks import timing
from benchmarks.our_step import OurStep
from benchmarks.train_step import photographs
from configs import quickstart
from simvq_jax import cli
from simvq_jax.mesh import make_mesh

RECIPES = ("paper", "simvq")


def measure(codebook_size: int, dim: int, repeats: int) -> dict[str, Any]:
    """Seconds a step of each recipe, and their ratio."""
    contenders = {}
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        for recipe in RECIPES:
            config = quickstart.get_config(recipe)
            config.quantizer.codebook_size, config.quantizer.dim = codebook_size, dim
            contenders[recipe] = timing.Contender(OurStep(config, photographs(config), mesh).step)
        seconds = timing.alternate(contenders, repeats)
    return {
        "codebook_size": codebook_size,
        "dim": dim,
        "batch_size": config.batch_size,
        "region_sources": config.quantizer.region_sources,
        "seconds": {recipe: timing.summary(values) for recipe, values in seconds.items()},
        "ours_over_paper": timing.ratio(seconds["simvq"], seconds["paper"]),
    }


def main(codebook_size: int, dim: int, repeats: int, out: str) -> None:
    result = {**timing.provenance(("flax", "optax")), **measure(codebook_size, dim, repeats)}
    timing.write_json(out, result)
    print(result["seconds"], result["ours_over_paper"])


if __name__ == "__main__":
    cli.run_main(
        main,
        {"codebook_size": 65_536, "dim": 128, "repeats": 9, "out": "benchmarks/results/recipe_cost_cpu.json"},
        {
            "codebook_size": "K",
            "dim": "d",
            "repeats": "measurements of each",
            "out": "JSON file to write",
        },
    )
