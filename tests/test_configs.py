"""Every experiment builds at full size, overrides known keys with their types, and says how to start it."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs import common, recipes, speech_quickstart
from simvq_jax import build
from simvq_jax.cli import flatten
from simvq_jax.losses.objectives import SoundObjective

FOLDER = Path(common.__file__).parent
FILES = sorted(file for file in FOLDER.glob("*.py") if file.stem not in ("__init__", "common", "recipes"))
SIZES = {"1k": 1024, "8k": 8192, "65k": 65_536, "262k": 262_144}
METHODS = ["simvq", "vq", "paper"]
ARGUMENTS = {
    "quickstart": METHODS,
    "photos_vit": METHODS,
    "speech_quickstart": METHODS,
    "imagenet128_simvq": [*SIZES, "65k,paper"],
    "imagenet128_vq": [*SIZES, "65k,paper"],
    "imagenet128_vit": [*SIZES, "65k,paper"],
    "libritts24k_simvq": ["4k", "8k", "65k", "262k", "65k,paper"],
}
CASES = [(file, argument) for file in FILES for argument in [None, *ARGUMENTS.get(file.stem, [])]]


def module_of(file):
    spec = importlib.util.spec_from_file_location("experiment", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_of(file, argument):
    return module_of(file).get_config(*([argument] if argument else []))


def name(value):
    return value.stem if isinstance(value, Path) else str(value)


@pytest.mark.parametrize(("file", "argument"), CASES, ids=name)
@pytest.mark.slow
def test_a_config_builds_at_full_size(file, argument):
    """Nothing is computed: the state is traced for its shapes alone."""
    config = config_of(file, argument)
    networks, optimizers = build.build_networks(config), build.build_optimizers(config)
    weights = build.build_loss_weights(config)
    objective = build.build_objective(config)
    assert weights.quantizer > 0
    if isinstance(objective, SoundObjective):
        assert objective.mel > 0
    else:
        assert objective.l1 + objective.l2 > 0
    state = build.state_shapes(config, networks, optimizers)
    size, dim = config.quantizer.codebook_size, config.quantizer.dim
    if config.quantizer.kind == "vq":
        assert state.generator.params["quantizer"]["codebook"].shape == (size, dim) and not state.codebook
    else:
        kept = state.codebook_stats if config.quantizer.restart_after else state.codebook
        assert kept["quantizer"]["basis"].shape == (size, dim)
        assert state.generator.params["quantizer"]["transform"]["kernel"].shape == (dim, dim)
    assert state.codebook_stats["quantizer"]["age"].shape == (size,)
    assert bool(state.discriminator.params) == config.discriminator.enabled
    build.check_ranges(config)
    assert config.data.resize_short == 0 or config.data.resize_short >= config.data.size


@pytest.mark.parametrize(("file", "argument"), CASES, ids=name)
def test_every_key_exists_in_common_with_the_same_type(file, argument):
    defaults, values = flatten(common.get_config()), flatten(config_of(file, argument))
    assert values.keys() == defaults.keys()
    assert {key: type(value) for key, value in values.items()} == {k: type(v) for k, v in defaults.items()}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_config_says_how_to_start_it(file):
    docstring = module_of(file).__doc__
    assert f"python -m simvq_jax.train --config=configs/{file.name}" in docstring
    assert "--workdir=runs/" in docstring
    for argument in ARGUMENTS.get(file.stem, []):
        assert argument in docstring.lower()


@pytest.mark.parametrize("file", FILES, ids=name)
def test_every_config_tested_is_listed_with_its_arguments(file):
    """A new file that takes an argument must say here which."""
    takes_argument = module_of(file).get_config.__code__.co_argcount > 0
    assert takes_argument == (file.stem in ARGUMENTS)


@pytest.mark.parametrize("file", [file for file in FILES if file.stem in ARGUMENTS], ids=name)
def test_an_unknown_argument_gets_one_sentence(file):
    with pytest.raises(ValueError, match=rf"{file.name}:colour is unknown") as caught:
        config_of(file, "colour")
    assert "\n" not in str(caught.value)


def test_the_two_methods_of_an_experiment_differ_in_the_method_alone():
    def differences(a, b):
        a, b = flatten(a), flatten(b)
        return {key for key in a if a[key] != b[key]}

    for file in ("quickstart.py", "photos_vit.py"):
        pair = [config_of(FOLDER / file, method) for method in ("simvq", "vq")]
        assert differences(*pair) == {"quantizer.kind", "quantizer.restart_after"}
    for argument, restarts in (("65k", {"quantizer.restart_after"}), ("65k,paper", set())):
        pair = [config_of(FOLDER / f"imagenet128_{kind}.py", argument) for kind in ("simvq", "vq")]
        assert differences(*pair) == {"quantizer.kind"} | restarts


@pytest.mark.parametrize("argument", SIZES)
def test_the_paper_s_codebook_sizes(argument):
    config = config_of(FOLDER / "imagenet128_simvq.py", argument)
    assert config.quantizer.codebook_size == SIZES[argument]
    assert config.steps == 50 * -(-1_281_167 // 256)  # epochs
    assert (config.batch_size, config.quantizer.dim, config.optimizer.ema_decay) == (256, 128, 0.999)


def test_the_paper_s_recipe_is_exact():
    """The official config's optimiser, and nothing of this project's in its quantizer."""
    config, defaults = config_of(FOLDER / "imagenet128_simvq.py", "65k,paper"), common.get_config()
    assert config.optimizer == defaults.optimizer and config.schedule == defaults.schedule
    quantizer = {key: value for key, value in config.quantizer.items() if value != defaults.quantizer[key]}
    assert quantizer == {"codebook_size": 65_536, "region_sources": 2048}  # the latter is of the region loss alone


@pytest.mark.parametrize("file", [file.stem for file in FILES if not file.stem.endswith("_vq")])
def test_the_recommended_recipe_is_the_default(file):
    config = config_of(FOLDER / f"{file}.py", None)
    assert config.quantizer.codebook_loss == "region" and config.quantizer.start_scale == 1
    assert config.quantizer.restart_after == 8 and config.optimizer.spread_limit == 1
    assert config.optimizer.transform_learning_rate > config.optimizer.learning_rate


@pytest.mark.parametrize("field", [{"trainable_basis": True}, {"hidden": 8}, {"basis_seed": 3}])
def test_what_admits_no_restarts_is_built_once_they_are_undone(field):
    config = config_of(FOLDER / "quickstart.py", None)
    config.quantizer.update(field)
    tokens = jnp.zeros((1, 2, config.quantizer.dim))
    with pytest.raises(ValueError, match=r"but restart_after is 8\.0, as in the recipe"):
        jax.eval_shape(build.build_quantizer(config, None).init, jax.random.key(0), tokens)
    recipes.without_restarts(config)
    jax.eval_shape(build.build_quantizer(config, None).init, jax.random.key(0), tokens)


def test_the_discriminator_may_have_a_schedule_of_its_own():
    config = speech_quickstart.get_config()
    rates = {}
    for kind in ("as_networks", "constant"):
        config.schedule.discriminator_kind = kind
        rates[kind] = float(build.build_schedules(config)["discriminator_learning_rate"](config.steps))
    assert rates["as_networks"] == 0 and abs(rates["constant"] / config.discriminator.learning_rate - 1) < 1e-6
