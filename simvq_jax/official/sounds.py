"""Names of the official speech tokenizer (SEANet, SimVQ, Vocos) and of its discriminators."""

from simvq_jax.discriminators.waveform import BANDS, PeriodDiscriminator, SoundDiscriminator
from simvq_jax.models.seanet import SEANetEncoder
from simvq_jax.models.vocos import VocosDecoder
from simvq_jax.official.links import (
    CONV1D,
    CONV2D,
    DENSE,
    GAIN1D,
    GAIN2D,
    POINTWISE,
    SAME,
    SECOND_BIAS,
    SPECTRAL,
    Layout,
    Link,
    Path,
    module_links,
    norm_links,
    quantizer_links,
    weight_normed_links,
)

# What an official checkpoint has beside what is converted, and why that is left out.
LEFT_OUT = {
    r"decoder\..*|model_ema\.decodermodel.*": "SEANet decoder, which the official model never calls",
    r"head\.istft\.window|loss\.melspec_loss\..*": "windows and filters, which are computed here",
    r"loss\.dacdiscriminator\..*": "the tensors of loss.dac a second time",
    r"model_ema\.loss.*": "average of the discriminators, which nothing uses",
    r"model_ema\.(decay|num_updates)": "settings of the average",
}
RESOLUTION_LAYERS, BAND_LAYERS = 5, 5  # before the last one
POSITION_NET = ("block0", "block1", "attention", "block2", "block3")


def sound_links(
    encoder: SEANetEncoder, decoder: VocosDecoder, use_bias: bool, discriminator: SoundDiscriminator | None
) -> list[Link]:
    """Every tensor of the official speech `VQModel` of these sizes. use_bias: of the codebook transform."""
    game = [] if discriminator is None else _discriminators(discriminator)
    return [*_encoder(encoder), *quantizer_links(use_bias), *_decoder(decoder.depth), *game]


def _encoder(encoder: SEANetEncoder) -> list[Link]:
    """By places in the official nn.Sequential, in which activations have places too."""
    links = _seanet_conv("encoder.model.0", ("encoder", "conv_in"))
    place = 1
    for level in range(len(encoder.ratios)):
        for i in range(encoder.residual_blocks):
            path = ("encoder", f"down{level}_block{i}")
            for official, ours in (("block.1", "conv1"), ("block.3", "conv2"), ("shortcut", "skip")):
                links += _seanet_conv(f"encoder.model.{place}.{official}", (*path, ours))
            place += 1
        links += _seanet_conv(f"encoder.model.{place + 1}", ("encoder", f"down{level}"))
        place += 2
    for layer in range(encoder.lstm_layers):
        links += _lstm(f"encoder.model.{place}.lstm", layer)
    return [*links, *_seanet_conv(f"encoder.model.{place + 2}", ("encoder", "conv_out"))]


def _seanet_conv(official: str, path: Path) -> list[Link]:
    return weight_normed_links(f"{official}.conv.conv", (*path, "conv"), CONV1D, GAIN1D)


def _lstm(official: str, layer: int) -> list[Link]:
    path = ("encoder", "memory", f"lstm{layer}")
    return [
        Link(f"{official}.weight_ih_l{layer}", "params", (*path, "input_kernel"), DENSE),
        Link(f"{official}.weight_hh_l{layer}", "params", (*path, "recurrent_kernel"), DENSE),
        Link(f"{official}.bias_ih_l{layer}", "params", (*path, "bias"), SAME),
        Link(f"{official}.bias_hh_l{layer}", "params", (*path, "bias"), SECOND_BIAS),
    ]


def _decoder(depth: int) -> list[Link]:
    links = module_links("backbone.embed", ("decoder", "conv_in"), CONV1D)
    for place, ours in enumerate(POSITION_NET):
        part = _attention if ours == "attention" else _residual
        links += part(f"backbone.pos_net.{place}", ("decoder", f"position_{ours}"))
    links += norm_links(f"backbone.pos_net.{len(POSITION_NET)}", ("decoder", "position_norm"))
    links += norm_links("backbone.norm", ("decoder", "norm_in"))
    for i in range(depth):
        links += _convnext(f"backbone.convnext.{i}", ("decoder", f"block{i}"))
    links += norm_links("backbone.final_layer_norm", ("decoder", "norm_out"))
    return [*links, *module_links("head.out", ("decoder", "head"), DENSE)]


def _residual(official: str, path: Path) -> list[Link]:
    return [
        *norm_links(f"{official}.norm1", (*path, "norm1")),
        *module_links(f"{official}.conv1", (*path, "conv1"), CONV1D),
        *norm_links(f"{official}.norm2", (*path, "norm2")),
        *module_links(f"{official}.conv2", (*path, "conv2"), CONV1D),
    ]


def _attention(official: str, path: Path) -> list[Link]:
    links = norm_links(f"{official}.norm", (*path, "norm"))
    for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"), ("proj_out", "out")):
        links += module_links(f"{official}.{theirs}", (*path, ours), POINTWISE)
    return links


def _convnext(official: str, path: Path) -> list[Link]:
    return [
        Link(f"{official}.gamma", "params", (*path, "gamma"), SAME),
        *module_links(f"{official}.dwconv", (*path, "depthwise"), CONV1D),
        *norm_links(f"{official}.norm", (*path, "norm")),
        *module_links(f"{official}.pwconv1", (*path, "mlp_in"), DENSE),
        *module_links(f"{official}.pwconv2", (*path, "mlp_out"), DENSE),
    ]


def _discriminators(discriminator: SoundDiscriminator) -> list[Link]:
    """Vocos's by period and by resolution; of DAC's, first those by period, then those by band."""
    periods, layers = discriminator.periods, len(PeriodDiscriminator.widths)
    links: list[Link] = []
    for i, period in enumerate(periods):
        links += _judge(f"loss.multiperioddisc.discriminators.{i}", f"period{period}", layers, CONV2D)
    for i, (n_fft, _) in enumerate(discriminator.resolutions):
        links += _judge(f"loss.multiresddisc.discriminators.{i}", f"resolution{n_fft}", RESOLUTION_LAYERS, SPECTRAL)
    for i, period in enumerate(periods):
        links += _judge(f"loss.dac.discriminators.{i}", f"dac_period{period}", layers, CONV2D, ".0")
    for i, n_fft in enumerate(discriminator.band_sizes, start=len(periods)):
        official, ours = f"loss.dac.discriminators.{i}", f"dac_band{n_fft}"
        for band in range(len(BANDS) - 1):
            for layer in range(BAND_LAYERS):
                links += _judge_conv(f"{official}.band_convs.{band}.{layer}.0", (ours, f"band{band}_conv{layer}"))
        links += _judge_conv(f"{official}.conv_post", (ours, "conv_out"))
    return links


def _judge(official: str, ours: str, layers: int, layout: Layout, inside: str = "") -> list[Link]:
    """inside: behind each layer's place, where it lies in an nn.Sequential with its activation."""
    links: list[Link] = []
    for layer in range(layers):
        links += _judge_conv(f"{official}.convs.{layer}{inside}", (ours, f"conv{layer}"), layout)
    return [*links, *_judge_conv(f"{official}.conv_post", (ours, "conv_out"), layout)]


def _judge_conv(official: str, path: Path, layout: Layout = CONV2D) -> list[Link]:
    return weight_normed_links(official, path, layout, GAIN2D, part="discriminator")
