"""Scores: how well something is read off activations or attention, summed within clusters.

A score is a ratio of sums (right answers over words), and documents are what is resampled; so one
row for each cell and document is all that intervals and tests need, however many words there are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float, Integer
from numpy import ndarray

from interp.core.door.door import door
from interp.core.door.taken import Index, Seed
from interp.core.errors import ResultsError, SiteError
from interp.core.parts.sites import Site, depth_of
from interp.core.sampling import stats
from interp.core.tables.paired import partners
from interp.core.tables.table import Table

CELL = ["task", "site", "layer", "head", "probe", "model", "labels", "metric", "subset"]
"""Columns that together name one score."""
COLUMNS = [*CELL, "cluster", "total", "n"]


@door
@dataclass(frozen=True, eq=False, repr=False)
class Scores(Table):
    """Totals by cell and cluster (document).

    Attributes:
        frame: `task`: what is asked ("upos", "nsubj"). `site`, `layer`, `head`: of what (empty and
            missing for a baseline that looks at no activation), as in Results. `depth`: layers
            that what stands at the site has behind it, 0 for the embedding. `probe`: what answers
            ("linear", "majority", "offset -1"). `model`: "trained", "random" (same architecture,
            random weights) or "none"; `named` gives the trained one another name. `labels`:
            "real", or "control" (Hewitt & Liang 2019). `metric`: "accuracy", "bits", ... `subset`:
            of the examples ("all", "unseen"). `total`: sum of the metric over the `n` examples of
            the cluster.
    """

    columns = COLUMNS
    numbers = ("layer", "head", "total", "n")
    cell = CELL

    def __post_init__(self) -> None:
        super().__post_init__()
        if "depth" not in self.frame:
            frame = self.frame.copy(deep=False)
            known = {site: depth_of(site) for site in frame["site"].unique()}
            depth = pd.array([known[site] for site in frame["site"]], dtype="Int16")
            frame.insert(list(frame).index("layer") + 1, "depth", depth)
            object.__setattr__(self, "frame", frame)

    @classmethod
    @door
    def of(
        cls,
        values: Float[ndarray, " examples"],
        cluster: Sequence[str] | ndarray,
        *,
        provenance: Mapping[str, Any],
        task: str,
        probe: str,
        site: str = "",
        layer: Index | None = None,
        head: Index | None = None,
        model: str = "none",
        labels: str = "real",
        metric: str = "accuracy",
        subset: str = "all",
    ) -> "Scores":
        """One cell from the metric of each example; NaN examples are not counted.

        Args:
            values: of each example.
            cluster: of each example: what is resampled, such as its document.
            layer, head: of what is no site; those of a site are read off its name.

        Raises:
            ResultsError: not a cluster for each value.
        """
        if len(cluster) != len(values):
            raise ResultsError(
                f"{len(values)} values of {task!r} and {len(cluster)} clusters; give the cluster "
                "of each example, in the same order."
            )
        try:
            place = Site.parse(site)
            layer, head = place.layer, place.head
        except SiteError:
            pass  # a mix of sites, or none
        if pd.isna(np.asarray(cluster, dtype=object)).any():
            lost = int(np.argmax(pd.isna(np.asarray(cluster, dtype=object))))
            raise ResultsError(
                f"example {lost} of {task!r} has no cluster ({cluster[lost]}); give each its own, "
                "or leave such examples out."
            )
        kept = ~np.isnan(values)
        code, names = pd.factorize(np.asarray(cluster)[kept], sort=True)
        frame = pd.DataFrame(
            {
                "task": task,
                "site": site,
                "layer": layer,
                "head": head,
                "probe": probe,
                "model": model,
                "labels": labels,
                "metric": metric,
                "subset": subset,
                "cluster": names.astype(str),
                "total": np.bincount(code, values[kept], len(names)),
                "n": np.bincount(code, minlength=len(names)),
            }
        )
        types = {"layer": "Int16", "head": "Int16", "total": float, "n": "int64"}
        return cls(frame.astype(types), provenance)

    @door
    def summary(self, *, seed: Seed = 0) -> pd.DataFrame:
        """Each score with its 95 % interval over clusters.

        Columns: those that name the cell, `value` (ratio of sums), `low`, `high`, `n` (examples),
        `clusters`.

        Raises:
            ResultsError: a cell that has a cluster twice.
        """
        cells, totals, counts = self._sums()
        low, high = stats.ratio_interval(totals, counts, seed=seed)
        with np.errstate(invalid="ignore"):
            value = totals.sum(1) / counts.sum(1)
        return _with_depth(cells).assign(
            value=value,
            low=low,
            high=high,
            n=counts.sum(1).astype(int),
            clusters=(counts > 0).sum(1),
        )

    @door
    def minus(
        self,
        other: "Scores",
        *,
        ignoring: Sequence[str] = (),
        alternative: stats.Alternative = "two-sided",
        seed: Seed = 0,
    ) -> pd.DataFrame:
        """Paired difference of each score of this table and its counterpart in the other.

        Selectivity is `scores.query("labels == 'real'").minus(scores.query("labels ==
        'control'"), ignoring=["labels"])`.

        Args:
            ignoring: columns in which counterparts differ; all other columns of the cell agree.
                With a single cell in `other` (a baseline), that cell is everyone's counterpart.
            alternative: `"greater"` tests only whether this table's scores are the higher ones.

        Returns:
            This table's cells with `value` (the difference), `low`, `high` (its 95 % interval),
            `p` (sign flip of whole clusters), `q` (Benjamini-Hochberg over the rows), `n`,
            `clusters`.

        Raises:
            ResultsError: no counterpart, or one that was not measured on the same examples.
        """
        cells, totals, counts = self._sums()
        others, subtracted, of_others = other._sums(self._clusters)
        partner = partners(cells, others, ignoring=ignoring, alike="metric")
        if not np.array_equal(counts, of_others[partner]):
            raise ResultsError(
                "the two tables were not measured on the same examples, so their difference has "
                "no paired interval; score both on the same ones"
            )
        difference = totals - subtracted[partner]
        low, high = stats.ratio_interval(difference, counts, seed=seed)
        each = np.arange(difference.shape[1])
        p = stats.sign_flip_p(difference, each, alternative=alternative, seed=seed)
        return _with_depth(cells).assign(
            value=difference.sum(1) / counts.sum(1),
            low=low,
            high=high,
            p=p,
            q=stats.fdr(p),
            n=counts.sum(1).astype(int),
            clusters=(counts > 0).sum(1),
        )

    @door
    def named(self, model: str) -> "Scores":
        """The same with a name for the trained model: "before" and "after", or an adapter's.

        Tables of several models can then stand in one (`Scores.concat`), and be compared
        (`minus(..., ignoring=["model"])`).
        """
        names = self.frame["model"].astype(object).replace("trained", model)
        return Scores(self.frame.assign(model=names), self.provenance)

    @door
    def best(self, *, largest: bool = True) -> pd.Series:
        """The row of `summary()` with the largest (smallest) value; choose on a split of its own.

        Raises:
            ResultsError: an empty table.
        """
        if not len(self):
            raise ResultsError("no scores to choose from; the query that made this table is empty")
        table = self.summary()
        return table.loc[table["value"].idxmax() if largest else table["value"].idxmin()]

    @property
    def _clusters(self) -> ndarray:
        return np.unique(self.frame["cluster"].to_numpy(dtype=str))

    def _sums(
        self, clusters: ndarray | None = None
    ) -> tuple[pd.DataFrame, Float[ndarray, "cells clusters"], Float[ndarray, "cells clusters"]]:
        """The cells in table order, with totals and counts of each cluster."""
        frame = self.frame
        clusters = self._clusters if clusters is None else clusters
        cell = frame.groupby(CELL, sort=False, dropna=False, observed=True).ngroup().to_numpy()
        _, first = np.unique(cell, return_index=True)
        names = frame["cluster"].to_numpy(dtype=str)
        at: Integer[ndarray, " rows"] = np.searchsorted(clusters, names)
        if (at == len(clusters)).any() or (
            clusters[np.minimum(at, len(clusters) - 1)] != names
        ).any():
            raise ResultsError(
                "the two tables were not measured on the same documents; score both on the same"
            )
        if pd.MultiIndex.from_arrays([cell, at]).duplicated().any():
            raise ResultsError(
                f"a score has a cluster twice; the columns {CELL} must tell scores apart"
            )
        totals, counts = np.zeros((2, len(first), len(clusters)))
        totals[cell, at], counts[cell, at] = frame["total"], frame["n"]
        return frame.iloc[first][CELL].reset_index(drop=True), totals, counts

    def _ranking(self) -> pd.DataFrame:
        return self.summary()

    def _notes(self) -> list[str]:
        few = stats.few_clusters(self.frame["cluster"].nunique())
        return [f"{few.capitalize()}."] if few else []

    def _shown(self) -> pd.DataFrame:
        """The first scores, without the columns that are the same for all of them or empty."""
        table = self.summary().head(20)
        said = [c for c in CELL if table[c].nunique(dropna=False) > 1] or ["task"]
        return cast(pd.DataFrame, table[[*said, "value", "low", "high", "n", "clusters"]])


def _with_depth(cells: pd.DataFrame) -> pd.DataFrame:
    """The columns of cells, with their depth beside the layer."""
    depth = pd.array(list(map(depth_of, cells["site"])), dtype="Int16")
    found = cells.copy()
    found.insert(list(found).index("layer") + 1, "depth", depth)
    return found
