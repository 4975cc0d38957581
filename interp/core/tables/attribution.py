"""Attribution: for each edge or node a number of how much it does, example by example."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed, shown
from interp.core.errors import ResultsError
from interp.core.parts.circuit import Part
from interp.core.parts.edges import Edge
from interp.core.sampling import stats
from interp.core.tables.paired import require_same_prompts
from interp.core.tables.table import Table
from interp.core.tables.wide import ByExample, difference

CELL = ["method", "site", "position", "metric"]
"""Columns that together name one part."""
COLUMNS = ["method", "site", "position", "writer", "reader", "metric", "score", "each"]


@door
@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Table):
    """What methods estimate, or exact patching measures, that cutting each part does.

    A score has the sign of `Results.effect`: the metric with the part ablated less the metric
    without, so a part that helps has a negative one.

    Attributes:
        frame: one row for each part: `site` ("20.1 -> 23.3.q", "23.3") and `position` ("all" or a
            name); `writer` and `reader` of an edge, "" both of a node; `score` the mean over the
            examples, `each` an array of them.
        provenance: also `cluster`, one for each example.
    """

    columns = COLUMNS
    numbers = ("score",)
    cell = CELL
    ranked = ("score",)
    drawn = "score"

    def __post_init__(self) -> None:
        super().__post_init__()
        cluster = self.provenance.get("cluster")
        if not isinstance(cluster, Sequence) or isinstance(cluster, str):
            raise ResultsError(
                "the provenance of an attribution says of which cluster each example is: "
                f"provenance['cluster'] is a list of names, not {shown(cluster)}. Make tables with "
                "Attribution.of, or read them with Attribution.load."
            )
        sizes = set(map(np.size, self.frame["each"])) - {len(cluster)}
        if sizes:
            raise ResultsError(
                f"a part has scores of {min(sizes)} examples, and there are clusters of "
                f"{len(cluster)}; give the score of each part in each example."
            )

    @classmethod
    @door
    def of(
        cls,
        parts: Sequence[Part],
        each: Float[ndarray, "part example"],
        *,
        cluster: Sequence[str],
        method: str,
        metric: str,
        provenance: Mapping[str, Any],
    ) -> "Attribution":
        """A table of parts and their scores.

        Args:
            parts: one for each row of `each`.
            each: the score of each part in each example.
            cluster: of each example.

        Raises:
            ResultsError: not a row of scores for each part, or not a cluster for each example.
        """
        if each.shape != (len(parts), len(cluster)):
            raise ResultsError(
                f"{len(parts)} parts and clusters of {len(cluster)} examples, and scores of shape "
                f"{each.shape} (part, example); give a score of each part in each example."
            )
        edges = [part.of if isinstance(part.of, Edge) else None for part in parts]
        frame = pd.DataFrame(
            {
                "method": method,
                "site": [str(part.of) for part in parts],
                "position": [part.place for part in parts],
                "writer": ["" if edge is None else str(edge.writer) for edge in edges],
                "reader": ["" if edge is None else str(edge.reader) for edge in edges],
                "metric": metric,
                "score": each.mean(1, dtype=np.float64),
                "each": list(each),
            },
            columns=COLUMNS,
        )
        return cls(frame, {**provenance, "cluster": list(cluster)})

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The parts in the order of the rows."""
        rows = zip(self.frame["site"], self.frame["position"], strict=True)
        return tuple(Part(Part.parse(site).of, place) for site, place in rows)

    @property
    def scores(self) -> Float[ndarray, " part"]:
        """The mean score of each part."""
        return self.frame["score"].to_numpy(dtype=float)

    @property
    def each(self) -> Float[ndarray, "part example"]:
        """The score of each part in each example."""
        rows = self.frame["each"].to_list()
        return np.stack(rows) if rows else np.empty((0, len(self.cluster)))

    @property
    def cluster(self) -> list[str]:
        """Of each example."""
        return list(self.provenance["cluster"])

    @door
    def resampled(self, *, seed: Seed) -> "Attribution":
        """The same examples with whole clusters drawn again with replacement (bootstrap)."""
        names, code = np.unique(self.cluster, return_inverse=True)
        drawn = np.random.default_rng(seed).integers(len(names), size=len(names))
        chosen = np.concatenate([np.flatnonzero(code == cluster) for cluster in drawn])
        each = self.each[:, chosen]
        frame = self.frame.assign(score=each.mean(1, dtype=np.float64), each=list(each))
        cluster = [self.cluster[i] for i in chosen]
        return Attribution(frame, {**self.provenance, "cluster": cluster})

    @door
    def top(self, n: Count = 10, *, by: str | None = None) -> pd.DataFrame:
        """The n parts of the largest absolute score, with 95 % intervals over clusters."""
        chosen = super().top(n, by=by)
        rows = chosen["each"].to_list()
        each = np.stack(rows).astype(float) if rows else np.empty((0, len(self.cluster)))
        low, high = stats.mean_interval(each, np.unique(self.cluster, return_inverse=True)[1])
        return chosen.drop(columns="each").assign(low=low, high=high)

    @door
    def minus(
        self,
        other: "Attribution",
        *,
        ignoring: Sequence[str] = (),
        alternative: stats.Alternative = "two-sided",
        seed: Seed = 0,
    ) -> pd.DataFrame:
        """Paired difference of each part's score and its counterpart's in the other table.

        Args:
            other: of the same examples: another method, ablation or model.
            ignoring: of `method`, `site`, `position`, `metric`: columns in which counterparts
                differ. A single part in `other` is everyone's counterpart.
            alternative: `"greater"` tests only whether this table's scores are the higher ones.

        Returns:
            The parts with `value` (the difference of the mean scores), `low`, `high` (its 95 %
            interval over clusters), `p` (sign flip of whole clusters), `q` (Benjamini-Hochberg
            over the rows), `n`, `clusters`.

        Raises:
            ResultsError: no counterpart, or other examples.
        """
        require_same_prompts(self.provenance, other.provenance)
        return difference(
            *(self._by_example(), other._by_example()),
            **{"ignoring": ignoring, "column": "score", "alternative": alternative, "seed": seed},
        )

    @door
    def beside(self, other: "Attribution") -> pd.DataFrame:
        """Scores of the parts that both have: `site`, `position`, `score`, `other`.

        Raises:
            ResultsError: no part in common.
        """
        keys = ["site", "position"]
        theirs = other.frame[[*keys, "score"]].rename(columns={"score": "other"})
        both = self.frame[[*keys, "score"]].merge(theirs, on=keys)
        if both.empty:
            mine, theirs = (
                f["site"].iloc[0] if len(f) else "none" for f in (self.frame, other.frame)
            )
            raise ResultsError(
                f"the two attributions have no part in common ({mine} and {theirs}, for example); "
                "are both of edges, at the same positions?"
            )
        return both

    def _by_example(self) -> ByExample:
        units = np.unique(self.cluster, return_inverse=True)[1]
        measured = {"score": self.each.astype(float)}
        return ByExample(self.frame, np.asarray(self.cluster), measured, (units,), CELL, ())

    def _counted(self) -> str:
        return f"{len(self)} parts, {len(self.cluster)} examples"

    def _shown(self) -> pd.DataFrame:
        return self.top()
