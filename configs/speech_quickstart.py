"""SimVQ on synthesised speech, on a laptop: 16 kHz, 200 tokens a second, 1,024 codes.

    bash launch/quickstart.sh speech
or  python -m simvq_jax.train --config=configs/speech_quickstart.py --workdir=runs/speech_quickstart
    python -m simvq_jax.train --config=configs/speech_quickstart.py:vq --workdir=runs/speech_quickstart_vq
    python -m simvq_jax.train --config=configs/speech_quickstart.py:paper --workdir=runs/speech_quickstart_paper

Needs two CPU cores. The discriminators, which cost more than the rest, take part in the last 60 of 1,440 steps.

Expect, on the 17 held-out recordings (sentences and voices that training never heard): mel distance 0.67 and STOI .83,
on eight of them 0.69 and .83 where the start has 2.03 and .40, and 99.6% of the codes in use (two cores, one run,
2026-11-28). Training's own mel loss ends at 0.53. It took 13.7 minutes, 16 with installation, evaluation and report, a
day earlier without restarts of rows, which ended at 0.65 and .85. docs/EXPERIMENTS.md has what was tried.
"""

from configs import common, recipes


def get_config(method: str = "simvq"):
    """method: as in quickstart.py."""
    recipes.check_method("speech_quickstart.py", method)
    config = common.get_config()
    config.steps = 1440
    config.batch_size = 16
    config.log_every = 20
    config.eval_every = 720
    config.checkpoint_every = 240

    config.data.source = "speech"
    config.data.sample_rate = 16_000
    config.data.clip_seconds = 0.5
    config.data.speed = (0.95, 1.06)  # other speeds are other voices, of which a few minutes have few
    config.data.threads = 2
    config.data.eval_limit = 8
    config.data.eval_batch_size = 4

    config.model.kind = "seanet_vocos"
    config.model.width = 8
    config.model.ratios = (2, 2, 4, 5)
    config.model.residual_blocks = 1
    config.model.lstm_layers = 1
    config.model.decoder_width = 128
    config.model.decoder_hidden = 384
    config.model.decoder_depth = 4

    config.quantizer.codebook_size = 1024
    config.quantizer.dim = 64
    config.losses.l1 = 0.0
    config.losses.quantizer = 100.0
    config.discriminator.share = 1 / 32
    config.discriminator.start = 1380
    config.discriminator.weight = 1.0
    config.discriminator.periods = (2, 3)
    config.discriminator.resolutions = (512,)
    config.discriminator.band_sizes = ()  # compiling for them takes half a minute

    config.optimizer.kind = "muon"
    config.optimizer.learning_rate = 1.2e-2
    config.discriminator.learning_rate = 1e-3
    config.schedule.discriminator_kind = "constant"  # theirs begins where the networks' has nearly come to 0
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.99
    config.optimizer.ema_decay = 0.98
    recipes.stable(config, transform_rate=3e-2, warmup_fraction=0.1)
    if method == "vq":
        recipes.vanilla(config)
    if method == "paper":
        config.optimizer.kind, config.optimizer.learning_rate = "adam", 1e-3  # Muon's rate would be too large for it
        recipes.paper(config)
    return config
