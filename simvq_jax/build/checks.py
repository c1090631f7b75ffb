"""What no module could use is told before anything is built, by the key's name."""

from simvq_jax import cli
from simvq_jax.build.networks import example_shape, of_sound, pixels_a_token, samples_a_token
from simvq_jax.data.sounds import check_limit

AT_LEAST_ONE = (
    "steps",
    "batch_size",
    "accumulate",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "max_skipped_in_a_row",
    "data.eval_batch_size",
    "data.threads",
    "model.width",
    "model.residual_blocks",
    "model.norm_groups",
    "model.patch",
    "model.depth",
    "model.heads",
    "model.lstm_layers",
    "model.decoder_width",
    "model.decoder_hidden",
    "model.decoder_depth",
    "data.sample_rate",
    "quantizer.codebook_size",
    "quantizer.dim",
    "quantizer.stages",
    "discriminator.width",
    "discriminator.layers",
)
NOT_NEGATIVE = (
    "eval_every",
    "losses.l1",
    "losses.l2",
    "losses.lpips",
    "losses.mel",
    "losses.multiscale_mel",
    "losses.quantizer",
    "discriminator.start",
    "discriminator.weight",
    "discriminator.lecam",
    "optimizer.clip_norm",
    "optimizer.spread_limit",
    "quantizer.activity_share",
    "quantizer.basis_dim",
    "quantizer.beta",
    "quantizer.diversity",
    "quantizer.entropy_weight",
    "quantizer.start_scale",
)
FACTORS = (  # in [0, 1)
    "optimizer.b1",
    "optimizer.b2",
    "optimizer.ema_decay",
    "model.dropout",
    "quantizer.ema_decay",
    "quantizer.moment_decay",
)


def check_ranges(config) -> None:
    """Raises ValueError, naming the key, on numbers that no module could use."""
    values = cli.flatten(config)
    for key in AT_LEAST_ONE:
        if not values[key] >= 1:
            raise ValueError(f"{key} is {values[key]} but must be at least 1.")
    for key in NOT_NEGATIVE:
        if not values[key] >= 0:
            raise ValueError(f"{key} is {values[key]} but must be at least 0.")
    for key in FACTORS:
        if not 0 <= values[key] < 1:
            raise ValueError(f"{key} is {values[key]} but must lie in [0, 1).")
    if values["discriminator.enabled"] and values["discriminator.start"] >= values["steps"]:
        raise ValueError(
            f"discriminator.start is {values['discriminator.start']} but steps {values['steps']}, so the discriminator"
            " would never take part: lower discriminator.start, or set discriminator.enabled to False."
        )
    if of_sound(config):
        _check_sound(config)
    else:
        _check_pictures(config)


def _check_pictures(config) -> None:
    losses = config.losses
    if not (losses.l1 > 0 or losses.l2 > 0 or (losses.lpips > 0 and losses.lpips_vgg)):
        raise ValueError("losses.l1 and losses.l2 are 0 and no LPIPS is given but one must be: set losses.l1, as 1.")
    if len(config.data.crop_scale) != 2:
        raise ValueError(f"data.crop_scale is {config.data.crop_scale} but must be two shares, as (0.5, 1.0).")
    if not config.model.multipliers:
        raise ValueError("model.multipliers is empty but must name the width of one level at least.")
    factor = pixels_a_token(config)
    if config.data.size < 1 or config.data.size % factor:
        raise ValueError(
            f"data.size is {config.data.size} but must be a multiple of {factor}, the pixels a side of a token."
        )


def _check_sound(config) -> None:
    if not config.model.ratios or min(config.model.ratios) < 1:
        raise ValueError(f"model.ratios is {config.model.ratios} but must be strides of at least 1.")
    check_limit(config.data.max_seconds, "data.max_seconds")
    if config.discriminator.enabled:
        _check_sound_discriminators(config.discriminator)
    if samples_a_token(config) < 2:
        raise ValueError(f"model.ratios is {config.model.ratios} but must multiply to 2 samples a token or more.")
    if not config.losses.mel + config.losses.multiscale_mel > 0:
        raise ValueError("losses.mel and losses.multiscale_mel are 0 but one must be above: set losses.mel, as 45.")
    sizes = [1024, *([2048] if config.losses.multiscale_mel > 0 else [])]
    if config.discriminator.enabled:
        sizes += [*config.discriminator.resolutions, *config.discriminator.band_sizes]
    samples, (clip,) = max(sizes) // 2 + 1, example_shape(config)
    if clip < samples:
        raise ValueError(
            f"data.clip_seconds is {config.data.clip_seconds:g}, {clip} samples, but losses and discriminators look at"
            f" spectra of {max(sizes)}, which need {samples}: make clips longer."
        )


def _check_sound_discriminators(discriminator) -> None:
    if not discriminator.share > 0:
        raise ValueError(f"discriminator.share is {discriminator.share} but must be above 0.")
    for key, fewest in (("periods", 1), ("resolutions", 1), ("band_sizes", 0)):
        numbers = discriminator[key]
        if len(numbers) < fewest or not all(isinstance(n, int) and n >= 1 for n in numbers):
            raise ValueError(
                f"discriminator.{key} is {numbers} but must be {fewest} or more whole numbers, each of at least 1."
            )
