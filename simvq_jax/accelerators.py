"""Which accelerators this machine has, whether or not jax can use them. Python's standard library alone at import:
launch/setup.sh asks this file what to install (`python simvq_jax/accelerators.py` prints gpu, tpu or nothing)."""

from pathlib import Path

NVIDIA = ("dev/nvidia[0-9]*", "usr/lib/wsl/lib/libcuda.so*")  # the second: Windows' Linux
PCI_DEVICES = "sys/bus/pci/devices"
GOOGLE = "0x1ae0"
TPU_CHIPS = {  # PCI device numbers, as jax looks for them
    "0x0027",  # v2, v3
    "0x0056",  # PLC
    "0x005e",  # v4
    "0x0062",  # v5p
    "0x0063",  # v5e
    "0x006f",  # v6e
    "0x0076",  # 7x
}


def extra_of(root: Path = Path("/")) -> str:
    """The extra of pyproject.toml that this machine wants: "tpu", "gpu" or ""."""
    if tpu_is_present(root):
        return "tpu"
    return "gpu" if nvidia_is_present(root) else ""


def nvidia_is_present(root: Path = Path("/")) -> bool:
    """Whether there is an NVIDIA GPU with its driver. root: of the file system."""
    return any(any(root.glob(pattern)) for pattern in NVIDIA)


def tpu_is_present(root: Path = Path("/")) -> bool:
    """Whether there is a TPU chip. root: of the file system."""
    for device in (root / PCI_DEVICES).glob("*"):
        if _word(device / "vendor") == GOOGLE and _word(device / "device") in TPU_CHIPS:
            return True
    return False


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def check_used(allow_cpu: bool, root: Path = Path("/")) -> None:
    """Raises RuntimeError if jax runs on the CPU beside an accelerator, unless that was asked for, by `allow_cpu` or by
    JAX_PLATFORMS."""
    import jax  # here, for this file must run before jax is installed

    extra = extra_of(root)
    if not extra or allow_cpu or jax.default_backend() != "cpu" or jax.config.values["jax_platforms"] == "cpu":
        return
    raise RuntimeError(
        f"this machine has an accelerator but jax {jax.__version__} runs on the CPU: install it with"
        f" pip install 'simvq_jax[{extra}]', or give --allow_cpu."
    )


if __name__ == "__main__":
    print(extra_of())
