"""Results as interventions x examples: tested, compared with others, and as shares of something."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import pandas as pd

from interp.core.errors import ResultsError
from interp.core.sampling import stats
from interp.core.tables.paired import partners
from interp.core.tables.table import several

COLUMNS = [
    *("model", "method", "site", "position", "receiver", "direction", "metric"),
    *("kind", "layer", "head", "through", "engine"),
    *("example", "cluster", "base", "value", "effect"),
]
CELL = ["model", "method", "site", "position", "receiver", "through", "direction", "metric"]
"""Columns that together name one intervention; the rest of a row is its example and numbers."""
MEASURED = ["base", "value", "effect"]
Measured = Literal["effect", "value", "base"]


@dataclass(frozen=True)
class ByExample:
    """The measured columns of interventions x examples.

    Attributes:
        first: a row of each intervention, or of each part of an attribution.
        examples: their numbers.
        of: each measured column.
        units: of each kind of independent units, that of each example.
    """

    first: pd.DataFrame
    examples: np.ndarray
    measured: Mapping[str, np.ndarray]
    units: tuple[np.ndarray, ...]
    cell: Sequence[str] = tuple(CELL)
    beside: Sequence[str] = ("kind", "layer", "head")
    """Columns of `first` that name a row, and others that a table of them shows."""

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "ByExample":
        """Of a long table.

        Raises:
            ResultsError: an intervention that lacks examples, or has one twice.
        """
        cell, first = cells_of(frame)
        _refuse_doubled(frame, cell)
        example, examples = pd.factorize(frame["example"], sort=True)
        shape = (len(first), len(examples))
        measured = {name: np.full(shape, np.nan) for name in MEASURED}
        for name, values in measured.items():
            values[cell, example] = frame[name]
        seen = np.zeros(shape, dtype=bool)
        seen[cell, example] = frame["value"].notna()
        whole = bool(seen.all())
        units: list[np.ndarray] = []
        for kind in kinds_of(frame):
            code, _ = pd.factorize(frame[kind], sort=True)
            at = np.zeros(shape[1], dtype=int)
            at[example] = code
            whole &= bool((at[example] == code).all())
            units.append(at)
        lost = np.isnan(measured["effect"])
        if not whole or (lost.any(axis=1) & ~lost.all(axis=1)).any():
            raise ResultsError(
                "the interventions were not all measured on the same examples; summarise each "
                "set by itself (results.query(...).summary())"
            )
        return cls(first, np.asarray(examples), measured, tuple(units))

    @property
    def clusters(self) -> int:
        """Units, of two crossed kinds those of the kind that has fewer."""
        return min(len(np.unique(of)) for of in self.units)

    @property
    def named(self) -> pd.DataFrame:
        """The columns that say what was intervened on."""
        return cast(pd.DataFrame, self.first[[*self.cell, *self.beside]])

    def mean(self, column: str) -> np.ndarray:
        """Of each intervention over the examples; NaN where no example has the number."""
        values = self.measured[column]
        return values.mean(axis=1) if values.size else np.full(len(values), np.nan)

    def tested(
        self, values: np.ndarray, *, alternative: stats.Alternative = "two-sided", seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Low and high end of the interval of the mean, and p that it is 0."""
        if len(self.units) > 1:
            return stats.crossed_interval(values, *self.units, alternative=alternative)
        low, high = stats.mean_interval(values, self.units[0], seed=seed)
        p = stats.sign_flip_p(values, self.units[0], alternative=alternative, seed=seed)
        return low, high, p


