"""What a figure is given: its kind of table, with the columns that it draws; else who draws it."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar, get_type_hints

import numpy as np
import pandas as pd

from interp.core.door.door import door
from interp.core.door.taken import a, no_numbers, shown
from interp.core.errors import ResultsError
from interp.core.parts.circuit import Circuit
from interp.core.tables.attribution import Attribution
from interp.core.tables.measures import Measures
from interp.core.tables.results import CELL, Results
from interp.core.tables.scores import Scores

P = ParamSpec("P")
T = TypeVar("T")

NUMBERED = "Layers and heads are counted from 0."
INTERVAL = ["value", "low", "high"]
DRAWS: dict[type, str] = {
    Results: "Results are drawn by figures.heads, figures.positions and figures.bars, attention "
    "probabilities by figures.attention.",
    Scores: "Scores are drawn by their summary: figures.layers(scores.summary(), hue='probe'), or "
    "figures.beside and figures.curves.",
    Measures: "The rows of Measures are drawn by figures.scatter(measures.frame, x=..., y=...).",
    Attribution: "An Attribution is drawn with its circuit: figures.circuit(circuit, attribution, "
    "facts=model.facts); two of them by figures.scatter(one.beside(other), x='score', y='other').",
    Circuit: "A Circuit is drawn by figures.circuit(circuit, facts=model.facts).",
}
MAKES: dict[type, str] = {
    Results: "It draws Results, which interp.ablate, patch, path_patch and their kin return.",
    pd.DataFrame: "It draws a DataFrame, such as results.summary() or scores.summary().",
    Circuit: "It draws a Circuit, such as interp.circuits.top_circuit returns.",
}
COLUMNS: list[tuple[str, list[str]]] = [
    ("figures.head_types", ["metric", "layer", "head", "effect", "passes"]),
    ("figures.relations or figures.relation_bars", ["task", "relation", "chosen", "difference"]),
    ("figures.faithfulness", ["method", "fraction", *INTERVAL]),
    ("figures.heads, figures.positions or figures.bars, given the Results themselves,", CELL),
    ("figures.layers or figures.beside", ["layer", *INTERVAL]),
    ("figures.curves", INTERVAL),
]
"""Of a DataFrame, which figure draws columns such as it has; the first that fits."""


def figure_door(function: Callable[P, T]) -> Callable[P, T]:
    """The door of a figure: what is another figure's is sent there, all else as at every door.

    Raises:
        ResultsError: what is to be drawn is of another kind.
        ArgumentError: another argument is.
    """
    inside = door(function)
    # not its other annotations, which jaxtyping's names of axes would make unreadable here
    first, kind = next(iter(get_type_hints(function).items()))

    @wraps(inside)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        given = args[0] if args else kwargs.get(first, inside)
        if given is not inside and not isinstance(given, kind):
            raise ResultsError(f"figures.{function.__name__} {_sent(given, kind)}")
        return inside(*args, **kwargs)

    return drawn


def _sent(given: object, kind: type) -> str:
    """Of what no figure of this kind draws: what it is, and what to do."""
    own = f"is given {_called(given)}. {MAKES[kind]}"
    if type(given).__name__ == "HeadTypes":  # of interp.circuits, which figures know nothing of
        return f"{own} Its scores are drawn by figures.head_types(found.scores)."
    if isinstance(given, pd.DataFrame):
        return f"{own}{_suggested(given)}"
    told = next((text for one, text in DRAWS.items() if isinstance(given, one)), "")
    return f"{own} {told}".rstrip()


def _called(given: object) -> str:
    """What a thing is, for a sentence."""
    if given is None:
        return "None"
    if hasattr(given, "shape"):
        return a(shown(given))
    name = type(given).__name__
    if isinstance(given, tuple(DRAWS)):
        return name if name.endswith("s") else a(name)
    return f"{a(name)} ({shown(given)})"


def _suggested(table: pd.DataFrame) -> str:
    """A sentence about which figure draws a table of such columns."""
    for name, columns in COLUMNS:
        if set(columns) <= set(table.columns):
            return f" A table of these columns is drawn by {name}."
    return ""


def require(
    table: pd.DataFrame,
    what: str,
    *,
    numbers: Sequence[str] = (),
    finite: Sequence[str] = (),
    whole: Sequence[str] = (),
    names: Sequence[str] = (),
    remedy: str,
) -> None:
    """Refuse a table that lacks a column, holds no row, or other things than can be drawn.

    Args:
        what: is drawn, in words.
        numbers: columns of numbers, where NaN is not measured.
        finite: those of numbers that may not be infinite either.
        whole: those of whole numbers from 0 on, in every row.
        names: columns that tell things apart.
        remedy: a sentence about where such tables come from.

    Raises:
        ResultsError: naming the column.
    """
    asked = list(dict.fromkeys([*numbers, *finite, *whole, *names]))
    absent = [column for column in asked if column not in table]
    if absent or table.empty:
        fact = f"the columns {absent}" if absent else "at least one row"
        had = f", and the table has {list(table.columns)[:20]}" if absent else ""
        raise ResultsError(f"{what} needs {fact}{had}. {remedy}{_suggested(table)}")
    if twice := [column for column in asked if isinstance(table[column], pd.DataFrame)]:
        raise ResultsError(f"the table has several columns {twice[0]!r}; name each once.")
    for column in dict.fromkeys([*numbers, *finite, *whole]):
        _require_numbers(table[column], finite=column not in numbers, whole=column in whole)
    for column in names:
        if odd := [value for value in table[column] if isinstance(value, list | dict | np.ndarray)]:
            raise ResultsError(
                f"{column} holds {shown(odd[0])}, and things are told apart by texts or numbers; "
                "name another column."
            )


def _require_numbers(column: pd.Series, *, finite: bool, whole: bool) -> None:
    known = column.dropna()
    if odd := no_numbers(column):
        raise ResultsError(
            f"{column.name} holds {shown(odd[0])} and not numbers; draw names with "
            "figures.curves, or give the column of numbers."
        )
    values = known.to_numpy(dtype=float)
    if finite and np.isinf(values).any():
        raise ResultsError(
            f"{column.name} has infinite numbers, which no axis has; leave these rows out first."
        )
    if whole and not (len(known) == len(column) and all(v >= 0 and v.is_integer() for v in values)):
        raise ResultsError(
            f"{column.name} is not a whole number from 0 on in every row; draw the rows where it "
            "is."
        )
