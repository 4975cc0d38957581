"""What takes the place of what is ablated, and whose mean."""

from typing import Literal

from interp.core.prompts.pairs import Pairs, Side
from interp.engine.interventions import Averaged, Reference
from interp.engine.plain.means.means import MeanReference

PlainAblation = Literal["resample", "mean", "zero"]
Averaging = Side | Pairs | MeanReference
"""Whose mean: a side of the pairs, the corrupt side of others, or means taken before."""


def averaged(pairs: Pairs, reference: Averaging) -> Averaged:
    """The reference of a mean."""
    match reference:
        case MeanReference():
            return reference
        case Pairs():
            return Reference(reference, "corrupt")
        case _:
            return Reference(pairs, reference)
