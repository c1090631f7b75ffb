"""What the studies share: the quickstart's photographs, loss and recipe, at two sizes.

reduced: 200 steps of 32 crops and a network half as wide, for two CPU cores: 58 minutes for the 100 runs of whole.py
with --jobs=2, the quickstart before them not counted (Intel Xeon, 2026-11-28). full: 3,000 steps of 256 crops, a
network twice as wide and 128 dimensions, for a GPU. headline.py and largest.py have a size of their own.

A study's OF_METHODS are runs that it would share with methods.py: its own name for each, and the method's there. They
are made there alone, and stand in the tables of both.
"""

import copy

from configs import quickstart

CODEBOOK_SIZES = {"reduced": (1024, 8192), "full": (1024, 8192, 65_536, 262_144)}


def get_config(size: str = "reduced"):
    """size: "reduced" or "full"."""
    if size not in CODEBOOK_SIZES:
        raise ValueError(f"a study of size {size!r} is unknown: use one of {', '.join(CODEBOOK_SIZES)}.")
    config = quickstart.get_config()
    config.log_every = 10
    if size == "reduced":
        config.steps, config.batch_size = 200, 32
        config.model.width, config.model.norm_groups = 8, 8
        config.data.eval_crops = 128
        config.optimizer.learning_rate = 4e-3  # few steps: 1e-3 ends 4 dB lower
        config.optimizer.transform_learning_rate = 3e-2
        config.optimizer.ema_decay = 0.95  # .98 averages over a quarter of them: codes and tokens lag behind rows
        config.quantizer.region_sources = 1024
    else:
        config.steps, config.batch_size = 3000, 256
        config.model.width = 32
        config.quantizer.dim = 128
        config.optimizer.ema_decay = 0.99
        config.data.threads = 8
    config.checkpoint_every = config.steps
    config.eval_every = 0  # sweep.py has it evaluated once it is whole
    return config


def changes(recipe, config) -> dict:
    """What a function of recipes.py changes in a config."""
    theirs = copy.deepcopy(config)
    recipe(theirs)
    return differences(config, theirs)


def differences(config, other) -> dict:
    """What another config has otherwise, in the groups that studies change."""
    ours = _flat(config)
    return {key: value for key, value in _flat(other).items() if value != ours[key]}


def _flat(config) -> dict:
    """The config's groups by "group.key"; recipes and studies change nothing above them."""
    groups = ("quantizer", "optimizer", "schedule")
    return {f"{group}.{key}": value for group in groups for key, value in config[group].items()}
