"""Every test runs on eight simulated CPU devices, with rank promotion forbidden and warnings as errors."""

import os
from importlib.metadata import version

os.environ["JAX_PLATFORMS"] = "cpu"
# Toy programs run in milliseconds whatever their code, and compile ten times faster unoptimised.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        # Newer versions know no such flag, and refuse to start with one.
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
    ]
)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # the compilation cache compares CPU features aloud

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

# Tests build the same small programs over and over: each compiles once a session, in pytest's workers, which take the
# folder from the process that starts them, and in processes that tests start as well.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="simvq_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest
from absl import flags

jax.config.update("jax_numpy_rank_promotion", "raise")
if not flags.FLAGS.is_parsed():  # grain reads absl flags
    flags.FLAGS.mark_as_parsed()

TESTS = Path(__file__).parent
FIXTURES = TESTS / "fixtures"
sys.path[:0] = [str(TESTS), str(FIXTURES)]  # helpers beside the tests; detrand, the formula of reference weights


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the slow tests as well")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--all"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: --all runs it"))


@pytest.fixture(scope="module", autouse=True)
def no_programs_left():
    """Drops a module's programs behind it: each takes memory maps, of which Linux allows a process 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of reference values computed with the official PyTorch code (see its README)."""
    return FIXTURES


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory) -> Path:
    """A finished toy run, shared: do not change it."""
    from tiny import tiny_config

    from simvq_jax.train import train

    run = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny_config(), run)
    return run
