"""What takes the place of what is ablated, and whose mean."""

from typing import Literal

from interp.core.pairs import Pairs, Side
from interp.engine.collect.means import MeanReference
from interp.engine.interventions import Averaged, Reference

Ablated = Literal["resample", "mean", "zero"]
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
