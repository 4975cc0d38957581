"""A circuit discovered on one half of the clusters, and proved on the other.

Edges are scored by EAP and by EAP-IG (Hanna et al. 2024) on the discovery half; circuits of the
standard sizes (Mueller et al. 2025) are grown from the scores and run on the *other* half, where
all that is reported is measured. The circuit is the smallest one of EAP-IG that is faithful on the
discovery half, neither far below the model nor far above it; random circuits of the same size and
layers stand beside it, and so do what it lacks (completeness), what it could lack (minimality), how
it changes with the prompts (stability), and how good the scores were (`verify`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from interp.causal.evaluation import evaluate
from interp.causal.ranking.attribution import attribute
from interp.causal.ranking.cost import Method
from interp.causal.ranking.verification import Verified, verify
from interp.circuits.discovery.top import top_circuit
from interp.circuits.proof.completeness import completeness, minimality
from interp.circuits.proof.curves import SIZES, Curve, faithfulness_curve
from interp.circuits.proof.faithfulness import Faithfulness, faithfulness
from interp.circuits.proof.nulls import Null, null_test, stability
from interp.core.door.door import door
from interp.core.door.taken import Seed
from interp.core.metrics import Metric, resolve_metric
from interp.core.parts.circuit import Circuit
from interp.core.parts.edges import Edge, begins
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.attribution import Attribution
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.core.tables.table import Table
from interp.engine.plan.memory import Memory
from interp.models.model import Model
from interp.runs import Run

METHODS: tuple[Method, ...] = ("eap", "eap-ig-inputs")
CHOSEN: Method = "eap-ig-inputs"
"""Declared beforehand: the circuit that is reported is this one's."""
CLOSE = 0.15
"""How far from 1 a faithful circuit's faithfulness is at most, on either side."""
MATTERS = 0.01
"""An effect that counts, as a share of the model's metric (Wang et al. 2022, sec. 4)."""
T = TypeVar("T", bound=Table)


