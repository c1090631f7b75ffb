"""Study: the quickstart at full length by codebook size, this project's recipe and vanilla VQ.

    python launch/sweep.py --config=configs/study/headline.py --workdir=runs/study/headline
or  python -m simvq_jax.train --config=configs/study/headline.py --workdir=runs/study/one

d = 128, and steps enough for a window of 20 tokens a code at the largest K.
"""

from configs import quickstart

SIZES = (1024, 8192, 65_536)
SEEDS = (0, 1, 2)


def get_config():
    config = quickstart.get_config()
    config.quantizer.dim = 128
    config.eval_every = config.checkpoint_every = config.steps
    return config


def sweep(add):
    """`add(name, changes)` for each run."""
    for k in SIZES:
        for seed in SEEDS:
            add(f"simvq_{k}_seed{seed}", {"quantizer.codebook_size": k, "seed": seed})
        add(f"vq_{k}_seed0", {"quantizer.codebook_size": k, "quantizer.kind": "vq"})
