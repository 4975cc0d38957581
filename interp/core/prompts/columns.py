"""Columns as users bring them (lists, tuples, arrays, Series, tensors), one value a row, checked.

A table's empty cell is NaN, and a number that is none must not become a position or a token.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from interp.core.errors import PairsError

Column = Collection
"""One value for each row, in order; arrays, Series and tensors are such too."""


def column(what: str, values: object) -> list[Any]:
    """The values of a column, as plain Python holds them.

    Raises:
        PairsError: it is no column.
    """
    if isinstance(values, Tensor | np.ndarray | pd.Series | pd.Index) and values.ndim == 1:
        return values.tolist()
    odd = isinstance(values, str | bytes | Mapping | Set | Tensor | np.ndarray | pd.DataFrame)
    if odd or not isinstance(values, Iterable):
        raise PairsError(
            f"{what} is {shown(values)}, not a column: give one value for each row, as a list, a "
            "1-D array or a Series."
        )
    return [v.item() if isinstance(v, Tensor) and v.ndim == 0 else v for v in values]


def texts(what: str, values: object) -> list[str]:
    """A column of texts.

    Raises:
        PairsError: something in it is no text.
    """
    found = column(what, values)
    for row, value in enumerate(found):
        if not isinstance(value, str):
            raise PairsError(
                f"{what} is {shown(value)} in row {row}, not a text. An empty cell of a table "
                "reads as nan: leave such rows out, or make them text (str)."
            )
    return [str(value) for value in found]


def labels(what: str, values: object) -> tuple[str, ...]:
    """A column of labels, as texts.

    Raises:
        PairsError: a row has none, so that it would share one with every other such row.
    """
    found = column(what, values)
    for row, value in enumerate(found):
        if value is None or value is pd.NA or value is pd.NaT or _is_nan(value):
            raise PairsError(
                f"{what} is {value} in row {row}: rows without a {what} would all count as one. "
                "Give each row its own, or leave such rows out."
            )
    return tuple(map(str, found))


def whole(what: str, values: object, *, place: str = "row") -> Int[Tensor, " batch"]:
    """A column of whole numbers, as a tensor of its own; 3.0 is one.

    Args:
        place: what a column has one value for.

    Raises:
        PairsError: a number is not whole, or no number.
    """
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        values = torch.from_numpy(values.astype(np.int64))
    if isinstance(values, Tensor) and values.ndim == 1 and is_integer(values):
        return values.detach().to("cpu", torch.int64, copy=True)
    found = column(what, values)
    for row, value in enumerate(found):
        number = isinstance(value, Real) and not isinstance(value, bool) and abs(value) < 2**63
        if not number or value != int(value):
            raise PairsError(
                f"{what} is {shown(value)} in {place} {row}, not a whole number. An empty cell of "
                "a table reads as nan: put a number there, or leave the row out."
            )
    return torch.tensor([int(value) for value in found], dtype=torch.int64)


def grid(what: str, values: object) -> list[Any]:
    """The rows of what has rows and columns; what is in them is not looked at.

    Raises:
        PairsError: it has no rows.
    """
    values = values.to_numpy() if isinstance(values, pd.DataFrame) else values
    odd = isinstance(values, str | bytes | Mapping | Set)
    flat = isinstance(values, Tensor | np.ndarray) and values.ndim != 2
    if odd or flat or not isinstance(values, Iterable):
        raise PairsError(
            f"{what} is {shown(values)}, not rows of token ids: give a list of lists, or a tensor "
            "of batch x pos; of one prompt, [ids]. Pairs.from_text takes texts."
        )
    rows = values.tolist() if isinstance(values, Tensor) else list(values)
    for index, row in enumerate(rows):
        if isinstance(row, str | bytes) or not isinstance(row, Iterable):
            raise PairsError(
                f"row {index} of {what} is {shown(row)}, not a list of token ids. Of one prompt, "
                "give [ids]. Pairs.from_text takes texts."
            )
    return rows


def id_rows(what: str, tokens: object) -> list[list[int]]:
    """The ids of each row.

    Raises:
        PairsError: these are no rows of ids.
    """
    rows = []
    for index, row in enumerate(grid(what, tokens)):
        plain = isinstance(row, list) and all(type(x) is int and abs(x) < 2**63 for x in row)
        rows.append(row if plain else whole(f"row {index} of {what}", row, place="token").tolist())
    return rows


def unmasked(rows: Sequence[list[int]], mask: Sequence) -> tuple[list[int], list[list[int]]]:
    """Where the tokens of each row begin, and those that its mask keeps.

    Raises:
        PairsError: a mask that does not fit, or has holes.
    """
    first, kept = [], []
    for index, (row, given) in enumerate(zip(rows, mask, strict=True)):
        keep = column(f"row {index} of the mask", given)
        if len(row) != len(keep):
            raise PairsError(f"row {index} has {len(row)} ids but a mask of {len(keep)}")
        if odd := [value for value in keep if value not in (0, 1)]:
            raise PairsError(
                f"the mask of row {index} has {shown(odd[0])}; it is 1 where a token is, else 0"
            )
        at = [i for i, token in enumerate(keep) if token]
        if at and at[-1] - at[0] + 1 != len(at):
            raise PairsError(f"the mask of row {index} has a hole; tokens must be contiguous")
        first.append(at[0] if at else 0)
        kept.append([row[i] for i in at])
    return first, kept


def shown(value: object) -> str:
    """A value for a message: what it is, and no more of it than a line holds."""
    if isinstance(value, Tensor | np.ndarray | pd.DataFrame | pd.Series):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__} {text[:50]}..."


def _is_nan(value: object) -> bool:
    return isinstance(value, float | np.floating) and bool(value != value)


def is_integer(values: Tensor) -> bool:
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
