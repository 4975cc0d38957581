"""What takes the place of what is ablated, and whose mean."""

from typing import Literal

from interp.core.prompts.pairs import Pairs, Side
from interp.engine.interventions import Averaged, Mean, Reference, Resample, Value, Zero
from interp.engine.plain.means.means import MeanReference

PlainAblation = Literal["resample", "mean", "zero"]
Averaging = Side | Pairs | MeanReference
"""Whose mean: a side of the pairs, the corrupt side of others, or means taken before."""


def value_of(ablation: PlainAblation, pairs: Pairs, reference: Averaging) -> Value:
    """What an ablated activation becomes."""
    match ablation:
        case "zero":
            return Zero()
        case "resample":
            return Resample("corrupt")
        case "mean":
            return Mean(averaged(pairs, reference))


def averaged(pairs: Pairs, reference: Averaging) -> Averaged:
    """The reference of a mean."""
    match reference:
        case MeanReference():
            return reference
        case Pairs():
            return Reference(reference, "corrupt")
        case _:
            return Reference(pairs, reference)
