"""A long table and where it came from: written whole, read back with its provenance."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import pandas as pd

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed, a, no_numbers, shown
from interp.core.errors import ResultsError, nearest, said
from interp.core.files.sealed import held_in
from interp.core.sampling.halves import halves
from interp.core.tables import parquet

T = TypeVar("T", bound="Table")
QUERY_FAULTS = (
    *(SyntaxError, NameError, TypeError, ValueError, KeyError, IndexError, AttributeError),
    NotImplementedError,
)
"""What pandas raises where an expression of a user's cannot be read or computed."""


@dataclass(frozen=True, eq=False)
class Table:
    """What every kind of results has.

    Attributes:
        frame: the rows. What was not measured is absent or NaN, never 0.
        provenance: model, weight hash, dtype, data, versions.
    """

    frame: pd.DataFrame
    provenance: Mapping[str, Any]

    columns: ClassVar[Sequence[str]]
    numbers: ClassVar[Sequence[str]] = ()
    """Those of the columns that hold numbers."""
    cell: ClassVar[Sequence[str]] = ()
    """Those that together name one thing that was measured."""
    ranked: ClassVar[Sequence[str]] = ("value",)
    """What `top` ranks by, and what else where no row has that."""
    drawn: ClassVar[str] = "value"
    """What `grid` is of."""

    def __post_init__(self) -> None:
        missing = [c for c in self.columns if c not in self.frame]
        if missing:
            raise ResultsError(
                f"{a(kind_of(type(self)))} table needs the columns {list(self.columns)}; "
                f"{missing} are absent. Name the columns of the frame so."
            )
        for name in self.numbers:
            if odd := no_numbers(self.frame[name]):
                raise ResultsError(
                    f"column {name!r} of {type(self).__name__} holds numbers, and here "
                    f"{shown(odd[0])}. Make numbers of them (pandas.to_numeric); what was not "
                    "measured is NaN."
                )

    def __len__(self) -> int:
        return len(self.frame)

    @door
    def query(self: T, expression: str) -> T:
        """The rows for which a pandas query holds.

        Args:
            expression: a condition on the columns, such as "layer > 3 and direction == 'noise'".

        Raises:
            ResultsError: it is no condition on these columns.
        """
        return type(self)(self._chosen(expression), self.provenance)

    def _chosen(self, expression: str) -> pd.DataFrame:
        try:
            holds = self.frame.eval(expression)
        except QUERY_FAULTS as error:
            raise self._no_condition(expression, said(error)) from error
        if not isinstance(holds, pd.Series) or not pd.api.types.is_bool_dtype(holds.dtype):
            raise self._no_condition(expression, f"it gives {shown(holds)}, and no row is chosen")
        return cast(pd.DataFrame, self.frame[holds].reset_index(drop=True))

    @door
    def split(self: T, *, seed: Seed = 0) -> tuple[T, T]:
        """Two halves that share no cluster: choose on the first, report on the second.

        The same clusters and seed give the halves of `Pairs.split`. Of crossed clusters the halves
        share none of either kind; what mixes them is in no half.

        Raises:
            ResultsError: a table without clusters, or of one only.
        """
        kinds = [kind for kind in ("cluster", "crossed") if kind in self.frame]
        counts = {kind: self.frame[kind].nunique() for kind in kinds}
        if not kinds or min(counts.values()) < 2:
            had = f"{min(counts.values())} cluster(s)" if kinds else "no column 'cluster'"
            raise ResultsError(
                f"the {len(self)} rows of this {type(self).__name__} have {had}, so they cannot "
                "be split into independent halves. Measure on more templates or documents; numbers "
                "that come from weights alone have no examples to split."
            )
        parts = halves([self.frame[kind] for kind in kinds], seed=seed)
        if not all(part.any() for part in parts):
            raise ResultsError(
                "no row is of the first, or none of the second half of both kinds of clusters "
                f"({' x '.join(map(str, counts.values()))}). Cross more of them, or drop the "
                "column 'crossed' from the frame to split by one kind."
            )
        first, second = (
            type(self)(cast(pd.DataFrame, self.frame[half].reset_index(drop=True)), self.provenance)
            for half in parts
        )
        return first, second

    def _no_condition(self, expression: str, why: str) -> ResultsError:
        return ResultsError(
            f"{expression!r} is no condition on the columns {', '.join(map(str, self.frame))}: "
            f"{why}. Write one such as \"layer > 3 and direction == 'noise'\", texts in quotes of "
            "their own; a value of yours is put in by an f-string."
        )

    @door
    def top(self, n: Count = 10, *, by: str | None = None) -> pd.DataFrame:
        """The n rows with the largest absolute value of a column; NaN stands last.

        Of Results and Scores the rows are those of `summary()`, of Attribution they have 95 %
        intervals over clusters.

        Args:
            n: how many rows.
            by: a column of numbers. By default the effect of Results, the z of Measures, the score
                of an Attribution; the value of others, and where there is no effect or z.

        Raises:
            ResultsError: no such column, or one that holds no numbers.
        """
        table, by = self._ranking(), self.ranked[0] if by is None else by
        values = self._numbers(table, by)
        if by == self.ranked[0] and np.isnan(values).all():
            values = self._numbers(table, self.ranked[-1])
        order = np.argsort(-np.abs(values), kind="stable")  # NaN: last
        return table.iloc[order[:n]].reset_index(drop=True)

    @door
    def grid(self, column: str | None = None) -> np.ndarray:
        """A column as an array: layers x heads, or layers x positions, or layers.

        Args:
            column: of Results `"effect"` (by default), `"value"` or `"base"`, means over the
                examples; of others a column of numbers, by default "value". A place that was not
                measured is NaN.

        Raises:
            ResultsError: no such column of numbers, several rows for one place, or sites without a
                layer only.
        """
        first, means = self._places(self.drawn if column is None else column)
        if "layer" not in first or first["layer"].isna().all():
            raise ResultsError(
                "no row of the table has a layer, so there is no grid of layers: it needs rows of "
                "heads, or of something else that each layer has."
            )
        first = first.assign(**{"(mean)": means}).dropna(subset=["layer"])
        if odd := [*no_numbers(first["layer"]), *no_numbers(first["head"])]:
            raise ResultsError(f"layers and heads of a grid are numbers, and here {shown(odd[0])}.")
        of_heads = ~np.asarray(first["head"].isna())
        if of_heads.any() and not of_heads.all():
            differ = ["kind"] if "kind" in first else self.cell
            raise several(first, differ, "some sites are heads and some are not")
        if of_heads.any():
            across, columns = "head", first["head"].to_numpy(dtype=int)
        elif "position" in first:
            across, columns = "position", pd.factorize(first["position"], use_na_sentinel=False)[0]
        else:
            across, columns = "head", np.zeros(len(first), dtype=int)
        twice = np.flatnonzero(first.duplicated(["layer", across]))
        if len(twice):
            same = first.iloc[twice[:1]][["layer", across]].merge(first)
            raise several(same, self.cell, self._doubled(same["layer"][0], across, same))
        rows = first["layer"].to_numpy(dtype=int)
        array = np.full((rows.max() + 1, columns.max() + 1), np.nan)
        array[rows, columns] = first["(mean)"]
        return array if of_heads.any() or array.shape[1] > 1 else array[:, 0]

    def _ranking(self) -> pd.DataFrame:
        """What `top` chooses from: a row of each thing that was measured."""
        return self.frame

    def _places(self, column: str) -> tuple[pd.DataFrame, np.ndarray]:
        """What `grid` shows: a row of each thing that was measured, and its number."""
        table = self._ranking()
        return table, self._numbers(table, column)

    def _doubled(self, layer: object, across: str, rows: pd.DataFrame) -> str:
        return f"{across} {layer}.{rows[across][0]} has several rows"

    def _numbers(self, table: pd.DataFrame, column: str) -> np.ndarray:
        if column not in table or no_numbers(table[column]):
            known = [str(c) for c in table if not no_numbers(table[c])]
            raise ResultsError(
                f"{a(kind_of(type(self)))} table has no numbers called {column!r}; "
                f"{nearest(column, known)}"
            )
        return table[column].to_numpy(dtype=float)

    def __repr__(self) -> str:
        rows = self._shown().to_string(float_format="{:.4g}".format)
        return "\n".join([f"{type(self).__name__}: {self._counted()}", rows, *self._notes()])

    def _repr_html_(self) -> str:
        model = escape(str(self.provenance.get("model", "")))
        notes = "".join(f"<p>{escape(line)}</p>" for line in self._notes())
        rows = self._shown().to_html(float_format="{:.3g}".format)
        return f"<p><b>{self._counted()}</b>, {model}</p>{rows}{notes}"

    def _counted(self) -> str:
        return f"{len(self)} rows"

    def _shown(self) -> pd.DataFrame:
        """The first rows, without the columns that are empty."""
        return filled(self.frame.head(20))

    def _notes(self) -> list[str]:
        """What is said under a table."""
        return []

    @door
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write parquet with the provenance in its metadata; atomic.

        Raises:
            ResultsError: the folder cannot be written, or the table holds what a file cannot.
        """
        return self.write(Path(path), {})

    def write(self, path: Path, beside: Mapping[str, Any]) -> Path:
        """The same; `beside` stands in the file, and is no part of the table."""
        note = {**beside, "kind": kind_of(type(self)), "provenance": dict(self.provenance)}
        parquet.write(path, self.frame, note)
        return path

    @classmethod
    @door
    def load(cls: type[T], path: str | os.PathLike[str]) -> T:
        """Read what `save` wrote.

        Raises:
            ResultsError: absent, no such file, of another kind, or of another version.
        """
        found = open_table(path)
        if not isinstance(found, cls):
            other = type(found).__name__
            raise ResultsError(
                f"{path} holds {other}; read it with interp.{other}.load. {cls.__name__}.load "
                f"reads {cls.__name__}."
            )
        return found

    @classmethod
    @door
    def concat(cls: type[T], parts: "Sequence[Table]") -> T:
        """Several tables as one.

        Provenance that differs between them becomes a list; of null controls, and of what rounding
        does to a metric, the largest.

        Args:
            parts: tables of one kind, at least one.

        Raises:
            ResultsError: no tables, or one of another kind.
        """
        if not parts:
            raise ResultsError("no tables were given to concat; at least one is needed.")
        if other := [part for part in parts if not isinstance(part, cls)]:
            raise ResultsError(
                f"{cls.__name__}.concat takes a list of {cls.__name__}, and in it stands "
                f"{shown(other[0])}, a {type(other[0]).__name__}. Join tables of one kind."
            )
        provenance: dict[str, Any] = {}
        for key in dict.fromkeys(key for part in parts for key in part.provenance):
            given = [part.provenance[key] for part in parts if key in part.provenance]
            distinct = [x for i, x in enumerate(given) if x not in given[:i]]
            provenance[key] = distinct[0] if len(distinct) == 1 else distinct
            if key == "null":
                provenance[key] = max(given)
            if key == "resolution":
                provenance[key] = _largest(given)
        return cls(pd.concat([part.frame for part in parts], ignore_index=True), provenance)


def _largest(given: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Of each metric the largest number that any part knows."""
    names = dict.fromkeys(name for one in given for name in one)
    known = {name: [one[name] for one in given if one.get(name) is not None] for name in names}
    return {name: max(found, default=None) for name, found in known.items()}


