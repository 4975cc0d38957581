"""Where circuits are run: the graph as arrays, the places they name, what is put in place."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Unpack

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from interp.causal.averages import Averaging, averaged
from interp.core.errors import PositionError, ResultsError, SiteError, Unsupported
from interp.core.metrics import Metrics, resolve_metrics
from interp.core.parts.circuit import Ablation, Circuit, Granularity, Part
from interp.core.parts.edges import Edge, begins
from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph, nodes
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import REST
from interp.core.tables.results import Results
from interp.engine.circuits.constants import Constants
from interp.engine.circuits.masks import Masks, Source, nothing
from interp.engine.circuits.wiring import Wiring
from interp.engine.interventions import Cell
from interp.engine.plan.positions import require_named, target_names
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Running, Sweep
from interp.models.model import Model

Given = Averaging | Constants
METHOD = "circuit"


class Mask(NamedTuple):
    """A circuit as a set of edges at places; `lacking` if it is given by what it lacks.

    Attributes:
        place: in words: where its parts are.
    """

    name: str
    mask: Bool[ndarray, "place reader writer"]
    size: int
    place: str
    lacking: bool = False


@dataclass(frozen=True, eq=False)
class Setting:
    """Where circuits are run: the model's graph, the places that they name, and the ablation."""

    model: Model
    pairs: Pairs
    wiring: Wiring
    places: tuple[str, ...]
    ablation: Ablation
    source: Source

    @classmethod
    def of(
        cls, model: Model, pairs: Pairs, circuits: Sequence[Circuit], reference: Given
    ) -> "Setting":
        """For circuits of one model and one ablation.

        Raises:
            As `run_circuits`.
        """
        pairs.require_one_kind("a study of circuits")
        for circuit in circuits:
            _require(circuit, model)
        ablations = sorted({circuit.ablation for circuit in circuits})
        if len(ablations) > 1:
            raise Unsupported(
                f"circuits with the ablations {ablations} stand in one call; the same parts mean "
                "something else under each. Run each kind by itself and join the tables "
                "(interp.Results.concat)."
            )
        named = {place for circuit in circuits for place in circuit.places}
        for place in named - {"all", REST}:
            if not model.facts.n_encoder_layers or place not in target_names(pairs):
                pairs.at(place)
        for circuit in circuits:
            require_places(pairs, circuit)
        places = ("all", *sorted(named - {"all"}))
        source = _source(model, pairs, ablations[0], reference)
        wiring = Wiring(model.facts, _graph(model.facts))
        return cls(model, pairs, wiring, places, ablations[0], source)

    def kept(self, name: str, circuit: Circuit) -> Mask:
        """A circuit; of nodes the embedding is kept too, everywhere."""
        return self.holding(name, self.marks(circuit.parts), circuit.granularity)

    def holding(self, name: str, marks: Int[ndarray, "part 3"], granularity: Granularity) -> Mask:
        """The same, of parts that `marks` has found."""
        mask = self.marked(marks)
        if granularity == "nodes":
            enters = self.wiring.enters
            mask[0][:, enters] = self.wiring.graph.feeds[:, enters]
        return Mask(name, mask, len(marks), self._where(marks))

    def without(self, name: str, parts: Collection[Part]) -> Mask:
        """The whole model without some parts."""
        marks = self.marks(parts)
        return Mask(name, self.marked(marks), len(marks), self._where(marks), lacking=True)

    def _where(self, marks: Int[ndarray, "part 3"]) -> str:
        return ", ".join(self.places[i] for i in np.unique(marks[:, 0])) or "all"

    def marks(self, parts: Iterable[Part]) -> Int[ndarray, "part 3"]:
        """Place, reader and writer of each part, as numbers; of a node the reader is -1.

        Raises:
            SiteError: an edge or a node that the graph has not.
        """
        place = {name: i for i, name in enumerate(self.places)}
        graph, found = self.wiring.graph, []
        for of, where in parts:
            if isinstance(of, Edge):
                found.append((place[where], *graph.at(of)))
            elif of in self._columns and not begins(of):
                found.append((place[where], -1, self._columns[of]))
            else:
                raise SiteError(
                    f"'{of}' is no node of this graph, which has the heads and MLPs of "
                    f"{self.model.facts}. Write it as '23.3' or '12.mlp'."
                )
        return np.array(found, dtype=int).reshape(-1, 3)

    def marked(self, marks: Int[ndarray, "part 3"]) -> Bool[ndarray, "place reader writer"]:
        """The edges of parts that `marks` has found; those of a node are all that leave it."""
        feeds = self.wiring.graph.feeds
        mask = np.zeros((len(self.places), *feeds.shape), dtype=bool)
        edges = marks[marks[:, 1] >= 0]
        mask[tuple(edges.T)] = True
        for place, _, column in marks[marks[:, 1] < 0].tolist():
            mask[place, :, column] = feeds[:, column]
        return mask

    @cached_property
    def _columns(self) -> dict[Site, int]:
        return {site: i for i, site in enumerate(self.wiring.graph.writers)}

    def run(
        self,
        circuits: Sequence[Mask],
        *,
        metric: Metrics = "logit_diff",
        **running: Unpack[Running],
    ) -> Results:
        """One row for each metric, circuit and example."""
        masks = Masks(
            self.wiring,
            np.stack([circuit.mask for circuit in circuits]),
            np.array([circuit.lacking for circuit in circuits]),
            self.places,
            self.ablation,
            self.source,
        )
        return run(
            Sweep(
                model=self.model,
                pairs=self.pairs,
                cells=[Cell(c.name, c.place, (nothing(self.model.facts),)) for c in circuits],
                method=f"{METHOD} {self.ablation}",
                base="clean",
                metrics=resolve_metrics(metric),
                masks=masks,
                kind=METHOD,
                columns={
                    "size": [circuit.size for circuit in circuits],
                    "connected": self.wiring.connected(masks.whole()),
                },
                note={
                    "ablation": self.ablation,
                    "reference": self.source.fingerprint if self.source else "",
                },
                **running,
            )
        )


