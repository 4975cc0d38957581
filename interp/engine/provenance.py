"""Where a number came from, as a flat dictionary that goes into every results file."""

from typing import Any

from interp.core.pairs import Pairs
from interp.models.model import Model


def provenance(model: Model, pairs: Pairs, **facts: Any) -> dict[str, Any]:
    """The model as it is (`Model.identity`) and the prompts, with what the caller adds."""
    return {
        **model.identity(),
        "pairs": pairs.fingerprint,
        "bos": pairs.bos,
        "prompts": len(pairs),
        **facts,
    }
