"""Every test runs on eight simulated CPU devices, with rank promotion forbidden and warnings as errors."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import sys
from pathlib import Path

import jax
import pytest
from absl import flags

jax.config.update("jax_numpy_rank_promotion", "raise")
if not flags.FLAGS.is_parsed():  # grain reads absl flags
    flags.FLAGS.mark_as_parsed()

FIXTURES = Path(__file__).parent / "fixtures"
sys.path.insert(0, str(FIXTURES))  # detrand, the formula behind the reference weights


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of reference values computed with the official PyTorch code (see its README)."""
    return FIXTURES
