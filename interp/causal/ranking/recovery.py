"""How well a ranking finds a circuit that is known: over all thresholds, ties without an order.

A ranking is a score for each part, and every threshold makes a circuit of it. True parts are few
(Conmy et al. 2023, sec. 4), so beside the area under the ROC curve stand average precision and
precision at the circuit's own size, each with what a ranking by chance gets: the prevalence.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import rankdata

from interp.core.door.door import door
from interp.core.door.taken import AtLeast0
from interp.core.errors import ResultsError
from interp.core.parts.circuit import Part
from interp.core.parts.edges import Edge
from interp.core.tables.attribution import Attribution
from interp.core.tables.saved import Saved
from interp.core.tables.table import Table

COLUMNS = ["model", "method", "ablation", "corruption", "granularity", "auroc"]
COLUMNS += ["average_precision", "r_precision", "level", "n", "n_true", "prevalence"]
NOISE = 1e-7
"""Scores under this share of the largest are 0: single precision cannot tell them from rounding."""


@dataclass(frozen=True)
class Found(Saved):
    """What a ranking has found of a circuit.

    Attributes:
        auroc: area under the ROC curve: the chance that a true part stands above a false one, a tie
            counting half. 0.5 by chance.
        average_precision: precision at each threshold, weighted by the true parts it adds. Parts
            that tie are taken in together. About the prevalence by chance.
        r_precision: share of true parts among the first `n_true`; where a tie straddles the end,
            its mean over all orders of the tied parts. The prevalence by chance.
        n, n_true: parts that are ranked, and how many are true.
        prevalence: n_true / n.
    """

    auroc: float
    average_precision: float
    r_precision: float
    n: int
    n_true: int
    prevalence: float

    @classmethod
    def of(cls, scores: Float[ndarray, " part"], true: Bool[ndarray, " part"]) -> "Found":
        """Of parts of which higher scores come first.

        Raises:
            ResultsError: NaN among the scores, or parts that are all true or all false.
        """
        if np.isnan(scores).any():
            raise ResultsError(
                f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN, which has no "
                "place in a ranking; leave out the parts that were not measured, or give them one."
            )
        n, n_true = len(true), int(true.sum())
        if n_true in (0, n):
            raise ResultsError(
                f"{n_true} of {n} parts are true, so there is nothing to tell apart; rank true and "
                "false parts together."
            )
        return cls(
            auroc=auroc(scores, true),
            average_precision=average_precision(scores, true),
            r_precision=r_precision(scores, true),
            n=n,
            n_true=n_true,
            prevalence=n_true / n,
        )


def auroc(scores: Float[ndarray, " part"], true: Bool[ndarray, " part"]) -> float:
    """Area under the ROC curve over all thresholds: Mann-Whitney's U over the number of pairs."""
    n_true = int(true.sum())
    above = rankdata(scores)[true].sum() - n_true * (n_true + 1) / 2
    return float(above / (n_true * (len(true) - n_true)))


def average_precision(scores: Float[ndarray, " part"], true: Bool[ndarray, " part"]) -> float:
    """Sum over thresholds of precision times the recall that each adds, without interpolation."""
    hits, taken = _by_threshold(scores, true)
    return float(np.diff(hits, prepend=0) @ (hits / taken) / hits[-1])  # 1 exactly if all is right


def r_precision(scores: Float[ndarray, " part"], true: Bool[ndarray, " part"]) -> float:
    """Precision among as many parts as are true: where a tie straddles the end, its mean."""
    hits, taken = _by_threshold(scores, true)
    # drawing from a tie, true parts come on average in proportion: a straight line between ends
    return float(np.interp(hits[-1], [0, *taken], [0, *hits]) / hits[-1])


def _by_threshold(scores: ndarray, true: ndarray) -> tuple[ndarray, ndarray]:
    """For each distinct score from the highest: true parts, and all parts, at least as high."""
    _, tie = np.unique(scores, return_inverse=True)
    each, hits = np.bincount(tie), np.bincount(tie, weights=true)
    return np.cumsum(hits[::-1]), np.cumsum(each[::-1])


