"""What the tests of mixtures share: rows, and the same model as Hugging Face alone reads it."""

import tiny
import torch

from interp.core.prompts.pairs import Pairs
from interp.models.bridge.precision import exact
from interp.models.model import Model

FAMILIES = tuple(tiny.EXPERTS)
SHARED = {"qwen2-moe": 9}
"""Neurons of an expert that every token has, after all others."""
ROWS = [[3, 7, 12, 25, 3, 9, 1, 20, 14, 5, 8], [5, 6, 20, 7, 5, 2, 28, 4, 4, 13, 11]]
TOKENS = torch.tensor(ROWS)
PAIRS = Pairs.from_tokens(clean=ROWS, corrupt=ROWS[::-1], correct=[3, 5], wrong=[4, 6])


def plain(model: Model, family: str) -> torch.nn.Module:
    """The same files, read by Hugging Face alone."""
    kind = type(tiny.build(family))
    found = kind.from_pretrained(
        model.name,
        dtype=torch.float64,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    exact(found)
    return found.eval()
