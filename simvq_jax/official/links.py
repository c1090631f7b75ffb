"""One tensor under two names, the official code's and ours, and in the two layouts."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Array = np.ndarray
Path = tuple[str, ...]


class Layout(NamedTuple):
    """How a tensor's axes lie: both ways between the official array and ours."""

    to_ours: Callable[[Array], Array]
    to_official: Callable[[Array], Array]


def _axes(*to_ours: int) -> Layout:
    """Our axes by their places in the official array."""
    return Layout(lambda a: a.transpose(to_ours), lambda a: a.transpose(np.argsort(to_ours)))


def _gain(axes: int) -> Layout:
    """A factor for each output channel: (out, 1, ...) there and (out,) here."""
    return Layout(lambda a: a.reshape(-1), lambda a: a.reshape(-1, *[1] * (axes - 1)))


SAME = Layout(lambda a: a, lambda a: a)
DENSE = _axes(1, 0)  # [out, in]
CONV1D = _axes(2, 1, 0)  # [out, in, t]
CONV2D = _axes(2, 3, 1, 0)  # [out, in, h, w]
SPECTRAL = _axes(3, 2, 1, 0)  # [out, in, frequency, time]; frequency is our last axis
POINTWISE = Layout(lambda a: a[:, :, 0].T, lambda a: a.T[:, :, None])  # a convolution of size 1, a dense layer here
GAIN1D, GAIN2D = _gain(3), _gain(4)
SECOND_BIAS = Layout(lambda a: a, np.zeros_like)  # of torch's two of an LSTM, of which we have the sum


class Link(NamedTuple):
    """official: name in the official state dict. part: the field of `Trees` that `path` leads into.

    Links of one path add up.
    """

    official: str
    part: str
    path: Path
    layout: Layout


class Trees(NamedTuple):
    """Parameters of the tokenizer, constants of its codebook, parameters of the discriminator."""

    params: Any
    codebook: Any
    discriminator: Any


def module_links(
    official: str, path: Path, layout: Layout, weight: str = "kernel", bias: bool = True, part: str = "params"
) -> list[Link]:
    """A layer's "weight" and "bias"."""
    links = [Link(f"{official}.weight", part, (*path, weight), layout)]
    return [*links, Link(f"{official}.bias", part, (*path, "bias"), SAME)] if bias else links


def norm_links(official: str, path: Path, part: str = "params") -> list[Link]:
    """A norm's scale and shift."""
    return module_links(official, path, SAME, "scale", part=part)


def weight_normed_links(official: str, path: Path, layout: Layout, gain: Layout, part: str = "params") -> list[Link]:
    """A weight-normed layer's direction, length and bias."""
    return [
        Link(f"{official}.weight_v", part, (*path, "kernel"), layout),
        Link(f"{official}.weight_g", part, (*path, "scale"), gain),
        Link(f"{official}.bias", part, (*path, "bias"), SAME),
    ]


def quantizer_links(use_bias: bool) -> list[Link]:
    """The frozen basis C, and W and b."""
    basis = Link("quantize.embedding.weight", "codebook", ("quantizer", "basis"), SAME)
    return [basis, *module_links("quantize.embedding_proj", ("quantizer", "transform"), DENSE, bias=use_bias)]


def into_trees(weights: Mapping[str, Array], links: Iterable[Link]) -> Trees:
    """Our trees of the official arrays. KeyError where one is not there."""
    parts: dict[str, dict[Path, Array]] = {part: {} for part in Trees._fields}
    for link in links:
        flat, value = parts[link.part], link.layout.to_ours(weights[link.official])
        flat[link.path] = flat[link.path] + value if link.path in flat else value
    return Trees(**{part: unflatten_dict(flat) for part, flat in parts.items()})


def from_trees(trees: Trees, links: Iterable[Link]) -> dict[str, Array]:
    """Official name -> array in the official layout.

    Raises KeyError where a tree lacks a tensor that a link names, or has one that none names: neither may go unseen.
    """
    parts = {part: flatten_dict(tree) for part, tree in trees._asdict().items()}
    unnamed = {(part, path) for part, flat in parts.items() for path in flat}
    found = {}
    for link in links:
        found[link.official] = link.layout.to_official(np.asarray(parts[link.part][link.path]))
        unnamed.discard((link.part, link.path))
    if unnamed:
        raise KeyError(f"without an official name: {sorted(unnamed)}")
    return found


def official_shapes(trees: Trees, links: Iterable[Link]) -> dict[str, tuple[int, ...]]:
    """Official name -> shape that the tensor must have there. trees: of anything with a shape."""

    def empty(leaf) -> Array:
        return np.broadcast_to(np.float32(0), leaf.shape)  # takes no memory

    parts = {
        part: {path: empty(leaf) for path, leaf in flatten_dict(tree).items()} for part, tree in trees._asdict().items()
    }
    return {link.official: link.layout.to_official(parts[link.part][link.path]).shape for link in links}
