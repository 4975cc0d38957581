"""Versions of the packages that numbers can depend on."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("interp", "torch", "transformer-lens", "transformers", "numpy", "pandas", "scipy")


@cache
def versions() -> dict[str, str]:
    """By package."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
