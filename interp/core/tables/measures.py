"""Measures: numbers that come from the weights, with no examples, beside what chance gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy import stats as scipy_stats

from interp.core.door.door import door
from interp.core.errors import ResultsError
from interp.core.sampling import stats
from interp.core.tables.paired import partners
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
    cell = CELL
    ranked = ("z", "value")

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
