"""Measures: numbers that come from the weights, with no examples, beside what chance gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy import stats as scipy_stats

from interp.core.door.door import door
from interp.core.door.taken import Count
from interp.core.errors import ResultsError, nearest
from interp.core.sampling import stats
from interp.core.tables.paired import partners
from interp.core.tables.results import numbers_of
from interp.core.tables.table import Table

COLUMNS = ["measure", "site", "other", "layer", "head", "value", "null", "null_sd", "z", "p", "q"]
CELL = COLUMNS[:5]


@door
@dataclass(frozen=True, eq=False, repr=False)
class Measures(Table):
    """What weights say: one row for each measure and site, or pair of sites.

    Attributes:
        frame: `measure`: what was measured ("copying", "k_composition"). `site`, `layer`, `head`:
            of what. `other`: the second site of a pair, "" otherwise. `null`, `null_sd`: mean and
            standard deviation of the same number under the null that the measure names; `z` the
            distance from it, `p` two-sided unless the measure says otherwise, `q`
            Benjamini-Hochberg over the rows made in one call. NaN where there is no null. A measure
            may have columns of its own behind these.
    """

    columns = COLUMNS
    numbers = ("layer", "head", "value", "null", "null_sd", "z", "p", "q")

    @classmethod
    @door
    def of(
        cls,
        cells: pd.DataFrame,
        *,
        provenance: Mapping[str, Any],
        value: Float[ndarray, " rows"],
        null: Float[ndarray, " nulls"] | Real = np.nan,
        null_sd: Float[ndarray, " sds"] | Real = np.nan,
        p: Float[ndarray, " tests"] | None = None,
    ) -> "Measures":
        """A table of one family of tests.

        Args:
            cells: `measure`, `site`, and whatever else tells the rows apart; `other` is "" and
                `layer` and `head` missing where they are not given.
            value: of each cell.
            null, null_sd: mean and standard deviation under the null, of each cell or of all; NaN
                where there is none.
            p: by default that of z under a normal distribution, two-sided. A row whose null does
                not vary has no z, p and q.

        Raises:
            ResultsError: not one number for each cell.
        """
        given = {"value": value, "null": null, "null_sd": null_sd, "p": p}
        sizes = {name: len(x) for name, x in given.items() if isinstance(x, ndarray)}
        if odd := {name: size for name, size in sizes.items() if size != len(cells)}:
            told = ", ".join(f"{size} of {name}" for name, size in odd.items())
            raise ResultsError(f"{len(cells)} cells and {told}; give one number for each cell.")
        null, null_sd = (
            np.broadcast_to(np.asarray(x, dtype=float), value.shape) for x in (null, null_sd)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(null_sd > 0, (value - null) / null_sd, np.nan)
        p = 2 * scipy_stats.norm.sf(np.abs(z)) if p is None else np.where(np.isnan(z), np.nan, p)
        given = {"other": "", "layer": None, "head": None}
        frame = cells.assign(**{k: v for k, v in given.items() if k not in cells})
        frame = frame.assign(value=value, null=null, null_sd=null_sd, z=z, p=p, q=stats.fdr(p))
        frame = frame.astype({"layer": "Int16", "head": "Int16", "value": float})
        own = [c for c in frame if c not in COLUMNS]
        return cls(frame[[*COLUMNS, *own]].reset_index(drop=True), provenance)

    @door
    def minus(self, other: "Measures", *, ignoring: Sequence[str] = ()) -> pd.DataFrame:
        """Difference of each value and its counterpart's in the other table: what training did.

        Weights have no sampling error, so there is no interval and no test; `null_sd` of either
        table says what chance alone does.

        Args:
            ignoring: of `measure`, `site`, `other`: columns in which counterparts differ. A
                single row in `other` is everyone's counterpart.

        Returns:
            The rows with `value` (the difference), `mine` and `theirs`.

        Raises:
            ResultsError: no counterpart.
        """
        names = ["measure", "site", "other"]
        partner = partners(
            self.frame[names], other.frame[names], ignoring=ignoring, alike="measure"
        )
        mine = self.frame["value"].to_numpy(dtype=float)
        theirs = other.frame["value"].to_numpy(dtype=float)[partner]
        return self.frame[CELL].assign(value=mine - theirs, mine=mine, theirs=theirs)

    @door
    def top(self, n: Count = 10, *, by: str = "z") -> pd.DataFrame:
        """The n rows with the largest absolute value of a column; by `value` if none has a z.

        Raises:
            ResultsError: no such column, or one that holds no numbers.
        """
        if by not in (known := numbers_of(self.frame)):
            raise ResultsError(f"measures have no numbers called {by!r}; {nearest(by, known)}")
        if by == "z" and self.frame["z"].isna().all():
            by = "value"
        order = np.argsort(-np.abs(self.frame[by].to_numpy(dtype=float)), kind="stable")
        return self.frame.iloc[order[:n]].reset_index(drop=True)

    @door
    def grid(self, column: str = "value") -> Float[ndarray, "layer head"]:
        """A column as an array of layers x heads; NaN where there is no row.

        Raises:
            ResultsError: rows that are of no head, several rows for one head, or no such column of
                numbers.
        """
        if column not in (known := numbers_of(self.frame)):
            raise ResultsError(
                f"measures have no numbers called {column!r}; {nearest(column, known)}"
            )
        frame = self.frame.dropna(subset=["layer"])
        if frame.empty or frame["head"].isna().any():
            raise ResultsError("a grid needs rows of heads, and these are of other sites.")
        twice = frame.duplicated(["layer", "head"])
        if twice.any():
            same = frame[twice].iloc[0]
            raise ResultsError(
                f"head {same['layer']}.{same['head']} has several rows; choose one of each head "
                "first, as in measures.query(\"measure == 'copying'\")"
            )
        rows, columns = (frame[name].to_numpy(dtype=int) for name in ("layer", "head"))
        array = np.full((rows.max() + 1, columns.max() + 1), np.nan)
        array[rows, columns] = frame[column].to_numpy(dtype=float)
        return array

    def __repr__(self) -> str:
        shown = self._shown().to_string(float_format="{:.4g}".format)
        return f"Measures: {len(self)} rows\n{shown}"

    def _repr_html_(self) -> str:
        title = f"<p><b>{len(self)} rows</b>, {escape(str(self.provenance.get('model', '')))}</p>"
        return title + self._shown().to_html(float_format="{:.3g}".format)

    def _shown(self) -> pd.DataFrame:
        """The first rows, without the columns that are empty."""
        table = self.frame.head(20)
        nothing = {"", "nan", "None", "<NA>"}
        empty = [c for c in table.columns if set(map(str, table[c])) <= nothing]
        return cast(pd.DataFrame, table.drop(columns=empty))
