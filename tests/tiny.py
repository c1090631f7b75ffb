"""The real config, shrunk until a step takes milliseconds."""

from configs import quickstart


def tiny_config(**overrides):
    """Quickstart's config at toy size with every optional part on. overrides: `steps=2`, `data__size=8`, ..."""
    config = quickstart.get_config()
    config.update_from_flattened_dict(
        {
            "steps": 4,
            "batch_size": 16,
            "log_every": 1,
            "eval_every": 2,
            "checkpoint_every": 2,
            "keep_checkpoints": 3,
            "data.size": 24,
            "data.eval_crops": 3,
            "data.eval_limit": 0,
            "data.eval_batch_size": 16,
            "model.width": 8,
            "model.norm_groups": 8,
            "model.multipliers": (1, 1, 2),
            "quantizer.codebook_size": 96,
            "quantizer.dim": 4,
            "quantizer.region_sources": 16,
            "losses.l1": 1.0,
            "discriminator.enabled": True,
            "discriminator.width": 4,
            "discriminator.lecam": 0.1,
        }
    )
    return changed(config, overrides)


def changed(config, overrides: dict):
    """The config with overrides, of which "__" is a dot."""
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
    return config


def flags_of(**overrides) -> list[str]:
    """The same config as command-line arguments over configs/quickstart.py."""
    from configs import quickstart as original
    from simvq_jax.cli import flatten

    before, after = flatten(original.get_config()), flatten(tiny_config(**overrides))
    return ["--config=configs/quickstart.py"] + [
        f"--config.{key}={str(value).replace(' ', '')}" for key, value in after.items() if before[key] != value
    ]
