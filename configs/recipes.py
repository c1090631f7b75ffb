"""How SimVQ's quantizer is trained: this project's recipe, the default of every SimVQ config, and the paper's.

Why the first: with W at the networks' rate, as in the paper, the codebook collapses on a small budget, for the tokens
move faster than the codes can follow; and where W alone moves them, as many codes are used, but unevenly, until rows of
the basis restart (docs/RESULTS.md).
"""

METHODS = ("simvq", "vq", "paper")  # of the experiments for a laptop: "vq" is the baseline that collapses


def check_method(file: str, method: str) -> None:
    """Raises ValueError on a method that is not in METHODS."""
    if method not in METHODS:
        raise ValueError(f"{file}:{method} is unknown: use one of {', '.join(METHODS)}.")


def stable(config, transform_rate: float, warmup_fraction: float) -> None:
    """Codes that follow the tokens: W starts at their scale, lets the codes spread as far as they do, and has a
    constant rate of its own; codes out of use are pulled to tokens, and rows of the basis whose codes tokens have long
    passed by are replaced by such as W maps near tokens; the networks warm up and anneal, and gradients are clipped.

    transform_rate: of W. warmup_fraction: of the networks' steps.
    """
    config.quantizer.codebook_loss = "region"
    config.quantizer.region_sources = 2048
    config.quantizer.start_scale = 1.0
    config.quantizer.restart_after = 8.0
    config.optimizer.transform_learning_rate = transform_rate
    config.optimizer.spread_limit = 1.0
    config.optimizer.clip_norm = 1.0
    config.schedule.transform_kind = "constant"
    config.schedule.kind = "warmup_cosine"
    config.schedule.warmup_fraction = warmup_fraction


def without_restarts(config, transform_rate: float = 3e-2) -> None:
    """Undoes a part of `stable`, which a basis from a seed or a file, a trained one and an MLP do not admit: no row is
    replaced, and W keeps the codes a little closer together than the tokens are.

    transform_rate: of W, which alone brings codes into use then and needs a larger one; by default that of the studies,
    thirty times their networks' or less.
    """
    config.quantizer.restart_after = 0.0
    config.optimizer.transform_learning_rate = transform_rate
    config.optimizer.spread_limit = 0.9


def vanilla(config) -> None:
    """Free codes that a gradient alone moves: the baseline that collapses, with the schedules as they are."""
    config.quantizer.kind = "vq"
    config.quantizer.restart_after = 0.0


def plain(config) -> None:
    """The quantizer as published, with the schedules as they are: torch's start, a loss over tokens, and W at the peak
    of the networks' rate, which it keeps where its schedule is constant."""
    config.quantizer.codebook_loss = "token"
    config.quantizer.start_scale = 0.0
    config.quantizer.restart_after = 0.0
    config.optimizer.spread_limit = 0.0
    config.optimizer.transform_learning_rate = config.optimizer.learning_rate


def paper(config) -> None:
    """The paper's: the plain quantizer, one constant rate for everything, and Adam's betas .5 and .9.

    W has the networks' rate as it is here: who overrides optimizer.learning_rate overrides transform_learning_rate too.
    """
    plain(config)
    config.optimizer.b1, config.optimizer.b2, config.optimizer.clip_norm = 0.5, 0.9, 0.0
    config.schedule.kind = config.schedule.transform_kind = "constant"
    config.schedule.warmup_fraction = config.schedule.transform_warmup_fraction = 0.0


def split(file: str, argument: str, sizes) -> tuple[str, bool]:
    """("65k", False) of "65k", ("65k", True) of "65k,paper". Raises ValueError on a size that is not in `sizes`."""
    size, comma, rest = argument.partition(",")
    if size not in sizes or (comma and rest != "paper"):
        raise ValueError(
            f"{file}:{argument} is unknown: give one of {', '.join(sizes)}, then ',paper' for the paper's recipe."
        )
    return size, rest == "paper"
