"""Names of the official image tokenizer and of its PatchGAN."""

import itertools

from simvq_jax.discriminators.patch import PatchGAN
from simvq_jax.models.cnn import Decoder, Encoder
from simvq_jax.official.links import CONV2D, Link, Path, module_links, norm_links, quantizer_links

# What an official checkpoint has beside what is converted, and why that is left out.
LEFT_OUT = {
    r"loss\.perceptual_loss\..*": "LPIPS, read from its own two files",
    r"loss\.discriminator\.main\.\d+\.(running_mean|running_var|num_batches_tracked)": "running statistics of the"
    " discriminator, which judges by those of its batch",
    r"model_ema\.lossdiscriminator.*": "average of the discriminator, which nothing uses",
    r"model_ema\.(decay|num_updates)": "settings of the average",
}


def picture_links(encoder: Encoder, decoder: Decoder, use_bias: bool, discriminator: PatchGAN | None) -> list[Link]:
    """Every tensor of the official `VQModel` of these sizes. use_bias: of the codebook transform."""
    game = [] if discriminator is None else _patch_gan(discriminator.layers)
    return [*_encoder(encoder), *quantizer_links(use_bias), *_decoder(decoder), *game]


def _encoder(encoder: Encoder) -> list[Link]:
    widths = [encoder.width, *(encoder.width * multiplier for multiplier in encoder.multipliers)]
    levels = list(itertools.pairwise(widths))
    links = _conv("encoder.conv_in", ("encoder", "conv_in"), bias=False)
    for level, (before, width) in enumerate(levels):
        for i in range(encoder.residual_blocks):
            widens = i == 0 and before != width
            links += _residual(f"encoder.down.{level}.block.{i}", ("encoder", f"down{level}_block{i}"), widens)
        if level < len(levels) - 1:
            links += _conv(f"encoder.down.{level}.downsample", ("encoder", f"down{level}_downsample"))
    return [*links, *_middle("encoder", encoder.residual_blocks), *_end("encoder")]


def _decoder(decoder: Decoder) -> list[Link]:
    widths = [decoder.width * multiplier for multiplier in decoder.multipliers]
    links = [*_conv("decoder.conv_in", ("decoder", "conv_in")), *_middle("decoder", decoder.residual_blocks)]
    for level in reversed(range(len(widths))):
        before = widths[min(level + 1, len(widths) - 1)]
        for i in range(decoder.residual_blocks):
            widens = i == 0 and before != widths[level]
            links += _residual(f"decoder.up.{level}.block.{i}", ("decoder", f"up{level}_block{i}"), widens)
        if level > 0:
            links += _conv(f"decoder.up.{level}.upsample.conv1", ("decoder", f"up{level}_upsample"))
    return [*links, *_end("decoder")]


def _middle(side: str, residual_blocks: int) -> list[Link]:
    blocks = [_residual(f"{side}.mid_block.{i}", (side, f"mid_block{i}"), False) for i in range(residual_blocks)]
    return list(itertools.chain(*blocks))


def _end(side: str) -> list[Link]:
    return [*norm_links(f"{side}.norm_out", (side, "norm_out")), *_conv(f"{side}.conv_out", (side, "conv_out"))]


def _residual(official: str, path: Path, widens: bool) -> list[Link]:
    return [
        *norm_links(f"{official}.norm1", (*path, "norm1")),
        *_conv(f"{official}.conv1", (*path, "conv1"), bias=False),
        *norm_links(f"{official}.norm2", (*path, "norm2")),
        *_conv(f"{official}.conv2", (*path, "conv2"), bias=False),
        *(_conv(f"{official}.nin_shortcut", (*path, "skip"), bias=False) if widens else []),
    ]


def _patch_gan(layers: int) -> list[Link]:
    """By places in the official nn.Sequential, of which every layer but the first and last has a norm."""
    part, main = "discriminator", "loss.discriminator.main"
    links = _conv(f"{main}.0", ("conv0",), part=part)
    for i in range(1, layers + 1):
        links += _conv(f"{main}.{3 * i - 1}", (f"conv{i}",), bias=False, part=part)
        links += norm_links(f"{main}.{3 * i}", (f"norm{i}",), part)
    return [*links, *_conv(f"{main}.{3 * layers + 2}", (f"conv{layers + 1}",), part=part)]


def _conv(official: str, path: Path, bias: bool = True, part: str = "params") -> list[Link]:
    return module_links(official, path, CONV2D, bias=bias, part=part)
