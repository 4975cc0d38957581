"""Discover a circuit on one half of the clusters, prove it on the other: what three experiments do.

First the behaviour: a model that does not do the task has no circuit for it. Edges are then scored
by EAP and by EAP-IG on the discovery half, circuits of the standard sizes (Mueller et al. 2025) are
grown from the scores and run on the *other* half, where all that is reported was measured. The
circuit is the smallest one of EAP-IG that is faithful on the discovery half, neither far below the
model nor far above it; random circuits of the same size and layers stand beside it, and so do what
it lacks (completeness), what it could lack (minimality), how it changes with the prompts
(stability), and how good the scores were (`verify`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

import interp
from interp.causal.ranking.attribution import Method, attribute
from interp.causal.ranking.verification import Verified, verify
from interp.circuits.discovery.top import top_circuit
from interp.circuits.proof.completeness import completeness, minimality
from interp.circuits.proof.curves import Curve, faithfulness_curve
from interp.circuits.proof.faithfulness import Faithfulness, faithfulness
from interp.circuits.proof.nulls import Null, null_test, stability
from interp.core.metrics import Metric, resolve_metric
from interp.core.parts.circuit import Circuit
from interp.core.parts.edges import Edge
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.attribution import Attribution
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores

STANDARD = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of the edges (Mueller et al. 2025); all edges together are the model itself."""
METHODS: tuple[Method, ...] = ("eap", "eap-ig-inputs")
CHOSEN: Method = "eap-ig-inputs"
"""Declared beforehand: the circuit that is reported is this one's."""
ENOUGH = 0.75
"""Accuracy under which a circuit would explain nothing."""
CLOSE = 0.15
"""How far from 1 a faithful circuit's faithfulness is at most, on either side."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        steps: of the integrated gradients.
        random: random circuits of the size and the layers of the chosen one.
        band: random rankings, grown to each size.
        resamples: bootstrap resamples of the discovery half, for stability.
        verified: edges whose effect is measured exactly.
        removed: random sets of edges for completeness, and random nodes for minimality.
    """

    fractions: tuple[float, ...] = STANDARD
    steps: int = 5
    random: int = 100
    band: int = 4
    resamples: int = 20
    verified: int = 25
    removed: int = 10


SIZES = {
    "smoke": Sizes((0.01, 0.2), 2, 4, 2, 2, 4, 1),
    "default": Sizes(),
    "full": Sizes(band=20, resamples=100, verified=200, removed=50),
}


@dataclass(frozen=True, eq=False)
class Study:
    """A model, its task, and how much is measured.

    Attributes:
        task: in words, for titles: "indirect object identification".
        corruption: in words, how the corrupt prompts differ.
        metric: what circuits are discovered by and judged by.
        accuracy: what says whether the model does the task.
    """

    run: interp.runs.Run
    model: interp.Model
    pairs: Pairs
    task: str
    corruption: str
    sizes: Sizes
    metric: str | Metric = "logit_diff"
    accuracy: str | Metric = "accuracy"
    seed: int = 0
    memory: int | None = None

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

    def behaviour(self) -> Results:
        """The task itself, on all prompts."""
        return self.run.stage(
            "behaviour",
            lambda _: interp.evaluate(self.model, self.pairs, metric=[self.metric, self.accuracy]),
        )

    def scores(self, method: Method) -> Attribution:
        """The scores of all edges, on the discovery half."""

        def estimated() -> Attribution:
            found = attribute(
                self.model,
                self.discovery,
                method=method,
                steps=self.sizes.steps,
                metric=self.metric,
                memory=self.memory,
            )
            return Attribution(found.frame, {**found.provenance, "corruption": self.corruption})

        return self.run.stage(f"scores-{method}", lambda _: estimated())

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

        def measured(kept: Path) -> Results:
            prompts = self.proof if pairs is None else pairs
            found = faithfulness(
                *(self.model, prompts, circuits),
                metric=self.metric,
                memory=self.memory,
                checkpoint=kept,
            )
            return found.runs

        return Faithfulness(self.run.stage(stage, measured))

    def verified(self, scores: Attribution) -> Verified:
        """The edges of the largest scores measured, and as many others, on the discovery half."""
        k = self.sizes.verified

        def measured(kept: Path) -> Attribution:
            found = verify(
                *(scores, self.model, self.discovery),
                k=k,
                metric=self.metric,
                seed=self.seed,
                memory=self.memory,
                checkpoint=kept,
            )
            parts = [found.top_exact, found.random_exact]
            return Attribution.concat([part for part in parts if part is not None])

        exact = self.run.stage("verified", measured)
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


def prove(study: Study) -> Proof:
    """All stages after the behaviour; finished ones are loaded."""
    scores = {method: study.scores(method) for method in METHODS}
    best = scores[CHOSEN]
    chosen = study.chosen(best)
    sizes, given = study.sizes, (study.model, study.proof)
    limits = {"seed": study.seed, "memory": study.memory}
    nodes = some_nodes(chosen.circuit, sizes.removed, study.seed)

    def curve(kept: Path) -> Results:
        shares = (*sizes.fractions, 1.0)
        found = faithfulness_curve(
            *(*given, scores),
            sizes=shares,
            random=sizes.band,
            metric=study.metric,
            checkpoint=kept,
            **limits,
        )
        return found.runs

    def null(kept: Path) -> Results:
        metrics = [study.metric, "kl", study.accuracy]
        found = null_test(
            *(*given, chosen.circuit), n=sizes.random, metric=metrics, checkpoint=kept, **limits
        )
        return found.runs

    def complete(kept: Path) -> Results:
        return completeness(
            *(*given, chosen.circuit),
            n=sizes.removed,
            metric=study.metric,
            checkpoint=kept,
            **limits,
        )

    def minimal(kept: Path) -> Results:
        return minimality(
            *(*given, chosen.circuit),
            by=nodes,
            metric=study.metric,
            memory=study.memory,
            checkpoint=kept,
        )

    stage = study.run.stage
    return Proof(
        chosen=chosen,
        scores=best,
        curve=Curve(stage("curve", curve)),
        null=Null(stage("proof", null)),
        complete=stage("completeness", complete),
        minimal=stage("minimality", minimal),
        verified=study.verified(best),
        stable=stage("stability", lambda _: resampled(study, best, chosen.share)),
    )


def some_nodes(circuit: Circuit, n: int, seed: int) -> dict[str, list[Site]]:
    """Heads and MLPs of the circuit, drawn at random; each by itself."""
    writers = {part.of.writer for part in circuit.parts if isinstance(part.of, Edge)}
    nodes = sorted(site for site in writers if site.kind != "embed")
    order = np.random.default_rng(seed).permutation(len(nodes))[:n]
    return {str(nodes[i]): [nodes[i]] for i in sorted(order)}


def resampled(study: Study, scores: Attribution, share: float) -> Scores:
    """Jaccard of the circuit with that of each bootstrap resample of the discovery half."""
    found = stability(
        scores,
        partial(top_circuit, fraction=share),
        n=study.sizes.resamples,
        seed=study.seed,
    )
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
