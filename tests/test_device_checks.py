"""The checks for a device, on the CPU at hand, compiled as users compile them: the suite's programs are unoptimised."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, **env):
    """Output of a command whose exit status must be 0."""
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        command, env={**plain, "JAX_PLATFORMS": "cpu", **env}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_search_is_exact_when_optimised():
    said = run(sys.executable, "-m", "benchmarks.device_check", "--most_codes=600")
    assert "2 of 2 checks passed." in said


@pytest.mark.slow
def test_shards_give_the_bits_of_the_whole_codebook_when_optimised():
    """What is fused with a sum may change its order, and with it the last bit: in optimised programs alone."""
    run(sys.executable, "tests/shards_agree.py")


def test_a_cpu_loads_no_pallas():
    said = run(
        sys.executable,
        "-c",
        "import sys, numpy as np, simvq_jax; simvq_jax.nearest_code(np.ones((2, 3), 'f'), np.ones((4, 3), 'f'));"
        " print([name for name in sys.modules if 'pallas' in name])",
    )
    assert said.split() == ["[]"]


@pytest.mark.slow
def test_every_part_of_gpu_check_runs(tmp_path):
    run("bash", "launch/gpu_check.sh", str(tmp_path), CHECK_ON_CPU="1", PYTHON=sys.executable)
    parts = {part["part"]: part for part in json.loads((tmp_path / "summary.json").read_text())["parts"]}
    assert {"kernels", "limits", "search", "lengths", "peers", "train_step", "recipe_cost", "training"} <= set(parts)
    assert all(part["exit_status"] == 0 for part in parts.values())
    for name in ("kernels", "limits", "search", "lengths", "peers", "train_step", "recipe_cost"):
        assert json.loads((tmp_path / f"{name}.json").read_text())
