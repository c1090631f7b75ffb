"""SimVQ on scikit-image's photographs, and the vanilla baseline, on a laptop.

    bash launch/quickstart.sh
or  python -m simvq_jax.train --config=configs/quickstart.py --workdir=runs/quickstart
    python -m simvq_jax.train --config=configs/quickstart.py:vq --workdir=runs/quickstart_vq
    python -m simvq_jax.train --config=configs/quickstart.py:paper --workdir=runs/quickstart_paper

Needs two CPU cores and 2 GB of memory; each of the first two takes 4 or 5 minutes on two cores of an Intel Xeon
(2026-11-28 and 29), 10 on two shared cores of an AMD EPYC on the 27th.

Expect, over 262,144 held-out tokens: SimVQ 99.1% of the codes in use and 26.85 dB, vanilla VQ 0.6% and 26.42 dB (one
run each, 2026-11-29 and 28); like runs of SimVQ differ by more than a decibel. docs/EXPERIMENTS.md has the
recipes that were tried.
"""

from configs import common, recipes


def get_config(method: str = "simvq"):
    """method: "simvq"; "vq" for the collapsing baseline, trained for the same steps; "paper" for SimVQ as published."""
    recipes.check_method("quickstart.py", method)
    config = common.get_config()
    config.steps = 600
    config.batch_size = 64
    config.log_every = 20
    config.eval_every = 150
    config.checkpoint_every = 150

    config.data.source = "photos"
    config.data.size = 32
    config.data.resize_short = 0
    config.data.flip = True
    config.data.threads = 2
    config.data.eval_crops = 512  # of 64 tokens, of 8 pictures: 262,144 tokens
    config.data.eval_limit = 256
    config.data.eval_batch_size = 64

    config.model.width = 16
    config.model.multipliers = (1, 2, 4)
    config.model.residual_blocks = 1
    config.model.norm_groups = 16

    config.quantizer.codebook_size = 8192
    config.quantizer.dim = 64
    config.losses.lpips = 0.0
    config.losses.l1 = 0.0
    config.losses.l2 = 1.0
    config.discriminator.enabled = False

    config.optimizer.learning_rate = 1e-3
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.99
    config.optimizer.ema_decay = 0.98
    recipes.stable(config, transform_rate=1e-2, warmup_fraction=0.1)
    if method == "vq":
        recipes.vanilla(config)
    if method == "paper":
        recipes.paper(config)
    return config