def require_places(pairs: Pairs, circuit: Circuit) -> None:
    """Refuse parts of one of two stacks at a position that only the other names.

    Raises:
        PositionError: names both.
    """
    for part, place in circuit.parts:
        site = part.writer if isinstance(part, Edge) else part
        if site.stack is None or place in ("all", REST):
            continue
        if site.stack == "dec":
            require_named(pairs, place, f"'{part}' stands in the decoder")
        elif place not in pairs.positions:
            raise PositionError(
                f"position {place!r} is one of the target's, and '{part}' stands in the encoder, "
                f"whose positions are {', '.join(pairs.positions)}. Name it there too, or take "
                "'all'."
            )


def _graph(facts: Facts) -> Graph:
    """The graph of a model; of one without logits, what reads its last layer stands for them."""
    graph = Graph.of(facts)
    if facts.language_model:
        return graph
    writers = tuple(sorted({*graph.writers, *nodes(facts)}))
    feeds = np.zeros((len(graph.readers) + 1, len(writers)), dtype=bool)
    feeds[:-1, [writers.index(writer) for writer in graph.writers]] = graph.feeds
    feeds[-1] = True
    return Graph(writers, (*graph.readers, Site("logits")), feeds)


def _require(circuit: Circuit, model: Model) -> None:
    if circuit.model != model.weight_hash:
        raise ResultsError(
            f"the circuit is of a model with weights {circuit.model[:12]}, and {model.name} has "
            f"{model.weight_hash[:12]}: its parts are those of another model. Load that model (in "
            "the same dtype), or discover the circuit on this one."
        )
    if circuit.granularity == "edges" and not model.facts.language_model:
        raise Unsupported(
            f"{model.name} has no logits, and no edges lead into its embedding, so no circuit of "
            "edges ends there. Take a circuit of nodes (granularity='nodes')."
        )


def _source(model: Model, pairs: Pairs, ablation: Ablation, reference: Given) -> Source:
    if (ablation == "optimal") != isinstance(reference, Constants):
        raise Unsupported(
            f"the circuits' ablation is {ablation!r} and reference= is "
            f"{type(reference).__name__}: constants are for the ablation 'optimal', and it needs "
            "them. Fit them: constants = fit_optimal(model, training_pairs, circuit)."
        )
    if isinstance(reference, Constants):
        reference.require(model)
        return reference
    source = averaged(pairs, reference)
    return source if ablation == "mean" else None
