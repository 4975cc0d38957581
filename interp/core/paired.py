"""Rows of two tables that are of the same thing, and the difference between them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Integer
from numpy import ndarray

from interp.core.errors import ResultsError, nearest


def partners(
    cells: pd.DataFrame, others: pd.DataFrame, *, ignoring: Sequence[str]
) -> Integer[ndarray, " cell"]:
    """Of each cell the row of the other table that agrees with it in all columns but some.

    A single row of the other table is everyone's counterpart.

    Raises:
        ResultsError: no such column, no counterpart, or several.
    """
    columns = list(cells.columns)
    if unknown := [column for column in ignoring if column not in columns]:
        raise ResultsError(
            f"ignoring={list(ignoring)}: rows are told apart by no column {unknown[0]!r}; "
            f"{nearest(unknown[0], columns)}"
        )
    if not len(others):
        raise ResultsError("the other table has no rows; the query that made it found nothing.")
    if len(others) == 1:
        return np.zeros(len(cells), dtype=int)
    keys = [column for column in columns if column not in ignoring]
    known = {key: row for row, key in enumerate(_named(others, keys))}
    if len(known) < len(others):
        raise ResultsError(
            f"several rows of the other table agree in {keys}, so which is the counterpart is not "
            "said. Choose one of each first (query), or ignore fewer columns."
        )
    found = [known.get(key) for key in _named(cells, keys)]
    if None in found:
        lost = cells.iloc[found.index(None)]
        told = {c: x for c, x in lost.dropna().to_dict().items() if x != ""}
        apart = [
            c for c in keys if c in others and not set(cells[c].dropna()) & set(others[c].dropna())
        ]
        hint = f" They agree in no {apart[0]!r}: say ignoring={apart!r} if that is meant." * bool(
            apart and set(cells[apart[0]].dropna())
        )
        raise ResultsError(f"the other table has no counterpart of {told} (by {keys}).{hint}")
    return np.asarray(found, dtype=int)


def _named(cells: pd.DataFrame, columns: Sequence[str]) -> list[tuple]:
    """Hashable names of cells; a missing number is None."""
    return [
        tuple(None if pd.isna(x) else x for x in row)
        for row in cells[list(columns)].itertuples(index=False)
    ]
