"""The config of speech, shrunk until a step takes milliseconds."""

from tiny import changed

from configs import speech_quickstart


def tiny_sound_config(**overrides):
    """overrides: `steps=2`, `data__sample_rate=8000`, ..."""
    config = speech_quickstart.get_config()
    config.update_from_flattened_dict(
        {
            "steps": 4,
            "batch_size": 8,
            "log_every": 1,
            "eval_every": 2,
            "checkpoint_every": 2,
            "data.sample_rate": 8000,
            "data.clip_seconds": 0.08,
            "data.eval_limit": 3,
            "data.eval_batch_size": 8,
            "model.width": 2,
            "model.ratios": (5, 4, 2),
            "model.decoder_width": 32,
            "model.decoder_hidden": 16,
            "model.decoder_depth": 1,
            "quantizer.codebook_size": 64,
            "quantizer.dim": 4,
            "quantizer.region_sources": 16,
            "discriminator.share": 1 / 32,
            "discriminator.start": 2,
            "discriminator.periods": (2,),
            "discriminator.resolutions": (256,),
            "discriminator.band_sizes": (256,),
        }
    )
    return changed(config, overrides)
