"""The paper's speech experiment: LibriTTS at 24 kHz, 75 tokens a second, SimVQ with K codes of d = 512.

    python -m simvq_jax.train --config=configs/libritts24k_simvq.py:65k --workdir=runs/libritts24k_simvq_65k \\
        --config.data.data_dir=/data/tfds

K is 4k, 8k, 65k or 262k. Model, losses, discriminators, clips and length are the official ones: SEANet, SimVQ and
Vocos against 16 discriminators from step 0, 50 epochs of one-second clips, 20 on each of 8 devices. Quantizer and
schedule follow recipes.stable: the networks warm up to 1e-4 and anneal, gradients are clipped, W has a constant 1e-3,
rows of C restart; not yet run at this size. `:65k,paper` is the paper's recipe, a constant 1e-4 for everything and no
clipping; users of the official code report losses that are not finite after 20,000 steps of it, against which
`--config.optimizer.clip_norm=1 --config.schedule.warmup_fraction=0.02` add clipping and warm-up alone. Spectra, their
inverse, the LSTM, distances and losses are float32 whatever the compute type.
docs/LIBRITTS.md says how to prepare LibriTTS. A GPU needs the extra `audio` too: pip install 'simvq_jax[gpu,audio]'.

Needs: time and memory were not measured on an accelerator yet; where memory is short, raise --config.accumulate.

Expect (the paper's figures on test-clean / test-other; ours are not measured yet):
    K       kbit/s  utilization  UTMOS      PESQ       STOI     V/UV F1
    4k      0.9     100 / 100%   4.00/3.51  2.33/2.08  .91/.88  .94/.91
    8k      0.975   99.4/99.4%   4.03/3.52  2.42/2.15  .92/.88  .94/.92
    65k     1.2     99.4/99.0%   4.03/3.52  2.54/2.26  .93/.90  .94/.92
    262k    1.35    95.6/94.7%   4.03/3.53  2.61/2.31  .93/.90  .95/.93
"""

from configs import common, recipes

SIZES = {"4k": 4096, "8k": 8192, "65k": 65_536, "262k": 262_144}
CLIPS = 354_780  # recordings of the train archives


def get_config(argument: str = "65k"):
    """argument: "4k", "8k", "65k" or "262k", and ",paper" after it for the paper's recipe."""
    size, paper = recipes.split("libritts24k_simvq.py", argument, SIZES)
    config = common.get_config()
    config.dtype = "bfloat16"
    config.batch_size = 160
    config.steps = 50 * -(-CLIPS // config.batch_size)

    config.data.source = "tfds:libritts24k"
    config.data.eval_limit = 256
    config.data.eval_batch_size = 32

    config.model.kind = "seanet_vocos"
    config.model.width = 32
    config.model.residual_blocks = 1

    config.quantizer.codebook_size = SIZES[size]
    config.quantizer.dim = 512
    config.losses.l1 = 0.0
    config.losses.quantizer = 1000.0
    config.discriminator.weight = 1.0
    recipes.stable(config, transform_rate=1e-3, warmup_fraction=0.02)
    if paper:
        recipes.paper(config)
    return config
