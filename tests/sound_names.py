"""Names and layouts of the official PyTorch speech tokenizer, and ours with the reference weights.

Convolutions are [out, in, time] there and (time, in, out) here; of the two biases of an LSTM we have the sum.
"""

import re
from typing import Any

import detrand
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

NETWORKS = ("encoder.", "quantize.", "backbone.", "head.")
NOT_LEARNT = "head.istft.window"
CODEBOOK = "quantize.embedding.weight"
LEAVES = {"weight": "kernel", "weight_v": "kernel", "weight_g": "scale", "bias": "bias", "gamma": "gamma"}
NORMS = r".*norm\w*"

# Position in the official encoder's nn.Sequential -> our name; what lies between are activations. Four levels.
ENCODER = {0: "conv_in", 13: "memory", 15: "conv_out"}
for level in range(4):
    ENCODER |= {1 + 3 * level: f"down{level}_block0", 3 + 3 * level: f"down{level}"}
PARTS = {"block.1": "conv1", "block.3": "conv2", "shortcut": "skip"}
POSITION_NET = {i: f"position_block{i if i < 2 else i - 1}" for i in (0, 1, 3, 4)}
POSITION_NET |= {2: "position_attention", 5: "position_norm"}
ATTENTION = {"q": "query", "k": "key", "v": "value", "proj_out": "out"}
CONVNEXT = {"dwconv": "depthwise", "pwconv1": "mlp_in", "pwconv2": "mlp_out"}
DECODER = {"backbone.embed": "conv_in", "backbone.norm": "norm_in", "backbone.final_layer_norm": "norm_out"}


def our_path(name: str) -> tuple[str, ...]:
    """Official name -> path in our params, or ("quantizer", "basis") for the frozen codes. KeyError if unknown."""
    if name == CODEBOOK:
        return "quantizer", "basis"
    module, _, leaf = name.rpartition(".")
    if match := re.fullmatch(r"encoder\.model\.13\.lstm\.(weight_[ih]h|bias_[ih]h)_l(\d)", name):
        kind = {"weight_ih": "input_kernel", "weight_hh": "recurrent_kernel"}.get(match[1], "bias")
        return "encoder", "memory", f"lstm{match[2]}", kind
    path = _module_path(module)
    ours = LEAVES[leaf]
    return (*path, "scale" if ours == "kernel" and re.fullmatch(NORMS, path[-1]) else ours)


def _module_path(module: str) -> tuple[str, ...]:
    if match := re.fullmatch(r"encoder\.model\.(\d+)(?:\.(block\.[13]|shortcut))?\.conv\.conv", module):
        part = (PARTS[match[2]],) if match[2] else ()
        return "encoder", ENCODER[int(match[1])], *part, "conv"
    if module == "quantize.embedding_proj":
        return "quantizer", "transform"
    if match := re.fullmatch(r"backbone\.pos_net\.(\d)(?:\.(\w+))?", module):
        part = (ATTENTION.get(match[2], match[2]),) if match[2] else ()
        return "decoder", POSITION_NET[int(match[1])], *part
    if match := re.fullmatch(r"backbone\.convnext\.(\d+)(?:\.(\w+))?", module):
        part = (CONVNEXT.get(match[2], match[2]),) if match[2] else ()
        return "decoder", f"block{match[1]}", *part
    return "decoder", {**DECODER, "head.out": "head"}[module]


def to_ours(name: str, value):
    """An official tensor in our layout."""
    if name.endswith("weight_g"):
        return value.reshape(-1)
    path = our_path(name)
    if value.ndim == 3:
        value = value.transpose(2, 1, 0)
        return value[0] if path[-2] in ATTENTION.values() else value  # size 1 there, a dense layer here
    return value.T if value.ndim == 2 and name != CODEBOOK else value


def network_names(described: dict) -> list[str]:
    """Official names that have a counterpart here; `described` is the content of a *_keys.json."""
    return [name for name in described["state_dict"] if name.startswith(NETWORKS) and name != NOT_LEARNT]


def official_variables(described: dict, tag: str) -> dict[str, Any]:
    """Our "params" and "codebook" with the reference weights: tag "B.main", or "B.ema" for the averaged ones."""
    params: dict[tuple[str, ...], Any] = {}
    codebook = {}
    for name in network_names(described):
        of_tag = "B.ema" if name == CODEBOOK else tag
        shape = tuple(described["state_dict"][name][0])
        value = to_ours(name, detrand.weight_for_key(of_tag, name, shape, described["gains"]))
        path = our_path(name)
        if name == CODEBOOK:
            codebook[path] = value
        elif path in params and path[-1] != "bias":
            raise KeyError(f"{name} is a second tensor for {path}.")
        else:
            params[path] = params[path] + value if path in params else value
    trees = {"params": params, "codebook": codebook}
    return jax.tree.map(jnp.asarray, {name: flax.traverse_util.unflatten_dict(tree) for name, tree in trees.items()})


def by_official_name(described: dict, params) -> dict[str, np.ndarray]:
    """Leaves of our params by official name, in our layout; both biases of an LSTM have the one that we have."""
    flat = flax.traverse_util.flatten_dict(params)
    return {name: np.asarray(flat[our_path(name)]) for name in network_names(described) if name != CODEBOOK}


# The discriminators

DISCRIMINATORS = ("loss.multiperioddisc.", "loss.multiresddisc.", "loss.dac.")
PERIODS, RESOLUTIONS, BAND_SIZES = (2, 3, 5, 7, 11), (1024, 2048, 512), (2048, 1024, 512)


def discriminator_path(name: str) -> tuple[str, str, str]:
    """Official name -> path in the params of our `SoundDiscriminator`."""
    group, number, layer, leaf = re.fullmatch(
        r"loss\.(multiperioddisc|multiresddisc|dac)\.discriminators\.(\d)\.(.*)\.(weight_[gv]|bias)", name
    ).groups()
    i = int(number)
    module = {
        "multiperioddisc": lambda: f"period{PERIODS[i]}",
        "multiresddisc": lambda: f"resolution{RESOLUTIONS[i]}",
        "dac": lambda: f"dac_period{PERIODS[i]}" if i < 5 else f"dac_band{BAND_SIZES[i - 5]}",
    }[group]()
    if layer == "conv_post":
        ours = "conv_out"
    elif match := re.fullmatch(r"band_convs\.(\d)\.(\d)\.0", layer):
        ours = f"band{match[1]}_conv{match[2]}"
    else:
        ours = f"conv{layer.split('.')[1]}"
    return module, ours, LEAVES[leaf]


def discriminator_to_ours(name: str, value):
    """[out, in, h, w] -> (h, w, in, out); by resolution, frequency is h there and w here."""
    if value.ndim < 4 or name.endswith("weight_g"):
        return value.reshape(-1)
    return value.transpose(3, 2, 1, 0) if "multiresddisc" in name else value.transpose(2, 3, 1, 0)


def discriminator_names(described: dict) -> list[str]:
    return [name for name in described["state_dict"] if name.startswith(DISCRIMINATORS)]


def official_discriminators(described: dict, tag: str):
    """Params of our `SoundDiscriminator` with the reference weights."""
    flat = {}
    for name in discriminator_names(described):
        shape = tuple(described["state_dict"][name][0])
        value = detrand.weight_for_key(tag, name, shape, described["gains"])
        flat[discriminator_path(name)] = discriminator_to_ours(name, value)
    return jax.tree.map(jnp.asarray, flax.traverse_util.unflatten_dict(flat))
