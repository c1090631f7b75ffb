"""What `explain` says of a step is what the step does."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tiny import tiny_config

from configs import imagenet128_simvq, recipes
from simvq_jax import build
from simvq_jax.explain import CHIPS, chip_of, explain, seconds, state_bytes, text
from simvq_jax.mesh import make_mesh
from simvq_jax.search.nearest import MIDDLE_CODES
from simvq_jax.start import state_template

ROOT = Path(__file__).parents[1]


def bytes_of(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def state_of(config):
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    return build.state_shapes(config, networks, optimizers)


@pytest.mark.slow
def test_data_parallel_the_gradient_is_the_only_large_thing_sent():
    config = tiny_config(quantizer__codebook_size=2048, quantizer__dim=8)
    recipes.plain(config)
    found, state = explain(config), state_of(config)
    gradients = [row for row in found.collectives if row.purpose == "gradients"]
    # The discriminator judges pictures and reconstructions apart; this compiler adds the two after the exchange.
    generator, discriminator = bytes_of(state.generator.params), bytes_of(state.discriminator.params)
    assert sum(row.size for row in gradients) == pytest.approx(generator + 2 * discriminator, rel=0.01)
    rest = [row for row in found.collectives if row.purpose != "gradients"]
    assert max(row.largest for row in rest) <= 2048  # K integers, of how often each code is used
    assert all(row.axes == "data" and row.kind == "all-reduce" for row in found.collectives)
    assert found.state["params"] == generator + discriminator
    # Counted from shapes, and as compiled: what else a state holds are a few numbers.
    assert 0 <= found.arguments - sum(found.state.values()) - found.batch < 4096
    assert found.state["codebook"] == bytes_of(state.codebook) and not found.shardings


@pytest.mark.slow
def test_the_recipe_adds_sums_that_are_named():
    config = tiny_config(quantizer__codebook_size=2048, quantizer__dim=8)
    plain = tiny_config(quantizer__codebook_size=2048, quantizer__dim=8)
    recipes.plain(plain)
    largest = {}
    for row in explain(config).collectives:
        largest[row.purpose] = max(largest.get(row.purpose, 0), row.largest)
    pulls, restarts = sorted(largest.keys() - {row.purpose for row in explain(plain).collectives})
    assert pulls.startswith("region loss") and largest[pulls] == 2048
    assert restarts == "tokens at which codes restart"
    assert largest["spread of tokens and of codes"] <= 8  # measured in either case


@pytest.mark.slow
def test_fsdp_divides_the_state_but_not_the_quantizer():
    config = tiny_config(mesh__fsdp=8, model__width=32, model__norm_groups=32)
    found, whole = explain(config), explain(tiny_config(model__width=32, model__norm_groups=32))
    assert found.state["params"] < 0.5 * whole.state["params"]  # of a small network much is too small to split
    assert found.state["codebook"] == whole.state["codebook"] > 0  # whose rows restart, so that it is no constant
    assert found.state["statistics"] == whole.state["statistics"]
    for explanation in (found, whole):
        assert 0 <= explanation.arguments - sum(explanation.state.values()) - explanation.batch < 4096
    assert found.shardings and not [path for path, _, _ in found.shardings if "quantizer" in path]
    assert {"gradients", "parameters, gathered for use"} <= {row.purpose for row in found.collectives}


def test_fsdp_makes_the_state_of_the_imagenet_experiment_a_sixth():
    """On eight devices, by shapes alone."""
    config = imagenet128_simvq.get_config("65k")
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    split, whole = (
        sum(state_bytes(state_template(config, networks, optimizers, make_mesh(**axes))).values())
        for axes in ({"data": 1, "fsdp": 8}, {"data": 8})
    )
    assert split < 0.16 * whole


@pytest.mark.slow
def test_a_split_codebook_sends_two_numbers_and_a_row_a_token():
    """And a few rows, whatever the tokens, of which all shards take one middle of the codes."""
    config, whole = tiny_config(mesh__codebook=8), tiny_config()
    for either in (config, whole):
        recipes.plain(either)
    found = explain(config)
    (row,) = [row for row in found.collectives if row.purpose.startswith("sharded codebook")]
    tokens = config.batch_size * build.tokens_an_example(config)
    assert row.axes == "codebook" and row.arrays == 4
    assert row.size == tokens * 4 * (1 + 1 + config.quantizer.dim) + MIDDLE_CODES * 4 * config.quantizer.dim
    assert found.state["codebook"] * 8 == explain(whole).state["codebook"]


@pytest.mark.slow
def test_the_estimate_divides_by_the_speeds_that_are_given():
    config = tiny_config(discriminator__enabled=False)
    found = explain(config)
    chip = chip_of("v5e", 0.0, 100.0)
    assert chip == CHIPS["v5e"]._replace(link=100.0)
    assert seconds(found, chip, 0.5) == (found.flops / (197e12 * 0.5), found.wire / 100e9)
    page = text(found, config, chip, 0.5)
    assert (
        "8 devices, data=8, fsdp=1, codebook=1" in page
        and "of the step if nothing overlaps and all links are alike" in page
    )


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "simvq_jax.explain", "--config=configs/quickstart.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_mistakes_are_one_sentence():
    assert run("--chip=abacus").stderr == ("error: --chip=abacus is unknown: give one of v5e, v5p, v6e, a100, h100.\n")
    done = run("--devices=6", "--config.mesh.fsdp=4")
    assert done.returncode == 2 and "needs 4 devices but 6 are present" in done.stderr
