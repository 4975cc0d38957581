"""What is asked of the compiled models: cases, rankings with their truth, how true parts act."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

import interp
from interp.causal.ranking.cost import Method
from interp.causal.ranking.recovery import Found, nodes_of, sizes, which
from interp.core.parts.circuit import Part
from interp.core.parts.edges import Edge
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.attribution import Attribution
from interp.models import compiled
from interp.models.compiled.construction import Ablation, Granularity, Key
from interp.models.model import Model

Level = Literal["edges", "nodes"]
LEVELS: tuple[Level, ...] = ("edges", "nodes")
GRANULARITIES: tuple[Granularity, ...] = ("all positions", "by position")
METHODS: dict[Level, tuple[Method, ...]] = {
    "edges": ("eap", "eap-ig-inputs", "eap-ig-activations", "atp*"),
    "nodes": ("atp", "eap-ig-inputs", "eap-ig-activations", "atp*"),
}
"""Beside exact patching and random rankings; the first is the gradient at the clean prompt."""
Way = Literal["values", "itself", "farther on", "twice"]
WAYS: tuple[Way, ...] = ("values", "itself", "farther on", "twice")
"""How a true part acts. What acts by attention passes a softmax, which may be flat."""


class Case(NamedTuple):
    """A model, and what is put in the place of what is cut."""

    model: str
    ablation: Ablation
    corruption: str

    @property
    def stem(self) -> str:
        return "-".join(self)

    def truth(self, granularity: Granularity) -> frozenset[Part]:
        """The true edges."""
        return compiled.truth(self.model)[Key(self.ablation, self.corruption, granularity)]


@dataclass(frozen=True, eq=False)
class Ranking:
    """What one method says of all parts of one kind, beside which of them are true.

    Attributes:
        parts, scores, true: the parts, their absolute scores (0 where rounding), which matter.
        raw: the scores with their signs, however small.
        slopes: of heads that attend by what they read, the steepest softmax (`steepest`).
    """

    case: Case
    method: str
    level: Level
    granularity: Granularity
    parts: tuple[Part, ...]
    scores: Float[ndarray, " part"]
    raw: Float[ndarray, " part"]
    true: Bool[ndarray, " part"]
    slopes: dict[str, float]

    @property
    def names(self) -> dict[str, str]:
        """What tells the ranking apart, as columns."""
        own = {"method": self.method, "granularity": self.granularity, "level": self.level}
        return {**self.case._asdict(), **own}

    @property
    def found(self) -> Found:
        """How well it finds what is true."""
        return Found.of(self.scores, self.true)

    @cached_property
    def _edges(self) -> frozenset[Edge]:
        return frozenset(cast(Edge, part.of) for part in self.case.truth("all positions"))

    def way(self, part: Part) -> Way:
        """How a true part acts: by values alone, or by which attention."""
        leaving = [part.of] if isinstance(part.of, Edge) else _from(self._edges, part.of)
        if any(_open(edge, self._edges) for edge in leaving):
            return "values"
        ends = [edge for edge in leaving if edge.reader.kind in ("q", "k")]
        if not ends:
            return "farther on"
        onward = [after for edge in ends for after in _from(self._edges, node_of(edge.reader))]
        return "itself" if any(_open(edge, self._edges) for edge in onward) else "twice"

    @cached_property
    def severed(self) -> frozenset[Site]:
        """Heads and MLPs of whose true edges none scores."""
        scored: dict[Site, float] = {}
        for part, score in zip(self.parts, np.where(self.true, self.scores, 0.0), strict=True):
            if isinstance(part.of, Edge) and part.of in self._edges:
                scored[part.of.writer] = max(scored.get(part.of.writer, 0.0), float(score))
        return frozenset(site for site, score in scored.items() if score == 0)


def rankings(case: Case, found: Attribution) -> Iterator[Ranking]:
    """Of each method, edges and nodes, everywhere together and by place."""
    table = found.frame
    for granularity in GRANULARITIES:
        for level in LEVELS:
            truth = case.truth(granularity)
            truth = truth if level == "edges" else nodes_of(truth)
            kept = ((table["position"] == "all") == (granularity == "all positions")) & (
                (table["writer"] == "") == (level == "nodes")
            )
            for method in dict.fromkeys(table.loc[kept, "method"]):
                one = Attribution(
                    table[kept & (table["method"] == method)].reset_index(drop=True),
                    found.provenance,
                )
                yield Ranking(
                    *(case, method, level, granularity),
                    parts=one.parts,
                    scores=sizes(one),
                    raw=one.scores,
                    true=which(one.parts, truth),
                    slopes=dict(found.provenance["slopes"]),
                )


def of_nodes(found: Attribution) -> Attribution:
    """What a search over edges says of heads and MLPs: the best score of the edges that leave one.

    So a node is in the circuit if one of its edges is.
    """
    table = found.frame[found.frame["writer"] != "embed"]
    order = table["score"].abs().sort_values(ascending=False, kind="stable").index
    best = table.loc[order].drop_duplicates(["writer", "position"]).sort_index()
    frame = best.assign(site=best["writer"], writer="", reader="").reset_index(drop=True)
    return Attribution(frame, found.provenance)


def steepest(model: Model, pairs: Pairs, case: Case) -> dict[str, float]:
    """For each head with a true query or key: the steepest that its softmax is on clean prompts.

    The change of a probability with its score is p (1 - p), 1/4 at most. It is taken where the head
    attends for a purpose: at the places where its own output matters.
    """
    attends = {node_of(edge.reader) for edge in _by_attention(case.truth("all positions"))}
    found: dict[str, float] = {}
    for node, place in nodes_of(case.truth("by position")):
        if node not in attends:
            continue
        site = f"{node}.pattern"
        rows = interp.capture(model, pairs, site, positions=[place]).rows(site)
        steep = max(float((p * (1 - p)).max()) for p in rows)
        found[str(node)] = max(steep, found.get(str(node), 0.0))
    return found


def node_of(reader: Site) -> Site:
    """The head or MLP that reads; each head of these models is its own group."""
    if reader.kind not in ("q", "k", "v"):
        return reader
    return Site("z", reader.layer, head=reader.head if reader.group is None else reader.group)


def _by_attention(truth: Collection[Part]) -> list[Edge]:
    edges = [cast(Edge, part.of) for part in truth]
    return [edge for edge in edges if edge.reader.kind in ("q", "k")]


def _from(edges: Collection[Edge], node: Any) -> list[Edge]:
    return [edge for edge in edges if edge.writer == node]


def _open(edge: Edge, edges: Collection[Edge]) -> bool:
    """Is there a path of true edges from here to the logits with no query or key on it?"""
    if edge.reader.kind in ("q", "k"):
        return False
    onward = _from(edges, node_of(edge.reader))
    return edge.reader.kind == "logits" or any(_open(after, edges) for after in onward)