@door
@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        fractions: shares of the edges; all edges together are the model itself.
        steps: of the integrated gradients.
        random: random circuits of the size and the layers of the chosen one.
        band: random rankings, grown to each size.
        resamples: bootstrap resamples of the discovery half, for stability.
        verified: edges whose effect is measured exactly.
        removed: random sets of edges for completeness, and random nodes for minimality.
    """

    fractions: tuple[float, ...] = SIZES[:-1]
    steps: int = 5
    random: int = 100
    band: int = 4
    resamples: int = 20
    verified: int = 25
    removed: int = 10


@door
@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """A model, its task, and how much is measured.

    Attributes:
        task: in words: "indirect object identification".
        corruption: in words, how the corrupt prompts differ.
        metric: what circuits are discovered by and judged by.
        accuracy: what says whether the model does the task.
        run: keeps every table, so that an interrupted study goes on; None: nothing is kept.
    """

    model: Model
    pairs: Pairs
    task: str = "the task"
    corruption: str | None = None
    sizes: Sizes = Sizes()
    metric: str | Metric = "logit_diff"
    accuracy: str | Metric = "accuracy"
    seed: Seed = 0
    memory: Memory = None
    run: Run | None = None

    @cached_property
    def halves(self) -> tuple[Pairs, Pairs]:
        """For discovery and for proof; they share no cluster."""
        return self.pairs.split(seed=self.seed)

    @property
    def discovery(self) -> Pairs:
        return self.halves[0]

    @property
    def proof(self) -> Pairs:
        return self.halves[1]

    @property
    def name(self) -> str:
        """Of the metric."""
        return resolve_metric(self.metric).name

    def stage(self, name: str, compute: Callable[[Path | None], T]) -> T:
        """A table, kept if there is a run to keep it in."""
        return compute(None) if self.run is None else self.run.stage(name, compute)

    def behaviour(self) -> Results:
        """The task itself, on all prompts: a model that does not do it has no circuit for it."""
        return self.stage(
            "behaviour",
            lambda _: evaluate(self.model, self.pairs, metric=[self.metric, self.accuracy]),
        )

    def scores(self, method: Method) -> Attribution:
        """The scores of all edges, on the discovery half."""

        def estimated(_: Path | None) -> Attribution:
            found = attribute(
                *(self.model, self.discovery),
                method=method,
                steps=self.sizes.steps,
                metric=self.metric,
                memory=self.memory,
            )
            return Attribution(found.frame, {**found.provenance, "corruption": self.corruption})

        return self.stage(f"scores-{method}", estimated)

    def chosen(self, scores: Attribution) -> "Chosen":
        """The smallest circuit that is faithful on the discovery half, or the largest of all."""
        circuits = {f"{k:g}": top_circuit(scores, fraction=k) for k in self.sizes.fractions}
        found = self.judged("sizes", circuits, self.discovery).summary(seed=self.seed)
        name, faithful = smallest(found.set_index("circuit")["faithfulness"])
        return Chosen(circuits[name], float(name), faithful)

    def judged(
        self, stage: str, circuits: Mapping[str, Circuit], pairs: Pairs | None = None
    ) -> Faithfulness:
        """Run circuits, on the proof half unless said otherwise."""

        def measured(kept: Path | None) -> Results:
            prompts = self.proof if pairs is None else pairs
            how = {"metric": self.metric, "memory": self.memory, "checkpoint": kept}
            return faithfulness(self.model, prompts, circuits, **how).runs

        return Faithfulness(self.stage(stage, measured))

    def verified(self, scores: Attribution) -> Verified:
        """The edges of the largest scores measured, and as many others, on the discovery half."""
        k = self.sizes.verified

        def measured(kept: Path | None) -> Attribution:
            how = {"metric": self.metric, "seed": self.seed, "memory": self.memory}
            found = verify(scores, self.model, self.discovery, k=k, checkpoint=kept, **how)
            parts = [found.top_exact, found.random_exact]
            return Attribution.concat([part for part in parts if part is not None])

        exact = self.stage("verified", measured)
        same = scores.frame.set_index("site").loc[exact.frame["site"]].reset_index()
        same = Attribution(same, scores.provenance)
        halves = slice(None, k), slice(k, None)
        top, random = ([_rows(table, half) for table in (same, exact)] for half in halves)
        return Verified(*top, *random)


def smallest(faithfulness: pd.Series) -> tuple[str, bool]:
    """The first circuit that does what the model does, or the last one; and whether it does.

    One far above 1 does not: it lacks what works against the behaviour in the model.
    """
    close = (1 - faithfulness).abs() <= CLOSE
    name = close.idxmax() if close.any() else faithfulness.index[-1]
    return str(name), bool(close.any())


@dataclass(frozen=True, eq=False)
class Chosen:
    """A circuit of the discovery half.

    Attributes:
        share: of the edges, that it was asked for with.
        faithful: is it faithful on that half?
    """

    circuit: Circuit
    share: float
    faithful: bool


@dataclass(frozen=True, eq=False)
class Proof:
    """What was found on one half, and how it did on the other.

    Attributes:
        scores: those that the circuit was grown from.
        curve: circuits of each size, by each method.
        null: the circuit beside random ones, by several metrics.
        complete: random sets of edges taken out of the circuit and out of the model.
        minimal: nodes taken out of the circuit.
        stable: Jaccard of the circuit with those from bootstrap resamples of the discovery half.
    """

    chosen: Chosen
    scores: Attribution
    curve: Curve
    null: Null
    complete: Results
    minimal: Results
    verified: Verified
    stable: Scores

    @property
    def circuit(self) -> Circuit:
        return self.chosen.circuit

    @property
    def judged(self) -> Results:
        """The circuit and random ones on the proof half, one row for each prompt and metric."""
        return self.null.runs


@door
def prove(study: Study) -> Proof:
    """Discover the circuit on one half of the clusters and prove it on the other.

    Look at `study.behaviour()` first. With a run, stages that are finished are loaded.

    Raises:
        PairsError: prompts of one cluster, which cannot be halved.
        Others: as `attribute`, `top_circuit` and `faithfulness`.
    """
    scores = {method: study.scores(method) for method in METHODS}
    best = scores[CHOSEN]
    chosen = study.chosen(best)
    circuit, sizes, metric = chosen.circuit, study.sizes, study.metric
    given = (study.model, study.proof)
    memory = {"memory": study.memory}
    drawn = {"seed": study.seed, **memory}
    nodes = some_nodes(circuit, sizes.removed, study.seed)

    def curve(kept: Path | None) -> Results:
        grown = {"sizes": (*sizes.fractions, 1.0), "random": sizes.band, "metric": metric}
        return faithfulness_curve(*given, scores, checkpoint=kept, **grown, **drawn).runs

    def null(kept: Path | None) -> Results:
        metrics = [metric, "kl", study.accuracy]
        asked = {"n": sizes.random, "metric": metrics}
        return null_test(*given, circuit, checkpoint=kept, **asked, **drawn).runs

    def complete(kept: Path | None) -> Results:
        n = sizes.removed
        return completeness(*given, circuit, n=n, metric=metric, checkpoint=kept, **drawn)

    def minimal(kept: Path | None) -> Results:
        return minimality(*given, circuit, by=nodes, metric=metric, checkpoint=kept, **memory)

    return Proof(
        chosen=chosen,
        scores=best,
        curve=Curve(study.stage("curve", curve)),
        null=Null(study.stage("proof", null)),
        complete=study.stage("completeness", complete),
        minimal=study.stage("minimality", minimal),
        verified=study.verified(best),
        stable=study.stage("stability", lambda _: resampled(study, best, chosen.share)),
    )


def some_nodes(circuit: Circuit, n: int, seed: int) -> dict[str, list[Site]]:
    """Heads and MLPs of the circuit, drawn at random; each by itself."""
    writers = {part.of.writer for part in circuit.parts if isinstance(part.of, Edge)}
    nodes = sorted(site for site in writers if not begins(site))
    order = np.random.default_rng(seed).permutation(len(nodes))[:n]
    return {str(nodes[i]): [nodes[i]] for i in sorted(order)}


def resampled(study: Study, scores: Attribution, share: float) -> Scores:
    """Jaccard of the circuit with that of each bootstrap resample of the discovery half."""
    grown = partial(top_circuit, fraction=share)
    found = stability(scores, grown, n=study.sizes.resamples, seed=study.seed)
    return Scores.of(
        found.jaccard,
        [str(i) for i in range(len(found.jaccard))],
        provenance={**scores.provenance, "share": share},
        task=study.task,
        probe=CHOSEN,
        metric="jaccard",
    )


def _rows(table: Attribution, rows: slice) -> Attribution:
    return Attribution(table.frame.iloc[rows].reset_index(drop=True), table.provenance)