def kind_of(table: type[Table]) -> str:
    """What files call a table of this class."""
    return table.__name__.lower()


def kinds() -> dict[str, type[Table]]:
    """Every kind of table that is known by now."""
    return {kind_of(table): table for table in Table.__subclasses__()}


@door
def open_table(path: str | os.PathLike[str]) -> Table:
    """Read a table of whatever kind was saved there.

    Raises:
        ResultsError: absent, no such file, or of another version.
    """
    path = Path(path)
    if other := held_in(path):
        raise ResultsError(
            f"{path} holds {other}, which is no table ({', '.join(kinds())}). Read it with the "
            "class that saved it."
        )
    held, found = parquet.read(path)
    kind = found.get("kind", "results")  # files from before there were several kinds
    if kind not in kinds():
        raise ResultsError(
            f"{path} holds a table of kind {kind!r}, and this interp knows {', '.join(kinds())}. "
            "Read it with the interp that wrote it, or import interp first, which knows all."
        )
    return kinds()[kind](held.read().to_pandas(), found["provenance"])


def noted(path: Path) -> Mapping[str, Any]:
    """What stands in a file beside the table: its kind, its provenance, and what `write` was given.

    Raises:
        ResultsError: absent, no such file, damaged, or of another version.
    """
    return parquet.read(path)[1]


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """The columns in which something stands."""
    nothing = {"", "nan", "None", "<NA>"}
    return table.drop(columns=[c for c in table if set(map(str, table[c])) <= nothing])


def several(frame: pd.DataFrame, columns: Sequence[str], fact: str) -> ResultsError:
    """The refusal of rows that stand in one place; names the columns in which they differ."""
    options = {c: x for c in columns if c in frame and len(x := frame[c].unique()) > 1}
    if not options:
        return ResultsError(
            f"{fact}; choose one, for they are alike in every column; a table was joined to itself"
        )
    found = "; ".join(f"{c}: {', '.join(map(str, x[:6]))}" for c, x in options.items())
    column, value = next((c, x[0]) for c, x in options.items())
    chosen = f"{column} == {value!r}" if pd.notna(value) else f"{column}.isna()"
    return ResultsError(f'{fact} ({found}). Choose one set first: results.query("{chosen}").')