def sizes(attribution: Attribution, *, noise: float = NOISE) -> Float[ndarray, " part"]:
    """What a ranking is by: the absolute mean score, 0 where it is rounding.

    Args:
        noise: scores under this share of the largest are taken for 0.
    """
    found = np.abs(attribution.scores)
    finite = found[np.isfinite(found)]
    return np.where(found <= noise * finite.max(initial=0.0), 0.0, found)  # NaN stays NaN


@door
def recovery(
    attribution: Attribution, truth: Collection[Part], *, noise: AtLeast0 = NOISE
) -> Found:
    """How well the ranking by absolute score finds the true parts.

    Args:
        attribution: of all parts that there are, of one kind: edges or nodes, at all positions or
            at named ones.
        truth: the true ones, such as `interp.models.compiled.truth(name)[key]` of edges, and
            `nodes_of` it of nodes.
        noise: scores under this share of the largest tie at 0.

    Raises:
        ResultsError: a true part that is not ranked (it would count for nothing or for a hit), a
            part that is ranked twice, NaN, or nothing to tell apart.
    """
    return Found.of(sizes(attribution, noise=noise), which(attribution.parts, truth))


def which(parts: Collection[Part], truth: Collection[Part]) -> Bool[ndarray, " part"]:
    """Which of the parts are true.

    Raises:
        ResultsError: a true part is not among them, or one stands there twice.
    """
    ranked = set(parts)
    if len(ranked) < len(parts):
        raise ResultsError(
            f"{len(parts)} scores are of {len(ranked)} parts: one is ranked twice. Choose one "
            "method first, with attribution.query(\"method == 'eap'\")."
        )
    if absent := sorted(map(str, set(truth) - ranked)):
        raise ResultsError(
            f"{len(absent)} of {len(truth)} true parts are not ranked ('{absent[0]}', for "
            f"example; ranked is '{next(iter(parts), None)}'): a circuit can only be found among "
            "all parts, of its own granularity and places. Attribute 'edges' against edges, "
            "'nodes' against nodes_of them, and the places that the truth has."
        )
    true = frozenset(truth)
    return np.array([part in true for part in parts], dtype=bool)


@door
def nodes_of(truth: Iterable[Part]) -> frozenset[Part]:
    """The true nodes: heads and MLPs that a true edge leaves, where it leaves them.

    Ablating a node cuts all edges that leave it, and in a model where no cut undoes another that
    does something if one of them does.
    """
    edges = [(part.of, part.place) for part in truth if isinstance(part.of, Edge)]
    return frozenset(Part(e.writer, place) for e, place in edges if e.writer.kind != "embed")


@dataclass(frozen=True, eq=False, repr=False)
class Recovery(Table):
    """What methods find of known circuits: one row for each ranking.

    Attributes:
        frame: `model`, `method`; `ablation`, `corruption` and `granularity`, the key that the truth
            is of; `level`: "edges" or "nodes"; what `Found` has. A table may have columns of its
            own behind these.
    """

    columns = COLUMNS
    ranked = ("auroc",)
    drawn = "auroc"

    @classmethod
    def of(
        cls, rows: Iterable[tuple[Mapping[str, Any], Found]], *, provenance: Mapping[str, Any]
    ) -> "Recovery":
        """From what names each ranking, and what it found."""
        frame = pd.DataFrame([{**names, **asdict(found)} for names, found in rows])
        own = [c for c in frame if c not in COLUMNS]
        return cls(frame[[*COLUMNS, *own]], provenance)

    def _counted(self) -> str:
        return f"{len(self)} rankings, means over them"

    def _shown(self) -> pd.DataFrame:
        found = ["auroc", "average_precision", "r_precision"]
        return self.frame.groupby(["level", "method"], sort=False)[found].mean()
