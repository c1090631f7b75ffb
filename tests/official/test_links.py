"""Every official tensor has its place here and its way back: full-width and small, images and speech."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from simvq_jax import build, convert
from simvq_jax.official import Trees, architecture_of, counterpart, from_trees, into_trees
from simvq_jax.official.links import CONV2D, Link

FILES = ("A_image_full", "A_image_small", "A_image_tiny_lightning", "B_audio_full", "B_audio_small")


def described(fixtures: Path, name: str) -> dict[str, tuple[tuple[int, ...], str]]:
    stored = json.loads((fixtures / f"{name}_keys.json").read_text())["state_dict"]
    return {key: (tuple(shape), dtype) for key, (shape, dtype) in stored.items()}


def empty(fixtures: Path, name: str) -> dict[str, np.ndarray]:
    """A checkpoint of zeros that take no memory."""
    entries = described(fixtures, name).items()
    return {key: np.broadcast_to(np.zeros((), dtype), shape) for key, (shape, dtype) in entries}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.slow
def test_every_tensor_of_an_official_checkpoint_is_accounted_for(fixtures, name):
    """Nothing missing, nothing unknown, every shape right; and what is left out is what is not a network's."""
    found = empty(fixtures, name)
    conversion = convert.match(found, "", None, {})
    taken = len(conversion.official.weights) + len(conversion.official.average)
    assert taken + sum(conversion.official.left_out.values()) == len(found)
    parameters = [link for link in conversion.links if link.part == "params"]
    assert len(conversion.official.average) == len(parameters) > 0
    assert conversion.official.cast == {}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.slow
def test_trees_have_the_networks_shapes_and_go_back_to_the_same_names(fixtures, name):
    conversion = convert.match(empty(fixtures, name), "", None, {})
    trees = into_trees(conversion.official.weights, conversion.links)
    init = convert._initializer(conversion.config, conversion.networks)
    wanted = convert._trees(jax.eval_shape(init, jax.random.key(0)))

    def shapes(tree):
        return jax.tree.map(lambda leaf: leaf.shape, tree)

    for part in Trees._fields:
        assert shapes(getattr(trees, part)) == shapes(getattr(wanted, part)), part
    back = from_trees(trees, conversion.links)
    assert shapes(back) == shapes(conversion.official.weights)


@pytest.mark.parametrize("name", ["A_image_full", "B_audio_full"])
def test_the_paper_s_architecture_is_read_off_the_full_checkpoints(fixtures, name):
    """It equals the paper's configs, which nobody told it."""
    from configs import imagenet128_simvq, libritts24k_simvq
    from simvq_jax.cli import flatten

    paper = imagenet128_simvq if name.startswith("A") else libritts24k_simvq
    config = flatten(paper.get_config("8k,paper"))
    keys = architecture_of({key: shape for key, (shape, _) in described(fixtures, name).items()}).keys
    assert keys.pop("quantizer.codebook_size") == 1024
    assert keys == {key: config[key] for key in keys}
    assert len(keys) >= 11


def test_values_survive_both_ways(fixtures):
    """Random numbers in every official tensor of the speech tokenizer come back, but for an LSTM's two biases, of which
    the sum does."""
    name = "B_audio_small"
    rng = np.random.default_rng(0)
    found = {
        key: rng.standard_normal(shape).astype(np.float32)
        for key, (shape, _) in described(fixtures, name).items()
        if key.startswith(("encoder.", "quantize.", "backbone.", "head.out"))
    }
    conversion = convert.match(found, "", None, {})
    back = from_trees(into_trees(conversion.official.weights, conversion.links), conversion.links)
    assert back.keys() == found.keys()
    for key, value in found.items():
        if ".lstm.bias_hh" in key:
            assert not np.any(back[key])
        elif ".lstm.bias_ih" in key:
            np.testing.assert_array_equal(back[key], value + found[key.replace("_ih_", "_hh_")])
        else:
            np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_a_tensor_without_a_name_does_not_go_unseen():
    link = Link("a.weight", "params", ("a", "kernel"), CONV2D)
    kernel = np.zeros((3, 3, 2, 4))
    assert from_trees(Trees({"a": {"kernel": kernel}}, {}, {}), [link])["a.weight"].shape == (4, 2, 3, 3)
    with pytest.raises(KeyError, match="without an official name"):
        from_trees(Trees({"a": {"kernel": kernel, "bias": kernel}}, {}, {}), [link])
    with pytest.raises(KeyError):
        from_trees(Trees({}, {}, {}), [link])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"quantizer.kind": "vq"}, "the quantizer is VQ"),
        ({"quantizer.hidden": 8}, "a hidden layer"),
        ({"quantizer.trainable_basis": True}, "a trained basis"),
        ({"quantizer.stages": 2}, "the quantizer is ResidualQuantizer"),
        ({"model.kind": "vit"}, "encoder and decoder are ViTEncoder and ViTDecoder"),
    ],
)
def test_what_the_official_code_does_not_have_has_no_counterpart(changes, sentence):
    from configs import common

    config = common.get_config()
    config.update_from_flattened_dict(changes)
    networks = build.build_networks(config)
    with pytest.raises(ValueError, match=sentence):
        counterpart(networks.autoencoder, networks.discriminator)