def difference(
    mine: ByExample,
    theirs: ByExample,
    *,
    ignoring: Sequence[str],
    column: str,
    alternative: stats.Alternative,
    seed: int,
) -> pd.DataFrame:
    """Each intervention less its counterpart, example by example; see `Results.minus`."""
    cells, others = (x.first[list(x.cell)] for x in (mine, theirs))
    partner = partners(cells, others, ignoring=ignoring, alike="metric")
    same = np.array_equal(mine.examples, theirs.examples) and len(mine.units) == len(theirs.units)
    if not same or not all(map(np.array_equal, mine.units, theirs.units)):
        raise ResultsError(
            "the two tables were not measured on the same examples, so their difference has no "
            "paired interval; measure both on the same pairs."
        )
    if column == "effect" and np.isnan(mine.measured["effect"]).all():
        column = "value"  # nothing was intervened on
    apart = mine.measured[column] - theirs.measured[column][partner]
    low, high, p = mine.tested(apart, alternative=alternative, seed=seed)
    found = {"value": apart.mean(axis=1), "low": low, "high": high, "p": p, "q": stats.fdr(p)}
    return mine.named.assign(**found, n=apart.shape[1], clusters=mine.clusters)


def shares(wide: ByExample, ends: pd.DataFrame | None, *, seed: int) -> pd.DataFrame:
    """Effects as shares of the base, or values between two ends; see `Results.relative`."""
    if len(wide.units) > 1:
        raise ResultsError(
            "shares have no interval over crossed clusters; drop the column 'crossed' from the "
            "frame to resample one kind, or report the effects themselves (summary)."
        )
    if ends is None:
        part, whole = wide.measured["effect"], wide.measured["base"]
    else:
        corrupt, clean = _ends(ends, wide)
        part, whole = wide.measured["value"] - corrupt, clean - corrupt
    low, high = stats.mean_interval(whole, wide.units[0], seed=seed)
    apart = (low > 0) | (high < 0)
    if not apart.all():
        row = int(np.argmin(apart))
        of = "the base" if ends is None else "clean - corrupt"
        raise ResultsError(
            f"{of} of {wide.first['metric'][row]!r} is {whole[row].mean():.3g} "
            f"[{low[row]:.3g}, {high[row]:.3g}] on average, not apart from 0, and a share of it "
            "would mean nothing. Report the effects themselves (summary), or take more pairs, or "
            "a metric that tells the two prompts apart."
        )
    parts, wholes = (stats.cluster_sums(x, wide.units[0])[0] for x in (part, whole))
    low, high = stats.ratio_interval(parts, wholes, seed=seed)
    value = part.mean(axis=1) / whole.mean(axis=1)
    return wide.named.assign(
        value=value, low=low, high=high, n=part.shape[1], clusters=wide.clusters
    )


def _ends(frame: pd.DataFrame, wide: ByExample) -> tuple[np.ndarray, np.ndarray]:
    """The metric of each intervention of another table, on the corrupt and the clean prompts.

    Raises:
        ResultsError: not measured of these metrics or examples.
    """
    found = []
    for side in ("corrupt", "clean"):
        mine = frame[frame["position"] == side]
        table = mine.pivot(index="metric", columns="example", values="value")
        missing = set(wide.first["metric"]) - set(table.index)
        if missing or not np.array_equal(table.columns.to_numpy(), wide.examples):
            told = f"of {', '.join(map(repr, sorted(missing)))}" if missing else "there"
            raise ResultsError(
                f"the ends have no values {told} of the {side} prompts of the same examples. "
                "Give interp.evaluate(model, pairs, metric=...) of the same pairs and metrics."
            )
        found.append(table.loc[wide.first["metric"]].to_numpy(dtype=float))
    return found[0], found[1]


def kinds_of(frame: pd.DataFrame) -> list[str]:
    """The columns of a table that hold independent units."""
    return [kind for kind in ("cluster", "crossed") if kind in frame]


def cells_of(frame: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """A number for the intervention of each row, and the first row of each, in table order."""
    cell = frame.groupby(CELL, sort=False, dropna=False, observed=True).ngroup().to_numpy()
    _, first = np.unique(cell, return_index=True)
    return cell, frame.iloc[first].reset_index(drop=True)


def _refuse_doubled(frame: pd.DataFrame, cell: np.ndarray) -> None:
    places = pd.MultiIndex.from_arrays([cell, frame["example"]])
    twice = places.duplicated()
    if twice.any():
        same = frame.iloc[np.flatnonzero(places == places[twice][0])]
        fact = f"site {same['site'].iloc[0]} has {len(same)} rows for one example"
        raise several(same, [c for c in COLUMNS if c not in MEASURED], fact)
