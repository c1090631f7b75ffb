"""Addresses on the Hugging Face hub, by the optional package huggingface_hub."""

from pathlib import Path

from simvq_jax.store import path_of

ADDRESS = "hf://"


def is_address(run) -> bool:
    """Whether it is `hf://OWNER/NAME`, with `@REVISION` behind it or not."""
    return str(run).startswith(ADDRESS)


def folder_of(run: str) -> Path:
    """The run folder, for what also writes to it. Raises ValueError on an address."""
    if is_address(run):
        raise ValueError(
            f"{run} is an address but the result goes into the run folder: download it first"
            f" (hf download {run.removeprefix(ADDRESS)} --local-dir=FOLDER) and give that folder."
        )
    return path_of(run)


def downloaded(address: str) -> Path:
    """The folder of a repository's files, downloaded where they are not in the hub's cache.

    Raises ValueError on a malformed address, ModuleNotFoundError without the package, OSError or RuntimeError where
    there is no such repository, or no network.
    """
    name, _, revision = address.removeprefix(ADDRESS).partition("@")
    if len([part for part in name.split("/") if part]) != 2:
        raise ValueError(f"{address} is no address on the hub: write hf://OWNER/NAME, or hf://OWNER/NAME@REVISION.")
    package = hub_package()
    try:
        return Path(package.snapshot_download(name, revision=revision or None))
    except (package.errors.HfHubHTTPError, package.errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RuntimeError(f"{address} could not be downloaded ({reason}): check the name, or the network.") from error


def hub_package():
    """huggingface_hub. Raises ModuleNotFoundError with the extra's name."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ModuleNotFoundError(
            "huggingface_hub is not installed, which reaches the hub: pip install 'simvq_jax[hub]'."
        ) from error
    return huggingface_hub
