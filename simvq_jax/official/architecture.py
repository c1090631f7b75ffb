"""The architecture of an official checkpoint, read off its tensors' names and shapes."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from simvq_jax.discriminators.waveform import PeriodDiscriminator
from simvq_jax.models.pretrained.raw import WeightFileError

Shapes = Mapping[str, tuple[int, ...]]
OF_PICTURES, OF_SOUND = "image", "speech"
SIGNS = {OF_PICTURES: "encoder.conv_in.weight", OF_SOUND: "encoder.model.0.conv.conv.weight_v"}


class Architecture(NamedTuple):
    """modality: "image" or "speech". keys: config key -> value, all that shapes tell."""

    modality: str
    keys: dict[str, Any]


def architecture_of(shapes: Shapes, modality: str = "") -> Architecture:
    """modality: "image" or "speech"; "" = by the names.

    Raises WeightFileError where the names are of no official tokenizer, or not of that modality, and ValueError where
    there is no such modality.
    """
    if modality not in ("", *SIGNS):
        raise ValueError(f"modality is {modality!r} but must be one of {', '.join(SIGNS)}.")
    modality = modality or next((name for name, sign in SIGNS.items() if sign in shapes), "")
    if SIGNS.get(modality) not in shapes:
        signs = [SIGNS[modality]] if modality else list(SIGNS.values())
        raise WeightFileError(
            f"holds {len(shapes)} tensors ({', '.join(map(repr, list(shapes)[:3]))}, ...) but no"
            f" {' and no '.join(signs)}; give a checkpoint of the official SimVQ, and the modality it is of."
        )
    try:
        return Architecture(modality, {OF_PICTURES: _picture_keys, OF_SOUND: _sound_keys}[modality](shapes))
    except KeyError as error:
        raise WeightFileError(f"lacks {error.args[0]}; give the whole checkpoint of an official SimVQ.") from None
    except (IndexError, ValueError, ZeroDivisionError):  # too few axes, or none of some size
        raise WeightFileError(
            "has the names of an official SimVQ but tensors of other shapes; give the file as its code saved it."
        ) from None


def _picture_keys(shapes: Shapes) -> dict[str, Any]:
    width = shapes["encoder.conv_in.weight"][0]
    levels = _count(shapes, r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
    widths = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
    return {
        "model.kind": "cnn",
        "model.width": width,
        "model.multipliers": tuple(features // width for features in widths),
        "model.residual_blocks": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight"),
        **_quantizer_keys(shapes),
        **_patch_gan_keys(shapes),
    }


def _patch_gan_keys(shapes: Shapes) -> dict[str, Any]:
    main = "loss.discriminator.main"
    if f"{main}.0.weight" not in shapes:
        return {"discriminator.enabled": False}
    return {
        "discriminator.enabled": True,
        "discriminator.width": shapes[f"{main}.0.weight"][0],
        "discriminator.layers": _count(shapes, rf"{main}\.(\d+)\.weight", axes=1),  # of its norms
    }


def _sound_keys(shapes: Shapes) -> dict[str, Any]:
    strided = {
        int(match[1]): shapes[match[0]][-1]
        for match in (re.fullmatch(r"encoder\.model\.(\d+)\.conv\.conv\.weight_v", name) for name in shapes)
        if match
    }
    *_, last = sorted(strided)
    ratios = [strided[place] // 2 for place in sorted(strided)[1:-1]]  # kernels span two strides
    blocks = _count(shapes, r"encoder\.model\.(\d+)\.shortcut\.conv\.conv\.weight_v")
    period = "loss.multiperioddisc.discriminators.0.convs.0.weight_v"
    share = {"discriminator.share": shapes[period][0] / PeriodDiscriminator.widths[0]} if period in shapes else {}
    return {
        "model.kind": "seanet_vocos",
        "model.width": shapes[SIGNS[OF_SOUND]][0],
        "model.ratios": tuple(reversed(ratios)),
        "model.residual_blocks": blocks // max(len(ratios), 1),
        "model.lstm_layers": _count(shapes, rf"encoder\.model\.{last - 2}\.lstm\.weight_ih_l(\d+)"),
        "model.decoder_width": shapes["backbone.embed.weight"][0],
        "model.decoder_hidden": shapes["backbone.convnext.0.pwconv1.weight"][0],
        "model.decoder_depth": _count(shapes, r"backbone\.convnext\.(\d+)\.gamma"),
        **_quantizer_keys(shapes),
        "discriminator.enabled": bool(share),
        **share,
    }


def _quantizer_keys(shapes: Shapes) -> dict[str, Any]:
    codes, basis_dim = shapes["quantize.embedding.weight"]
    dim = shapes["quantize.embedding_proj.weight"][0]
    return {
        "quantizer.kind": "simvq",
        "quantizer.codebook_size": codes,
        "quantizer.dim": dim,
        "quantizer.basis_dim": 0 if basis_dim == dim else basis_dim,
        "quantizer.use_bias": "quantize.embedding_proj.bias" in shapes,
    }


def _count(shapes: Shapes, pattern: str, axes: int = 0) -> int:
    """How many different numbers the pattern's group has among the names, of tensors with so many axes; 0 = any."""
    names = [name for name, shape in shapes.items() if axes in (0, len(shape))]
    return len({match[1] for match in (re.fullmatch(pattern, name) for name in names) if match})
