"""Versions of packages, whether they are installed or not."""

from collections.abc import Iterable
from importlib import metadata


def of_installed(packages: Iterable[str]) -> dict[str, str]:
    """Name -> version; without those that are not installed, as the package itself is not where it runs from a copy."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
