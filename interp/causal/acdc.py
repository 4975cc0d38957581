"""ACDC: cut edge after edge from the logits backward, as long as the model says the same.

Conmy et al. 2023, Algorithm 1. An edge's test re-runs the model from its reader on, since all that
stands before is the clean run (`interp.engine.suffix`); and tests go up together, under a guess of
what the earlier ones decide, so that the answer is that of one test after the other.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from tqdm.auto import tqdm

from interp.core.attribution import Attribution
from interp.core.circuit import REST, Circuit, Part
from interp.core.edges import Edge
from interp.core.errors import MetricError, Unsupported, nearest
from interp.core.graph import Graph
from interp.core.metrics import Metric, resolve_metric
from interp.core.pairs import Pairs
from interp.engine.collect.means import MeanReference, taken
from interp.engine.collect.taps import budget
from interp.engine.engines import EngineName
from interp.engine.interventions import Averaged, Reference
from interp.engine.isolate import Isolation, served
from interp.engine.outside import outside
from interp.engine.plan import blocks
from interp.engine.provenance import provenance
from interp.engine.suffix import Suffix
from interp.engine.sweep import Side
from interp.engine.wiring import Wiring
from interp.models.model import Model

log = logging.getLogger("interp")

Ablated = Literal["resample", "mean", "zero"]
Where = Literal["all", "named"]
Worse = Literal["higher", "lower"]
WORSE: dict[str, Worse] = {
    "kl": "higher",
    "loss": "higher",
    "next_token_loss": "higher",
    "rank": "higher",
    "logit_diff": "lower",
    "accuracy": "lower",
    "log_prob": "lower",
    "prob": "lower",
    "next_token_accuracy": "lower",
    "cosine": "lower",
}
"""Where each metric goes when a model loses what it can do."""
Run = Callable[[Bool[ndarray, "cell place writer"]], Float[ndarray, "cell example"]]


@dataclass(frozen=True, eq=False)
class Discovered:
    """What ACDC found.

    Attributes:
        circuit: the edges that are kept.
        ranking: of every edge the change of the metric when it was tested, in the model without the
            edges that were cut before it; 0 where it could change nothing, because no kept edge
            leads on from its reader, or what it carries is what it would be cut to. So the scores
            depend on the order and on the threshold: an edge that stands in for another is
            tested with that one there or gone. An edge is kept if and only if the metric got worse
            by the threshold or more.
        runs: partial forwards (of all prompts) that were made. One full forward an edge would be
            as many as there are edges.
        waves: passes that they were made in.
    """

    circuit: Circuit
    ranking: Attribution
    runs: int
    waves: int


def acdc(
    model: Model,
    pairs: Pairs,
    *,
    threshold: float,
    metric: str | Metric = "kl",
    worse: Worse | None = None,
    ablation: Ablated = "resample",
    reference: Side | Pairs | MeanReference = "corrupt",
    positions: Where = "all",
    corruption: str = "corrupt prompts",
    engine: EngineName = "auto",
    memory: int | None = None,
) -> Discovered:
    """Cut every edge without which the metric gets worse by less than a threshold.

    The readers come from the last to the first: the logits; then of each layer from the last its
    MLP, the values, the keys and the queries, from the last head (or group) to the first. Of each
    reader the writers come from the last to the embedding, and of each writer the places in their
    order. What is cut stays cut. Another order gives another circuit.

    A threshold of 0 keeps, besides edges that matter, those that change nothing at all; take one
    just above the float noise (1e-9 in float64) to be rid of them.

    Args:
        threshold: in units of the metric, of its mean over the examples.
        metric: `"kl"` to the full model's answer, as in the paper, or any other.
        worse: `"higher"` or `"lower"`, of a metric of one's own; the library's are known.
        ablation: what a cut edge carries: `"resample"`, `"mean"` or `"zero"`, as in `ablate`.
        reference: whose mean, as in `ablate`. Unused by the others.
        positions: `"all"`: an edge is cut at all positions together; `"named"`: at each named
            position of the pairs by itself, and at the "rest" of them, so that the circuit is one
            by place.
        corruption: in words, how the corrupt prompts differ; the circuit says it.
        engine: `"hooks"`, and models whose readers read no plain sum of writes, run each test as a
            joint intervention: exact, and slow.
        memory: bytes to hold beside the weights and the clean runs.

    Raises:
        MetricError: a metric that does not say where worse is, or is not finite.
        Unsupported: unknown options, or a model without edges into logits.
        PairsError, PositionError, ModelError: as in `ablate`.
    """
    for name, given, known in (
        ("ablation", ablation, get_args(Ablated)),
        ("positions", positions, get_args(Where)),
    ):
        if given not in known:
            raise Unsupported(f"unknown {name}={given!r}; {nearest(str(given), known)}")
    metric = resolve_metric(metric)
    sign = _sign(metric, worse)
    if not model.facts.language_model:
        raise Unsupported(
            f"{model.name} has no logits, so no edge leads to an answer that could be kept. Rank "
            "its heads and MLPs: interp.ablate(model, pairs, ['heads', 'mlps'], metric='cosine')."
        )
    graph = Graph.of(model.facts)
    job = Isolation(
        model=model,
        pairs=pairs,
        wiring=Wiring(model.facts, graph),
        kept=np.zeros((0, 1, *graph.feeds.shape), dtype=bool),
        lacking=np.zeros(0, dtype=bool),
        places=("all",) if positions == "all" else (*sorted(pairs.positions), REST),
        ablation=ablation,
        source=_reference(pairs, ablation, reference),
        metrics=(metric,),
        engine=engine,
        memory=memory,
    )
    search = _Search(job, threshold, sign)
    search.go()
    return search.found(corruption)


def acdc_sweep(
    model: Model,
    pairs: Pairs,
    *,
    thresholds: Sequence[float],
    metric: str | Metric = "kl",
    worse: Worse | None = None,
    ablation: Ablated = "resample",
    reference: Side | Pairs | MeanReference = "corrupt",
    positions: Where = "all",
    corruption: str = "corrupt prompts",
    engine: EngineName = "auto",
    memory: int | None = None,
) -> Attribution:
    """ACDC at several thresholds: edges ranked by the largest at which they are kept.

    This is what the ROC curve of Conmy et al. 2023, sec. 4 is drawn of. An edge's score is that
    threshold, with the sign of what cutting it does to the metric where it is worse; 0 where no
    threshold keeps it. It is of all examples together, so each has the same. Edges that the same
    thresholds keep are tied.

    Args:
        thresholds: above 0, at least one; the others are as in `acdc`.

    Raises:
        Unsupported: no thresholds, or one that is not above 0.
        MetricError, PairsError, PositionError, ModelError: as in `acdc`.
    """
    steps = sorted(set(thresholds))
    if not steps or not steps[0] > 0:
        raise Unsupported(
            f"thresholds={list(thresholds)}: edges are ranked by the largest threshold that keeps "
            "them, so give one or more, all above 0 (which keeps what does nothing)."
        )
    runs = [
        acdc(
            model,
            pairs,
            threshold=step,
            metric=metric,
            worse=worse,
            ablation=ablation,
            reference=reference,
            positions=positions,
            corruption=corruption,
            engine=engine,
            memory=memory,
        )
        for step in steps
    ]
    ranking = runs[0].ranking
    kept = np.array([[part in run.circuit for part in ranking.parts] for run in runs])
    score = _sign(resolve_metric(metric), worse) * (np.array(steps)[:, None] * kept).max(0)
    return Attribution.of(
        ranking.parts,
        np.repeat(score[:, None], len(pairs), 1),
        cluster=ranking.cluster,
        method="acdc",
        metric=resolve_metric(metric).name,
        provenance={
            **{k: v for k, v in ranking.provenance.items() if k not in ("threshold", "kept")},
            "thresholds": steps,
            "runs": sum(run.runs for run in runs),
        },
    )


def settle(
    run: Run,
    kept: Bool[ndarray, "place writer"],
    candidates: Sequence[tuple[int, int]],
    now: Float[ndarray, " example"],
    *,
    cuts: Callable[[float], bool],
    width: int,
    likely: bool = True,
) -> tuple[
    Bool[ndarray, "place writer"],
    Float[ndarray, " example"],
    Float[ndarray, "candidate example"],
    list[int],
]:
    """Cut one candidate after the other, where `cuts` says so of the mean change of the metric.

    Some are tested together, each without the earlier ones that are guessed to be cut. Results
    hold up to the first wrong guess; the later ones of the same pass are the next guesses.

    Args:
        run: the metric for each set of edges that is kept.
        now: the metric before any of them is cut.
        width: how many to test together at most.
        likely: the first guess: are they cut?

    Returns:
        What is kept, the metric then, its change with each candidate, and the sizes of the passes.
    """
    n, start, size, passes = len(candidates), 0, FIRST, []
    guess = np.full(n, likely)
    changes = np.zeros((n, len(now)))
    while start < n:
        chosen = slice(start, min(start + size, start + width, n))
        cells, before, current, last = [], [], kept, 0
        for number, candidate in enumerate(candidates[chosen], start=1):
            cell = current.copy()
            cell[candidate] = False
            cells.append(cell)
            before.append(last)
            if guess[start + number - 1]:
                current, last = cell, number
        lines = np.vstack([now, run(np.stack(cells))])
        passes.append(len(cells))
        change = lines[1:] - lines[before]
        cut = np.array([cuts(float(mean)) for mean in change.mean(1)])
        wrong = np.flatnonzero(cut != guess[chosen])
        done = int(wrong[0]) + 1 if len(wrong) else len(cells)
        size = 2 * done  # what comes after a wrong guess is lost
        guess[chosen] = cut
        changes[start : start + done] = change[:done]
        for number in np.flatnonzero(cut[:done]):
            kept, now = cells[number], lines[number + 1]
        start += done
    return kept, now, changes, passes


class _Search:
    """The cuts so far, reader by reader from the logits."""

    def __init__(self, job: Isolation, threshold: float, sign: int) -> None:
        self.job, self.graph, self.wiring = job, job.wiring.graph, job.wiring
        self.threshold, self.sign = threshold, sign
        shape = (len(job.places), *self.graph.feeds.shape)
        self.kept = np.broadcast_to(self.graph.feeds, shape).copy()
        self.changes = np.zeros((*shape, len(job.pairs)))
        self.passes: list[int] = []
        self.likely = True
        self.blocks: list[tuple[list[int], Suffix]] = []
        replay, self.moves = served(job), np.ones((shape[0], shape[2]), dtype=bool)
        self.engine = "hooks" if replay is None else replay.name
        if replay is None:
            empty = replace(job, kept=self.kept[None], lacking=np.zeros(1, dtype=bool))
            self.now, self.width = outside(empty).found[0, 0], 64
            return
        source = job.source
        if isinstance(source, Averaged):
            source = taken(source, job.model, replay, self.graph.writers, job.pairs.decoder)
        room, one = budget(job.memory), Suffix.bytes_of(job)
        for rows in blocks(job.pairs.lengths, len(job.pairs)):
            self.blocks.append((rows, Suffix.of(job, replay, rows, source)))
        self.width = max(1, min(room // one, TOKENS // int(job.pairs.lengths.sum())))
        self.moves = np.any([suffix.moves() for _, suffix in self.blocks], 0)
        self.now = np.empty(len(job.pairs))
        for rows, suffix in self.blocks:
            self.now[rows] = suffix.rows.base[0]

    def cuts(self, change: float) -> bool:
        """Is an edge cut if the mean of the metric changes by so much without it?"""
        return self.sign * change < self.threshold

    def go(self) -> None:
        readers = range(len(self.graph.readers))
        for row in tqdm(readers[::-1], desc="acdc", unit="reader", delay=2, disable=None):
            self.reader(row)

    def reader(self, row: int) -> None:
        """Decide on all edges into a reader."""
        fed = self.graph.feeds[row]
        heard = self.wiring.read(self.kept.any(0)[None])[0]
        lost = not self._node(row, heard)
        idle = fed & (~self.moves | lost)
        if self.cuts(0.0):
            self.kept[:, row] &= ~idle
        candidates = [
            (place, int(writer))
            for writer in np.flatnonzero(fed)[::-1]
            for place in range(len(self.kept))
            if not idle[place, writer]
        ]
        if candidates:
            run = self._run(row, heard)
            found = settle(
                run,
                self.kept[:, row],
                candidates,
                self.now,
                cuts=self.cuts,
                width=self.width,
                likely=self.likely,
            )
            self.kept[:, row], self.now, changes, passes = found
            self.passes += passes
            places, writers = np.array(candidates).T
            self.changes[places, row, writers] = changes
            self.likely = bool(self.kept[places, row, writers].mean() < 0.5)
        for _, suffix in self.blocks:
            suffix.settle(row, self.kept[:, row])

    def _node(self, row: int, heard: Bool[ndarray, " writer"]) -> bool:
        """Does a kept edge lead on from what reads here?"""
        site = self.graph.readers[row]
        if site.layer is None:
            return True
        if site.kind == "mlp_out":
            return bool(heard[self.wiring.mlps[site.layer][1]])
        heads = heard[self.wiring.heads[site.layer]]
        size = self.job.model.facts.group_size
        if site.kind == "q":
            return bool(heads[site.head])
        assert site.group is not None
        return bool(heads[site.group * size : (site.group + 1) * size].any())

    def _run(self, row: int, heard: Bool[ndarray, " writer"]) -> Run:
        def run(
            cells: Bool[ndarray, "cell place writer"],
        ) -> Float[ndarray, "cell example"]:
            if not self.blocks:
                kept = np.broadcast_to(self.kept, (len(cells), *self.kept.shape)).copy()
                kept[:, :, row] = cells
                lacking = np.zeros(len(cells), dtype=bool)
                return outside(replace(self.job, kept=kept, lacking=lacking)).found[0]
            values = np.empty((len(cells), len(self.now)))
            for rows, suffix in self.blocks:
                values[:, rows] = suffix.run(row, cells, heard)
            return values

        return run

    def found(self, corruption: str) -> Discovered:
        """The circuit, and the change that each edge made."""
        job, metric = self.job, self.job.metrics[0]
        at = [
            (place, *self.graph.at(edge))
            for place in range(len(self.kept))
            for edge in self.graph.edges
        ]
        parts = [
            Part(Edge(self.graph.writers[w], self.graph.readers[r]), job.places[place])
            for place, r, w in at
        ]
        index = tuple(np.array(at).T)
        kept = self.kept[index]
        circuit = Circuit.of(
            [part for part, inside in zip(parts, kept, strict=True) if inside],
            model=job.model.weight_hash,
            ablation=job.ablation,
            corruption=corruption,
            granularity="edges",
        )
        note = provenance(
            job.model,
            job.pairs,
            engine=self.engine,
            method="acdc",
            threshold=self.threshold,
            ablation=job.ablation,
            corruption=corruption,
            metric=metric.name,
            kept=int(kept.sum()),
            runs=sum(self.passes),
            **({} if job.source is None else {"reference": job.source.fingerprint}),
        )
        if kept.all() or not kept.any():
            log.warning(
                "acdc keeps %s %d edges at threshold %g of %s, so the circuit is the %s. Another "
                "threshold would say which edges matter.",
                *("all", len(kept)) if kept.all() else ("none of the", len(kept)),
                *(self.threshold, metric.name),
                "whole model" if kept.all() else "ablated run",
            )
        ranking = Attribution.of(
            parts,
            self.changes[index],
            cluster=job.pairs.cluster,
            method="acdc",
            metric=metric.name,
            provenance=note,
        )
        return Discovered(circuit, ranking, sum(self.passes), len(self.passes))


TOKENS = 4096
"""Cells x tokens in a pass: more makes it no faster."""
FIRST = 8
"""Tests in the first pass of a reader; twice as many in the next as held in the last."""


def _sign(metric: Metric, worse: Worse | None) -> int:
    """1 where higher is worse.

    Raises:
        MetricError: not known of this metric.
    """
    name = metric.name.partition("@")[0]
    if worse is None and name not in WORSE:
        raise MetricError(
            f"acdc cuts edges as long as the metric gets no worse, and of {metric.name!r} it is "
            "not known where worse is: say worse='lower' (as of logit_diff) or worse='higher' (as "
            "of kl)."
        )
    return 1 if (worse or WORSE[name]) == "higher" else -1


def _reference(
    pairs: Pairs, ablation: Ablated, reference: Side | Pairs | MeanReference
) -> Averaged | None:
    if ablation != "mean":
        return None
    if isinstance(reference, MeanReference):
        return reference
    return (
        Reference(reference, "corrupt")
        if isinstance(reference, Pairs)
        else Reference(pairs, reference)
    )
