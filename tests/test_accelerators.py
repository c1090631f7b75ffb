"""What this machine has is found without jax; and jax on the CPU beside it is a mistake."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from simvq_jax import accelerators

FILE = Path(accelerators.__file__)


def machine(root: Path, **pci: str) -> Path:
    for place, words in pci.items():
        vendor, device = words.split()
        folder = root / "sys/bus/pci/devices" / place
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "device").write_text(f"{device}\n")
    return root


def test_a_tpu_is_known_by_its_chip(tmp_path):
    assert accelerators.extra_of(machine(tmp_path / "v5e", a="0x8086 0x0063", b="0x1ae0 0x0063")) == "tpu"
    assert accelerators.extra_of(machine(tmp_path / "network_card", a="0x1ae0 0x0042")) == ""


def test_a_gpu_is_known_by_its_driver(tmp_path):
    (tmp_path / "dev").mkdir()
    assert accelerators.extra_of(tmp_path) == ""
    (tmp_path / "dev/nvidiactl").touch()  # the driver's, not a device
    assert accelerators.extra_of(tmp_path) == ""
    (tmp_path / "dev/nvidia3").touch()
    assert accelerators.extra_of(tmp_path) == "gpu"


def test_jax_on_the_cpu_beside_an_accelerator(tmp_path):
    accelerators.check_used(allow_cpu=False, root=tmp_path)
    root = machine(tmp_path, a="0x1ae0 0x0062")
    accelerators.check_used(allow_cpu=False, root=root)  # JAX_PLATFORMS=cpu asks for it
    asked = jax.config.jax_platforms
    jax.config.update("jax_platforms", None)
    try:
        with pytest.raises(RuntimeError, match=r"pip install 'simvq_jax\[tpu\]', or give --allow_cpu"):
            accelerators.check_used(allow_cpu=False, root=root)
        accelerators.check_used(allow_cpu=True, root=root)
    finally:
        jax.config.update("jax_platforms", asked)


def test_the_file_runs_without_any_package():
    done = subprocess.run([sys.executable, "-S", "-I", str(FILE)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("", "gpu", "tpu")
