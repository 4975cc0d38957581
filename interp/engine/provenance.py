"""Where a number came from, as a flat dictionary that goes into every results file."""

from typing import Any

import torch

from interp.core.prompts.pairs import Pairs
from interp.models.model import Model


def provenance(model: Model, pairs: Pairs, **facts: Any) -> dict[str, Any]:
    """The model as it is (`Model.identity`) and the prompts, with what the caller adds.

    The last digits of a sum depend on how many threads add it up, and of a sweep on what runs
    together (`Plan.told`).
    """
    return {
        **model.identity(),
        "pairs": pairs.fingerprint,
        "bos": pairs.bos,
        "prompts": len(pairs),
        "threads": torch.get_num_threads(),
        **facts,
    }
