"""Positions with a name: an index in each row, inside of it."""

from collections.abc import Mapping

from jaxtyping import Int
from torch import Tensor

from interp.core.errors import PairsError
from interp.core.prompts.columns import shown, whole
from interp.core.prompts.places import OWN


def positions_by_name(
    positions: object, what: str = "position"
) -> dict[str, Int[Tensor, " batch"]]:
    """Columns of indices by the name of a place; `what` messages call one.

    Raises:
        PairsError: no mapping, a name that every method has for another place, or no number.
    """
    if not isinstance(positions, Mapping | None):
        raise PairsError(f"{what}s is {shown(positions)}; give each a name: {{'subject': [3, 4]}}.")
    if taken := [name for name in positions or () if name in OWN]:
        raise PairsError(
            f"a {what} is called {taken[0]!r}, which every method takes for a place of its own "
            f"({', '.join(map(repr, OWN))}), so yours would never be read. Give it another name."
        )
    return {name: whole(f"{what} {name!r}", at) for name, at in (positions or {}).items()}


def require_inside(
    name: str, at: Tensor, first: Tensor, lengths: Tensor, what: str = "position"
) -> None:
    """Refuse a named position outside of its row, whose tokens begin at `first`."""
    outside = (at < first) | (at >= first + lengths)
    for row in outside.nonzero().flatten().tolist():
        raise PairsError(
            f"{what} {name!r} is {int(at[row])} in row {row}, whose tokens "
            f"stand at {int(first[row])} to {int(first[row] + lengths[row]) - 1}"
        )
