"""Whose mean takes the place of what is ablated."""

from interp.core.errors import Unsupported
from interp.core.pairs import Pairs
from interp.engine.collect.means import MeanReference
from interp.engine.interventions import Averaged, Reference


def averaged(pairs: Pairs, reference: object) -> Averaged:
    """The mean over a side of the pairs, over the corrupt side of others, or one taken before.

    Raises:
        Unsupported: none of these.
    """
    match reference:
        case MeanReference():
            return reference
        case Pairs():
            return Reference(reference, "corrupt")
        case "clean" | "corrupt":
            return Reference(pairs, reference)
    raise Unsupported(
        f"unknown reference {reference!r}: it is a side of these pairs, 'clean' or 'corrupt', "
        "or other Pairs, whose corrupt side is averaged, or a MeanReference of this model."
    )
