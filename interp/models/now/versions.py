"""Versions of the packages that numbers can depend on."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

QUANTISERS = ("bitsandbytes", "torchao")
"""Of a model whose weights one of them keeps."""
PACKAGES = ("interp", "torch", "transformer-lens", "transformers", "numpy", "pandas", "scipy")


@cache
def versions(kinds: tuple[str, ...] = ()) -> dict[str, str]:
    """By package.

    Args:
        kinds: what keeps weights in few bits, as `interp.models.bridge.quantised.told` says it.
    """
    found = {}
    more = [name for name in QUANTISERS if any(kind.startswith(name) for kind in kinds)]
    for name in (*PACKAGES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
