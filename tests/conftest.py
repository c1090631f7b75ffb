"""Every test runs on eight simulated CPU devices, with rank promotion forbidden and warnings as errors."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Toy programs run in milliseconds whatever their code, and compile five times faster unoptimised.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
    ]
)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # the compilation cache compares CPU features aloud

import sys
import tempfile
from pathlib import Path

import jax
import pytest
from absl import flags

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests build the same small programs over and over: each compiles once a session.
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="simvq_jax_tests_"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
if not flags.FLAGS.is_parsed():  # grain reads absl flags
    flags.FLAGS.mark_as_parsed()

TESTS = Path(__file__).parent
FIXTURES = TESTS / "fixtures"
sys.path[:0] = [str(TESTS), str(FIXTURES)]  # helpers beside the tests; detrand, the formula of reference weights


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
