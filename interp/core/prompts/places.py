"""Positions in prompts: what is named, counted, or given row by row, as indices of each row.

| a place | where it is |
| --- | --- |
| `"all"` | every token |
| `"after first"` | every token but the first, which many models use as an attention sink |
| `"rest"` | every token that no name of the pairs covers |
| `"end"`, `"s2"` | what the pairs call so |
| `3` | the fourth token of every row |
| an array or tensor of whole numbers | one index for each row |
| a list with a list of indices for each row, or a mask `batch pos` | several |

Every row must have the place: a position that a row has not would do nothing there, and an effect
of 0 would be taken for a measurement.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.errors import PositionError, nearest

ALL = "all"
REST = "rest"
AFTER_FIRST = "after first"
"""All positions but the first, which many models use as an attention sink: its activation is a
hundred times as long as any other, and means nothing (Xiao et al. 2024, Sun et al. 2024)."""


OWN = (ALL, AFTER_FIRST, REST)
"""What no position of some pairs may be called: every method takes them for the places above."""


@dataclass(frozen=True)
class PerRow:
    """Indices of each row of some pairs. Made of what a user gives by `place_of`."""

    rows: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        return "per row"


Place = str | int | PerRow
Given = Place | Tensor | np.ndarray | pd.Series | Sequence[Sequence[int]]
"""A place as a user may give it."""
Positions = Given | Sequence[str | int] | Mapping[str, Given]
"""Places: one, a list of names and indices, or a mapping from what the table calls them."""


def place_of(given: Any) -> Place:
    """A place that can be kept, compared and written down.

    Raises:
        PositionError: what is no place.
    """
    if isinstance(given, PerRow):
        return given
    if isinstance(given, str):
        if not given.strip():
            raise PositionError("a position without a name was given; give 'end', 'all', or 3.")
        return given
    if _number(given):
        return whole(given, "the position")
    if isinstance(given, Tensor | np.ndarray | pd.Series | list | tuple):
        rows = given.tolist() if not isinstance(given, list | tuple) else list(given)
        masked = getattr(given, "dtype", None) in (torch.bool, np.dtype(bool))
        return PerRow(tuple(_row(row, i, masked=masked) for i, row in enumerate(_rows(rows))))
    raise PositionError(
        f"{given!r:.60} is no position: give 'all', a name of the pairs ('end'), an index, an "
        "array with one index for each row, a list of indices for each row, or a mask batch x pos."
    )


def _rows(rows: Any) -> list[Any]:
    if not isinstance(rows, list) or not rows:
        raise PositionError(
            f"{rows!r:.60} has no rows: one position for each row of the pairs is needed."
        )
    return rows


def _row(row: Any, number: int, *, masked: bool) -> tuple[int, ...]:
    """The indices that one row names, in ascending order."""
    if masked or (isinstance(row, list | tuple) and row and all(isinstance(x, bool) for x in row)):
        if not isinstance(row, list | tuple):
            raise PositionError(
                "a mask of positions has two axes, batch and pos: True where a position is meant."
            )
        found = [i for i, x in enumerate(row) if x]
    else:
        items = list(row) if isinstance(row, list | tuple) else [row]
        found = [whole(item, f"the position of row {number}") for item in items]
    if len(set(found)) < len(found):
        twice = next(at for at in found if found.count(at) > 1)
        raise PositionError(
            f"row {number} names the position {twice} twice. Name each once; a mask is made of "
            "True and False, not of 1 and 0 (mask.bool())."
        )
    if not found:
        raise PositionError(
            f"row {number} has no position at all, so nothing would be done there and its effect "
            "would be 0 without having been measured. Leave the row out (pairs.select)."
        )
    return tuple(sorted(found))


def _number(value: object) -> bool:
    return isinstance(value, Real | np.bool_) or (isinstance(value, Tensor) and value.ndim == 0)


def whole(value: Any, what: str) -> int:
    """A whole number that counts from 0.

    Raises:
        PositionError: a fraction, NaN, a truth value, or one that counts from the end.
    """
    number = value.item() if isinstance(value, Tensor | np.generic) else value
    if isinstance(number, bool) or not isinstance(number, Real) or number != number // 1:
        raise PositionError(
            f"{what} is {value!r:.40}, and a position is a whole number. Likely an empty cell of a "
            "table became NaN, or two columns were exchanged."
        )
    if number < 0:
        raise PositionError(
            f"{what} is {int(number)}, which would count from the end; positions are counted from "
            "0. The last token of each row is 'end'."
        )
    return int(number)


def index(
    place: Place, named: Mapping[str, Int[Tensor, " batch"]], lengths: Int[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """The one position of each row that a place means.

    Args:
        named: the positions that have names.
        lengths: tokens in each row.

    Raises:
        PositionError: an unknown name, a position that some row has not, or several in one row.
    """
    if isinstance(place, str) and place not in named and place.isdigit():
        place = int(place)
    if isinstance(place, str):
        if place not in named:
            hint = (
                "it means several positions of each row, and here one is read."
                if place in OWN
                else f"{nearest(place, named)} Name positions when the pairs are built "
                "(positions={...})."
            )
            raise PositionError(f"the pairs have no position {place!r}; {hint}")
        return named[place]
    if isinstance(place, int):
        at = torch.full_like(lengths, place)
    else:
        _require_rows(place, lengths)
        if several := [i for i, row in enumerate(place.rows) if len(row) > 1]:
            raise PositionError(
                f"row {several[0]} names {len(place.rows[several[0]])} positions, and here one of "
                "each row is read. Give one index for each row."
            )
        at = torch.tensor([row[0] for row in place.rows])
    if bad := (lengths <= at).nonzero().flatten().tolist():
        raise PositionError(
            f"there is no position {int(at[bad[0]])} in row {bad[0]}: its {int(lengths[bad[0]])} "
            "tokens are counted from 0. Give an index that every row has, or a name ('end')."
        )
    return at


def mask(
    place: Place,
    named: Mapping[str, Int[Tensor, " batch"]],
    lengths: Int[Tensor, " batch"],
    rows: Sequence[int],
) -> Bool[Tensor, "row pos"]:
    """Which positions of some rows, all of one length, a place means.

    Raises:
        PositionError: as `index`, or a row that has no such position.
    """
    length = int(lengths[rows[0]])
    everywhere = torch.arange(length)
    if place == ALL:
        return torch.ones(len(rows), length, dtype=torch.bool)
    if place == AFTER_FIRST:
        if length < 2:
            raise PositionError(
                f"row {rows[0]} has a single token, so nothing stands after its first. Leave such "
                "rows out (pairs.select), or take positions='all'."
            )
        return (everywhere >= 1).expand(len(rows), -1)
    if place == REST:
        found = free(named, lengths, rows)
        if lost := [row for row, any_ in zip(rows, found.any(1).tolist(), strict=True) if not any_]:
            raise PositionError(
                f"row {lost[0]} has no position without a name (named are {', '.join(named)}), so "
                f"nothing would be done at {REST!r}. Leave such rows out (pairs.select), or the "
                "part that stands there."
            )
        return found
    if isinstance(place, PerRow):
        _require_rows(place, lengths)
        found = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            if place.rows[row] and (last := place.rows[row][-1]) >= length:
                raise PositionError(
                    f"there is no position {last} in row {row}: its {length} tokens are counted "
                    "from 0. Give indices that the row has."
                )
            found[i, list(place.rows[row])] = True
        return found
    return everywhere == index(place, named, lengths)[list(rows)][:, None]


def free(
    named: Mapping[str, Int[Tensor, " batch"]], lengths: Int[Tensor, " batch"], rows: Sequence[int]
) -> Bool[Tensor, "row pos"]:
    """Which positions of some rows, all of one length, no name covers; of a row maybe none."""
    everywhere = torch.arange(int(lengths[rows[0]]))
    taken = [everywhere == at[list(rows)][:, None] for at in named.values()]
    return ~torch.stack(taken).any(0)


def _require_rows(place: PerRow, lengths: Collection) -> None:
    if len(place.rows) != len(lengths):
        raise PositionError(
            f"positions of {len(place.rows)} rows were given for {len(lengths)} pairs. Likely the "
            "pairs were selected or split after the positions were made: make them of these pairs."
        )


def listed(given: Any, known: Collection[str] = ()) -> list[tuple[str, Place]]:
    """Several places with the names that a table gives them: one, a list, or a mapping of names.

    A list of names and numbers is several places; an array, a list of lists and a mask are one
    place, row by row. `known`: names, for what is said of none.

    Raises:
        PositionError: none, one twice, or what is no place.
    """
    if isinstance(given, Mapping):
        found = [(str(name), place_of(place)) for name, place in given.items()]
    elif isinstance(given, list | tuple) and not any(map(_several, given)):
        found = [(str(place), place) for place in map(place_of, given)]
    else:
        one = place_of(given)
        found = [(str(one), one)]
    names = [name for name, _ in found]
    if not found or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        raise PositionError(
            f"positions={given!r:.60} names {'no position' if twice is None else f'{twice} twice'}"
            f"; give 'all' or some of {', '.join(known) or 'the positions'}, each once."
        )
    return found


def _several(item: object) -> bool:
    return isinstance(item, list | tuple | np.ndarray) or (
        isinstance(item, Tensor) and item.ndim > 0
    )
