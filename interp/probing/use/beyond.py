"""What an erasure does beyond its controls, over documents and over draws of the controls."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Integer
from numpy import ndarray

from interp.core.door.door import door
from interp.core.errors import ResultsError, nearest
from interp.core.parts.sites import depth_of
from interp.core.sampling import stats
from interp.core.sampling.draws import Beside, beside_draws
from interp.core.tables.results import Results

METHOD = "erase"
DRAW = "draw"
"""The column with the number of a draw, in which its method ends; missing of what is no draw."""
CELL = ["site", "position", "receiver", "through", "direction", "metric"]
"""What an erasure and its control agree in, beside the example."""
PLACE = [*CELL, "kind", "layer", "head"]


@door
def beyond(results: Results, *, control: str | None = None) -> pd.DataFrame:
    """What erasing did beyond its controls: each erasure beside all draws of each control.

    Args:
        results: of `amnesic`.
        control: one kind, such as "random"; by default every kind that has draws.

    Returns:
        One row for each control, erasure and site: `method` ("erase leace - random"), `control`,
        `draws`; `base` (clean run), `changed` (mean change by the erasure), `by control` (mean
        change by the control's draws); `effect`, the difference of the two, with `low`, `high`,
        `p`, `q` (Benjamini-Hochberg over the rows), `n` and `clusters`. The interval is of the
        difference from one more draw, on more documents, and p is of the erasure being as one of
        the draws (`interp.core.sampling.draws`). Beside a control without draws (another erasure)
        the difference is paired, with the interval and p of `Results.summary`.

    Raises:
        ResultsError: no such kind, fewer than three draws of it, or it was not measured where the
            others were.
    """
    made = _Measured.of(results)
    fixed = [kind for kind in made.found if kind not in made.drawn]
    if control is None:
        against = [kind for kind in made.found if kind in made.drawn]
    else:
        against = [kind for kind in (f"{METHOD} {control}", control) if kind in made.found][:1]
    pairs = [(kind, other) for other in against for kind in fixed if kind != other]
    if not pairs:
        known = [kind.removeprefix(f"{METHOD} ") for kind in made.found]
        name = "a control that has draws" if control is None else repr(control)
        hint = f"They have {', '.join(known)}." if control is None else nearest(control, known)
        raise ResultsError(
            f"the results have no erasures to compare with {name}; {hint} Give amnesic() the "
            "control, and another kind that has no draws."
        )
    found = []
    for kind, other in pairs:
        at = made.where(kind)
        lost = at & ~made.where(other)
        if lost.any():
            site = made.cells["site"][int(lost.argmax())]
            name = other.removeprefix(f"{METHOD} ")
            raise ResultsError(
                f"the control {name!r} was not measured at '{site}'; measure it too."
            )
        value, drawn = made.found[kind][0][at], made.found[other][:, at]
        seen = made.beside(value, drawn, several=other in made.drawn)
        found.append(
            made.table(
                at,
                seen,
                method=f"{kind} - {other.removeprefix(f'{METHOD} ')}",
                control=other.removeprefix(f"{METHOD} "),
                draws=made.drawn.get(other),
                base=made.base[at].mean(-1),
                changed=(value - made.base[at]).mean(-1),
                **{"by control": (drawn - made.base[at]).mean((0, -1))},
            )
        )
    return _with_q(found)


@door
def by_kind(results: Results) -> pd.DataFrame:
    """What each kind of erasure changes, all draws of a control in one row for each site.

    Args:
        results: of `amnesic`.

    Returns:
        `method` ("erase random"), `draws`, `base`, `value`, `effect`, `low`, `high`, `p`, `q`, `n`,
        `clusters`. Of a kind without draws as `Results.summary` has them; of a control the
        interval is of one more draw, on more documents.

    Raises:
        ResultsError: fewer than three draws of a control, or tables that do not fit.
    """
    made = _Measured.of(results)
    found = []
    for kind, values in made.found.items():
        at = made.where(kind)
        several = kind in made.drawn
        base, value = made.base[at], values[:, at]
        if several:
            less = made.beside(base, value, several=True)
            seen = Beside(0 - less.effect, 0 - less.high, 0 - less.low, less.p)
        else:
            seen = made.beside(value[0], base[None], several=False)
        means = {"base": base.mean(-1), "value": value.mean((0, -1))}
        found.append(made.table(at, seen, method=kind, draws=made.drawn.get(kind), **means))
    return _with_q(found)


@dataclass(frozen=True, eq=False)
class _Measured:
    """The numbers of a table as arrays, those of all draws of a kind together.

    Attributes:
        cells: what names each place that was erased at.
        base: on the clean run.
        found: values by kind; NaN where a kind was not measured.
        drawn: how many draws there are of the kinds that have some.
    """

    cells: pd.DataFrame
    cluster: Integer[ndarray, " example"]
    base: Float[ndarray, "cell example"]
    found: Mapping[str, Float[ndarray, "draw cell example"]]
    drawn: Mapping[str, int]

    @classmethod
    def of(cls, results: Results) -> "_Measured":
        frame = results.frame
        if DRAW not in frame:
            raise ResultsError(
                f"the table has no column {DRAW!r}, so it is none of amnesic's: its methods are "
                f"{', '.join(map(str, frame['method'].unique()[:5]))}. Run amnesic again."
            )
        if "crossed" in frame:
            raise ResultsError(
                "draws have no interval over crossed clusters; drop the column 'crossed' from the "
                "frame to resample one kind, the one with fewer units."
            )
        if frame.empty:
            raise ResultsError("the table has no rows; the query that made it found nothing.")
        cell = frame.groupby(CELL, sort=False, dropna=False, observed=True).ngroup().to_numpy()
        _, first = np.unique(cell, return_index=True)
        example, _ = pd.factorize(frame["example"], sort=True)
        code, _ = pd.factorize(frame["cluster"], sort=True)
        shape = (len(first), int(example.max(initial=-1)) + 1)
        cluster, base = np.zeros(shape[1], dtype=int), np.full(shape, np.nan)
        cluster[example], base[cell, example] = code, frame["base"]
        kinds: dict[str, list[ndarray]] = {}
        drawn: dict[str, int] = {}
        methods = frame["method"].astype(str)
        for (method, draw), rows in frame.groupby([methods, frame[DRAW]], sort=False, dropna=False):
            kind = method if pd.isna(draw) else method.removesuffix(f" {draw}")
            place = frame.index.get_indexer(rows.index)
            if pd.MultiIndex.from_arrays([cell[place], example[place]]).has_duplicates:
                raise ResultsError(
                    f"{method!r} was measured twice in one place; a table was joined to itself, "
                    "two kinds have one name, or it is of two models: choose one first (query)."
                )
            values = np.full(shape, np.nan)
            values[cell[place], example[place]] = rows["value"]
            kinds.setdefault(kind, []).append(values)
            if pd.notna(draw):
                drawn[kind] = len(kinds[kind])
        cells = frame.iloc[first][PLACE].reset_index(drop=True)
        values = {kind: np.stack(of) for kind, of in kinds.items()}
        if part := [
            kind
            for kind, of in values.items()
            if (np.isnan(of).any((0, 2)) & ~np.isnan(of).all((0, 2))).any()
        ]:
            raise ResultsError(
                f"{part[0]!r} was not measured on the same examples everywhere, or not by all of "
                "its draws. Compare what was measured on the same ones."
            )
        return cls(cells, cluster, base, values, drawn)

    def where(self, kind: str) -> Bool[ndarray, " cell"]:
        """The places where a kind was measured."""
        return ~np.isnan(self.found[kind]).all((0, 2))

    def beside(
        self,
        value: Float[ndarray, "some example"],
        other: Float[ndarray, "draw some example"],
        *,
        several: bool,
    ) -> Beside:
        """Differences from one more draw; or, paired, from the only other."""
        if several:
            return beside_draws(value, np.moveaxis(other, 0, 1), self.cluster)
        less = value - other[0]
        low, high = stats.mean_interval(less, self.cluster)
        return Beside(less.mean(-1), low, high, stats.sign_flip_p(less, self.cluster))

    def table(
        self, at: Bool[ndarray, " cell"], seen: Beside, *, draws: int | None, **columns: object
    ) -> pd.DataFrame:
        """Rows of the places, with what was found there."""
        count = pd.array([pd.NA if draws is None else draws] * int(at.sum()), dtype="Int16")
        found = {"effect": seen.effect, "low": seen.low, "high": seen.high, "p": seen.p}
        size = {"n": len(self.cluster), "clusters": len(np.unique(self.cluster))}
        known = self.cells[at].reset_index(drop=True)
        depth = pd.array(list(map(depth_of, known["site"])), dtype="Int16")
        known.insert(list(known).index("layer") + 1, "depth", depth)
        return known.assign(draws=count, **columns, **found, **size)


def _with_q(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows, with the q of their family after p."""
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(q=stats.fdr(table["p"].to_numpy()))
    first = [name for name in ("method", "control") if name in table]
    last = ["p", "q", "n", "clusters"]
    return table[[*first, *(name for name in table if name not in first + last), *last]]
