"""Names and layouts of the official PyTorch SimVQ, and its networks with the reference weights.

Where the official code and ours name the same tensor differently, this is the only table that says so.
Convolutions are [out, in, h, w] there and (h, w, in, out) here, linear layers [out, in] and (in, out).
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import detrand
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from simvq_jax.discriminators.patch import PatchGAN
from simvq_jax.models.cnn import Decoder, Encoder
from simvq_jax.models.tokenizer import Autoencoder
from simvq_jax.quantize import SimVQ

# jit for programs that run once or twice, on which the compiler's usual effort would be most of a test's time.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)

DISCRIMINATOR = "loss.discriminator."
NETWORKS = ("encoder.", "decoder.", "quantize.", DISCRIMINATOR)
CODEBOOK = "quantize.embedding.weight"
BASIS = "quantizer.basis"

# Tried in turn on the name without its last part ("weight" or "bias"); the first that matches the whole counts.
MODULES = (
    (r"(encoder|decoder)\.(?:down|up)\.(\d)\.block\.(\d)\.(norm\d|conv\d)", r"\1.{level}\2_block\3.\4"),
    (r"(encoder|decoder)\.(?:down|up)\.(\d)\.block\.(\d)\.nin_shortcut", r"\1.{level}\2_block\3.skip"),
    (r"(encoder|decoder)\.mid_block\.(\d)\.(norm\d|conv\d)", r"\1.mid_block\2.\3"),
    (r"(encoder|decoder)\.(conv_in|norm_out|conv_out)", r"\1.\2"),
    (r"encoder\.down\.(\d)\.downsample", r"encoder.down\1_downsample"),
    (r"decoder\.up\.(\d)\.upsample\.conv1", r"decoder.up\1_upsample"),
    (r"quantize\.embedding_proj", r"quantizer.transform"),
)
# Positions in the official discriminator's nn.Sequential; those left out are activations.
PATCHGAN = {0: "conv0", 2: "conv1", 3: "norm1", 5: "conv2", 6: "norm2", 8: "conv3", 9: "norm3", 11: "conv4"}
# The discriminator's running means serve its evaluation mode, which ours has none of.
WITHOUT_COUNTERPART = re.compile(r"loss\.discriminator\.main\.[369]\.(running_mean|running_var|num_batches_tracked)")


class Official(NamedTuple):
    """Our trees with the official values: the tokenizer's "params" and "codebook", and the discriminator's params."""

    params: Any
    codebook: Any
    discriminator: Any


def our_path(name: str) -> tuple[str, ...]:
    """Official name -> path in the params (in the collection "codebook" for the frozen codes). KeyError if unknown."""
    if name == CODEBOOK:
        return tuple(BASIS.split("."))
    module, _, leaf = name.rpartition(".")
    path = _discriminator_path(module) if name.startswith(DISCRIMINATOR) else _tokenizer_path(module)
    if path is None or leaf not in ("weight", "bias"):
        raise KeyError(f"{name} is no tensor of the official networks.")
    weight = "scale" if path[-1].startswith("norm") else "kernel"
    return (*path, weight if leaf == "weight" else "bias")


def _tokenizer_path(module: str) -> tuple[str, ...] | None:
    for pattern, ours in MODULES:
        match = re.fullmatch(pattern, module)
        if match:
            level = "down" if module.startswith("encoder") else "up"
            return tuple(match.expand(ours.replace("{level}", level)).split("."))
    return None


def _discriminator_path(module: str) -> tuple[str, ...] | None:
    match = re.fullmatch(r"loss\.discriminator\.main\.(\d+)", module)
    ours = PATCHGAN.get(int(match[1])) if match else None
    return None if ours is None else (ours,)


def to_ours(name: str, value):
    """An official tensor in our layout."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 and name != CODEBOOK else value


def to_official(name: str, value):
    """The inverse of `to_ours`."""
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T if value.ndim == 2 and name != CODEBOOK else value


def network_names(described: dict) -> list[str]:
    """Official names that have a counterpart here; `described` is the content of a *_keys.json."""
    names = [name for name in described["state_dict"] if name.startswith(NETWORKS)]
    return [name for name in names if not WITHOUT_COUNTERPART.fullmatch(name)]


def official_trees(described: dict, value: Callable[[str, tuple[int, ...]], np.ndarray]) -> Official:
    """Our trees from `value(official name, official shape)`. KeyError on a name without a known counterpart."""
    parts = Official({}, {}, {})
    for name in network_names(described):
        part = parts.discriminator if name.startswith(DISCRIMINATOR) else parts.params
        part = parts.codebook if name == CODEBOOK else part
        path = our_path(name)
        if path in part:
            raise KeyError(f"{name} is a second tensor for {path}.")
        part[path] = to_ours(name, value(name, tuple(described["state_dict"][name][0])))
    return Official(*(flax.traverse_util.unflatten_dict(part) for part in parts))


def official_variables(described: dict, tag: str) -> Official:
    """The reference weights: tag "A.main", or "A.ema" for the averaged ones (which share the frozen codes)."""

    def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return detrand.weight_for_key("A.ema" if name == CODEBOOK else tag, name, shape, described["gains"])

    return jax.tree.map(jnp.asarray, official_trees(described, value))


def by_official_name(described: dict, trees: Official) -> dict[str, np.ndarray]:
    """Leaves of our trees under their official names and in official layout; empty trees are left out.

    Raises KeyError where a tree lacks a tensor or has one more: neither may go unseen.
    """
    flat = Official(*(flax.traverse_util.flatten_dict(tree) for tree in trees))
    found = {}
    for name in network_names(described):
        part = flat.discriminator if name.startswith(DISCRIMINATOR) else flat.params
        part = flat.codebook if name == CODEBOOK else part
        if part:
            found[name] = to_official(name, np.asarray(part.pop(our_path(name))))
    left = [path for part in flat for path in part]
    if left:
        raise KeyError(f"without an official counterpart: {left}")
    return found


def official_autoencoder(described: dict, **fields) -> Autoencoder:
    """The tokenizer of a *_keys.json; fields: of encoder and decoder alike, as dtype or remat."""
    model, quantizer = described["ddconfig"], described["quantconfig"]
    shared = {
        "width": model["ch"],
        "multipliers": tuple(model["ch_mult"]),
        "residual_blocks": model["num_res_blocks"],
        **fields,
    }
    codes = SimVQ(quantizer["n_e"], quantizer["e_dim"], beta=quantizer["beta"], legacy=quantizer["legacy"])
    return Autoencoder(Encoder(latent_channels=model["z_channels"], **shared), codes, Decoder(**shared))


def official_discriminator(described: dict) -> PatchGAN:
    """The PatchGAN of a *_keys.json."""
    return PatchGAN(described["lossconfig"]["disc_ndf"])


def checks(value) -> np.ndarray:
    """What the reference files keep of a large tensor: [mean, deviation, l2 norm, first 8 values, zero padded]."""
    flat = np.asarray(value, np.float64).ravel()
    first = np.zeros(8)
    first[: flat.size] = flat[:8]
    return np.array([flat.mean(), flat.std(), np.linalg.norm(flat), *first])


def nhwc(pictures: np.ndarray) -> np.ndarray:
    """Official feature maps and pictures in our layout."""
    return pictures.transpose(0, 2, 3, 1)
