"""Where a number came from, as a flat dictionary that goes into every results file."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from interp.core.pairs import Pairs
from interp.models.model import Model

PACKAGES = ("interp", "torch", "transformer-lens", "transformers", "numpy", "pandas", "scipy")


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that numbers can depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def provenance(model: Model, pairs: Pairs, **facts: Any) -> dict[str, Any]:
    """Model, weights, tokens and versions, with what the caller adds."""
    return {
        "model": model.name,
        "architecture": model.facts.architecture,
        "weights": model.weight_hash,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "pairs": pairs.fingerprint,
        "bos": pairs.bos,
        "prompts": len(pairs),
        "versions": versions(),
        **facts,
    }
