"""Rows of two tables that are of the same thing, and the difference between them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Integer
from numpy import ndarray

from interp.core.errors import ResultsError, nearest


def require_same_prompts(
    mine: Mapping[str, object], theirs: Mapping[str, object], *, of_one_model: bool = False
) -> None:
    """Refuse tables of other prompts, as far as their provenance says so.

    Prompts of two models may be other tokens and yet the same texts, so that only those of one
    model are told apart, or with `of_one_model` all.

    Raises:
        ResultsError: with both fingerprints.
    """
    pairs, others = mine.get("pairs"), theirs.get("pairs")
    known = isinstance(pairs, str) and isinstance(others, str)
    if known and pairs != others and (of_one_model or mine.get("model") == theirs.get("model")):
        raise ResultsError(
            f"the two tables were not measured on the same examples (pairs {pairs} and {others}), "
            "so nothing is paired; measure both on the same pairs."
        )


def partners(
    cells: pd.DataFrame, others: pd.DataFrame, *, ignoring: Sequence[str], alike: str
) -> Integer[ndarray, " cell"]:
    """Of each cell the row of the other table that agrees with it in all columns but some.

    A single row of the other table is everyone's counterpart.

    Args:
        alike: the column that says what was measured, in which all must agree unless it is ignored.

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
        other = [x for x in cells[alike].astype(str).unique() if x != str(others[alike].iloc[0])]
        if other and alike not in ignoring:
            raise ResultsError(
                f"the other table has {alike} {str(others[alike].iloc[0])!r}, which is not "
                f"subtracted from {alike} {other[0]!r}. Choose one {alike} first (query)."
            )
        return np.zeros(len(cells), dtype=int)
    keys = [column for column in columns if column not in ignoring]
    known = {key: row for row, key in enumerate(row_names(others, keys))}
    if len(known) < len(others):
        raise ResultsError(
            f"several rows of the other table agree in {keys}, so which is the counterpart is not "
            "said. Choose one of each first (query), or ignore fewer columns."
        )
    found = [known.get(key) for key in row_names(cells, keys)]
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


def row_names(cells: pd.DataFrame, columns: Sequence[str]) -> list[tuple]:
    """Hashable names of rows by some columns; a missing number is None."""
    return [
        tuple(None if pd.isna(x) else x for x in row)
        for row in cells[list(columns)].itertuples(index=False)
    ]
