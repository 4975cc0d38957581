"""Results: one row for each intervention and example, with where it came from."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal, cast

import numpy as np
import pandas as pd

from interp.core import stats
from interp.core.door import door
from interp.core.errors import ResultsError, nearest
from interp.core.table import Table
from interp.core.taken import Count, Seed, no_numbers, shown

log = logging.getLogger("interp")

COLUMNS = [
    *("method", "site", "position", "receiver", "direction", "metric"),
    *("kind", "layer", "head", "through", "engine"),
    *("example", "cluster", "base", "value", "effect"),
]
CELL = ["method", "site", "position", "receiver", "through", "direction", "metric"]
"""Columns that together name one intervention; the rest of a row is its example and numbers."""
EXACT = 1e-9
"""Rounding under this is that of float64, and nobody has to be told."""
MEASURED = ["base", "value", "effect"]
Measured = Literal["effect", "value", "base"]


@door
@dataclass(frozen=True, eq=False, repr=False)
class Results(Table):
    """What interventions did: one row per intervention x example.

    Attributes:
        frame: `base` is the metric on the run that was intervened on, `value` under the
            intervention, `effect = value - base`.
        provenance: also tokens and the null control.
    """

    columns = COLUMNS
    numbers = MEASURED

    @door
    def summary(self, *, seed: Seed = 0) -> pd.DataFrame:
        """Mean effect of each intervention over the examples, with its uncertainty.

        Columns: those that name the intervention, then `base`, `value` and `effect` (means),
        `low` and `high` (95 % interval over clusters), `p` (two-sided paired sign flip of whole
        clusters), `q` (Benjamini-Hochberg over all rows of this table), `n`, `clusters`, and
        `resolution`: what rounding alone does to the metric, in one example (NaN where it was not
        measured). An effect that is smaller may be rounding, however small its p.

        `low` and `high` are of the effect. Where nothing was intervened on, so that no example
        has an effect (methods "evaluate" and "attention"), they are of the value, and `p` and
        `q` are NaN: there is no difference to test.

        Raises:
            ResultsError: an intervention that lacks examples, or has one twice.
        """
        if few := self._few():
            log.warning("%s. More templates, or more independent units (cluster=), say more.", few)
        return self._summarised(seed)

    def _summarised(self, seed: int = 0) -> pd.DataFrame:
        frame = self.frame
        cell, first = _cells(frame)
        _refuse_doubled(frame, cell)
        example, _ = pd.factorize(frame["example"], sort=True)
        cluster, names = pd.factorize(frame["cluster"], sort=True)
        shape = (len(first), int(example.max(initial=-1)) + 1)
        value, effect = np.full(shape, np.nan), np.full(shape, np.nan)
        value[cell, example], effect[cell, example] = frame["value"], frame["effect"]
        outcome = np.where(np.isnan(effect).all(axis=1, keepdims=True), value, effect)
        clusters = np.zeros(shape[1], dtype=int)
        clusters[example] = cluster
        if np.isnan(outcome).any() or (clusters[example] != cluster).any():
            raise ResultsError(
                "the interventions were not all measured on the same examples; summarise each "
                "set by itself (results.query(...).summary())"
            )
        low, high = stats.mean_interval(outcome, clusters, seed=seed)
        means = _means(frame, cell)
        p = stats.sign_flip_p(outcome, clusters, seed=seed)
        p = np.where(np.isnan(means["effect"]), np.nan, p)
        return (
            first[[*CELL, "kind", "layer", "head"]]
            .join(means)
            .assign(low=low, high=high, p=p, q=stats.fdr(p), n=shape[1], clusters=len(names))
            .assign(resolution=first["metric"].map(self.resolution).astype(float))
        )

    def _few(self) -> str:
        """What so few clusters cannot say, where something is tested."""
        tested = bool(self.frame["effect"].notna().any())
        return stats.few_clusters(self.frame["cluster"].nunique()) if tested else ""

    @property
    def resolution(self) -> dict[str, float]:
        """What rounding alone does to each metric in one example, where that was measured."""
        known = self.provenance.get("resolution")
        found = known.items() if isinstance(known, Mapping) else ()
        return {name: float(x) for name, x in found if x is not None}

    @door
    def top(self, n: Count = 10, *, by: str = "effect") -> pd.DataFrame:
        """The n rows of `summary()` with the largest absolute value of column `by`.

        By `value` where there is no effect to rank by.

        Args:
            n: how many rows.
            by: a column of numbers: "effect", "value", "base", "low", "high", "p" or "q".

        Raises:
            ResultsError: a column that the summary has not, or that holds no numbers.
        """
        table = self._summarised()
        if by not in (known := numbers_of(table)):
            raise ResultsError(
                f"the summary has no numbers called {by!r} to rank by; {nearest(by, known)}"
            )
        if by == "effect" and np.isnan(table["effect"]).all():
            by = "value"
        order = np.argsort(-np.abs(table[by].to_numpy(dtype=float)), kind="stable")  # NaN: last
        return table.iloc[order[:n]].reset_index(drop=True)

    @door
    def grid(self, column: Measured = "effect") -> np.ndarray:
        """Mean of a column as an array: layers x heads, or layers x positions, or layers.

        Args:
            column: `"effect"`, `"value"` or `"base"`. A place that was not measured is NaN.

        Raises:
            ResultsError: several interventions for one place, or sites without a layer only.
        """
        cell, first = _cells(self.frame)
        first["mean"] = _means(self.frame, cell)[column]
        first = first.dropna(subset=["layer"])
        if first.empty:
            raise ResultsError("no row of the table has a layer, so there is no grid of layers.")
        if odd := [*no_numbers(first["layer"]), *no_numbers(first["head"])]:
            raise ResultsError(f"layers and heads of a grid are numbers, and here {shown(odd[0])}.")
        of_heads = ~np.asarray(first["head"].isna())
        if of_heads.any() and not of_heads.all():
            raise _several(first, ["kind"], "some sites are heads and some are not")
        across = "head" if of_heads.any() else "position"
        twice = np.flatnonzero(first.duplicated(["layer", across]))
        if len(twice):
            same = first.iloc[twice[:1]][["layer", across]].merge(first)
            place = f"layer {same['layer'][0]}, {across} {same[across][0]}"
            raise _several(same, CELL, f"{place} has {len(same)} interventions")
        rows = first["layer"].to_numpy(dtype=int)
        if across == "head":
            columns = first["head"].to_numpy(dtype=int)
        else:
            columns, _ = pd.factorize(first["position"], use_na_sentinel=False)
        array = np.full((rows.max() + 1, columns.max() + 1), np.nan)
        array[rows, columns] = first["mean"]
        return array[:, 0] if across == "position" and array.shape[1] == 1 else array

    def __repr__(self) -> str:
        shown = self._shown().to_string(float_format="{:.4g}".format)
        return "\n".join([f"Results: {len(self)} rows", shown, *self._notes()])

    def _repr_html_(self) -> str:
        title = f"<p><b>{len(self)} rows</b>, {escape(str(self.provenance.get('model', '')))}</p>"
        notes = "".join(f"<p>{escape(line)}</p>" for line in self._notes())
        return title + self._shown().to_html(float_format="{:.3g}".format) + notes

    def _notes(self) -> list[str]:
        """What is said under a table: of few clusters, and of numbers that are not exact."""
        notes, known = [], {m: x for m, x in self.resolution.items() if x > EXACT}
        if few := self._few():
            notes.append(f"{few.capitalize()}.")
        if known:
            each = ", ".join(f"{metric} by {x:.1g}" for metric, x in known.items())
            notes.append(f"Rounding alone moves {each}: smaller effects may be rounding.")
        return notes

    def _shown(self) -> pd.DataFrame:
        """The strongest interventions, or the first rows of a table that has no summary."""
        try:
            table = self.top()[[*CELL, *MEASURED, "low", "high", "q", "n"]]
        except ResultsError:
            table = self.frame.head(10)
        nothing = {"", "nan", "None", "<NA>"}
        empty = [c for c in table.columns if set(map(str, table[c])) <= nothing]
        return cast(pd.DataFrame, table).drop(columns=empty)


def numbers_of(table: pd.DataFrame) -> list[str]:
    """The columns that hold numbers."""
    return [str(c) for c in table if not no_numbers(table[c])]


def _cells(frame: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """A number for the intervention of each row, and the first row of each, in table order."""
    cell = frame.groupby(CELL, sort=False, dropna=False, observed=True).ngroup().to_numpy()
    _, first = np.unique(cell, return_index=True)
    return cell, frame.iloc[first].reset_index(drop=True)


def _means(frame: pd.DataFrame, cell: np.ndarray) -> pd.DataFrame:
    """Of each intervention over the examples; NaN where no example has the number."""
    columns = {name: np.asarray(frame[name], dtype=float) for name in MEASURED}
    return cast(pd.DataFrame, pd.DataFrame(columns).groupby(cell).mean())


def _refuse_doubled(frame: pd.DataFrame, cell: np.ndarray) -> None:
    places = pd.MultiIndex.from_arrays([cell, frame["example"]])
    twice = places.duplicated()
    if twice.any():
        same = frame.iloc[np.flatnonzero(places == places[twice][0])]
        fact = f"site {same['site'].iloc[0]} has {len(same)} rows for one example"
        raise _several(same, [c for c in COLUMNS if c not in MEASURED], fact)


def _several(frame: pd.DataFrame, columns: Sequence[str], fact: str) -> ResultsError:
    """The refusal of rows that stand in one place; names the columns in which they differ."""
    options = {c: found for c in columns if len(found := frame[c].unique()) > 1}
    if not options:
        return ResultsError(f"{fact}, alike in every column; a table was joined to itself")
    found = "; ".join(f"{c}: {', '.join(map(str, x[:6]))}" for c, x in options.items())
    column, value = next((c, x[0]) for c, x in options.items())
    chosen = f"{column} == {value!r}" if pd.notna(value) else f"{column}.isna()"
    return ResultsError(f'{fact} ({found}). Choose one set first: results.query("{chosen}").')
