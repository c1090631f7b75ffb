"""What the stability options add to a training step: this project's recipe against the paper's, in alternation.

    python -m benchmarks.recipe_cost [--setting=quickstart] [--codebook_size=65536] [--dim=128] [--batch_size=0]
        [--dtype=float32] [--repeats=9] [--calls=1] [--out=benchmarks/results/recipe_cost_cpu.json]

quickstart is that experiment's network and batch; the other settings are those of train_step.py. Ours adds the region
loss, restarts of rows, the limit on the codes' spread, and clipping.
"""

from typing import Any

import jax

from benchmarks import timing, train_step
from benchmarks.our_step import OurStep
from configs import quickstart
from simvq_jax import cli
from simvq_jax.build.choice import one_of
from simvq_jax.mesh import make_mesh

RECIPES = ("paper", "simvq")
SETTINGS = ("quickstart", *train_step.SETTINGS)


def make_config(recipe: str, setting: str, codebook_size: int, dim: int, batch_size: int, dtype: str):
    """The setting's config by one of RECIPES. batch_size: 0 = the setting's."""
    if one_of("setting", setting, SETTINGS) == "quickstart":
        config = quickstart.get_config(recipe)
        config.quantizer.codebook_size, config.dtype = codebook_size, dtype
        config.batch_size = batch_size or config.batch_size
    else:
        config = train_step.make_config(setting, codebook_size, dtype, batch_size, paper=recipe == "paper")
    config.quantizer.dim = dim
    return config


def measure(repeats: int, calls: int, **shape) -> dict[str, Any]:
    """Seconds a step of each recipe, and their ratio. shape: as `make_config` takes it."""
    contenders = {}
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        for recipe in RECIPES:
            config = make_config(recipe, **shape)
            contenders[recipe] = timing.Contender(OurStep(config, train_step.photographs(config), mesh).step)
        seconds = timing.alternate(contenders, repeats, calls)
    return {
        **train_step.shape_of(config),
        "dim": config.quantizer.dim,
        "region_sources": config.quantizer.region_sources,
        "seconds": {recipe: timing.summary(values) for recipe, values in seconds.items()},
        "ours_over_paper": timing.ratio(seconds["simvq"], seconds["paper"]),
    }


def main(
    setting: str, codebook_size: int, dim: int, batch_size: int, dtype: str, repeats: int, calls: int, out: str
) -> None:
    train_step.check_flags("", repeats, calls)
    shape = {"codebook_size": codebook_size, "dim": dim, "batch_size": batch_size, "dtype": dtype}
    result = timing.provenance(("flax", "optax")) | {"repeats": repeats, "calls": calls, "setting": setting}
    result |= measure(repeats, calls, setting=setting, **shape)
    timing.write_json(out, result)
    print(result["seconds"], result["ours_over_paper"])


if __name__ == "__main__":
    cli.run_main(
        main,
        {
            "setting": "quickstart",
            "codebook_size": 65_536,
            "dim": 128,
            "batch_size": 0,
            "dtype": "float32",
            "repeats": 9,
            "calls": 1,
            "out": "benchmarks/results/recipe_cost_cpu.json",
        },
        {
            "setting": f"one of {', '.join(SETTINGS)}",
            "codebook_size": "K",
            "dim": "d",
            "batch_size": "pictures a step; 0 = the setting's",
            "dtype": "float32 | bfloat16",
            "repeats": "measurements of each",
            "calls": "calls that a measurement averages over",
            "out": "JSON file to write",
        },
    )
