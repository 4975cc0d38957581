"""ACDC: cut edge after edge from the logits backward, as long as the model says the same.

Conmy et al. 2023, Algorithm 1. An edge's test re-runs the model from its reader on, since all that
stands before is the clean run (`interp.engine.circuits.onward`); and tests go up together, under a
guess of what the earlier ones decide, so that the answer is that of one test after the other.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Unpack

import numpy as np

from interp.causal.averages import Averaging, PlainAblation, averaged
from interp.circuits.discovery.search import Search
from interp.core.door.door import door
from interp.core.door.taken import Finite
from interp.core.errors import MetricError, Unsupported
from interp.core.metrics import Metric, OneMetric, Worse, resolve_metric
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.edges import Edge
from interp.core.parts.graph import Graph
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import REST
from interp.core.tables.attribution import Attribution
from interp.core.tables.saved import Saved
from interp.engine.circuits.masks import Masks
from interp.engine.circuits.wiring import Wiring
from interp.engine.interventions import Averaged
from interp.engine.provenance import provenance
from interp.engine.sweep.sweep import Running, Sweep
from interp.models.model import Model

log = logging.getLogger("interp")

Where = Literal["all", "named"]


@dataclass(frozen=True, eq=False)
class Discovered(Saved):
    """What ACDC found.

    Attributes:
        circuit: the edges that are kept.
        ranking: of every edge the change of the metric when it was tested, in the model without the
            edges that were cut before it; 0 where it could change nothing, because no kept edge
            leads on from its reader, or what it carries is what it would be cut to. So the scores
            depend on the order and on the threshold: an edge that stands in for another is
            tested with that one there or gone. An edge is kept if and only if the metric got worse
            by the threshold or more.
        runs: partial forwards (of all prompts) that were made, those that a checkpoint held left
            out. One full forward an edge would be as many as there are edges.
        waves: passes that they were made in.
    """

    circuit: Circuit
    ranking: Attribution
    runs: int
    waves: int


@door
def acdc(
    model: Model,
    pairs: Pairs,
    *,
    threshold: Finite,
    metric: OneMetric = "kl",
    worse: Worse | None = None,
    ablation: PlainAblation = "resample",
    reference: Averaging = "corrupt",
    positions: Where = "all",
    corruption: str = "corrupt prompts",
    **running: Unpack[Running],
) -> Discovered:
    """Cut every edge without which the metric gets worse by less than a threshold.

    The readers come from the last to the first: the logits; then of each layer from the last its
    MLP, the values, the keys and the queries, from the last head (or group) to the first. Of each
    reader the writers come from the last to the embedding, and of each writer the places in their
    order. What is cut stays cut. Another order gives another circuit. A writer's edges may stay
    where all edges into it fell, each by less than the threshold; nothing is pruned after.

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
        checkpoint: a folder where finished readers are kept, so that a killed run goes on.

    Raises:
        MetricError: a metric that does not say where worse is, or is not finite.
        Unsupported: unknown options, or a model without edges into logits.
        InterpError: more bytes than there are, or than `memory`.
        PairsError, PositionError, ModelError: as in `ablate`.
    """
    job = _job(
        *(model, pairs, resolve_metric(metric), ablation, averaged(pairs, reference), positions),
        running,
    )
    search = Search(job, threshold, harm(job.metrics[0], worse))
    search.go()
    found = _found(search, corruption)
    if found.circuit.note:
        log.warning(found.circuit.note)
    return found


@door
def acdc_sweep(
    model: Model,
    pairs: Pairs,
    *,
    thresholds: Sequence[Finite],
    metric: OneMetric = "kl",
    worse: Worse | None = None,
    ablation: PlainAblation = "resample",
    reference: Averaging = "corrupt",
    positions: Where = "all",
    corruption: str = "corrupt prompts",
    **running: Unpack[Running],
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
    job = _job(
        *(model, pairs, resolve_metric(metric), ablation, averaged(pairs, reference), positions),
        running,
    )
    sign, runs = harm(job.metrics[0], worse), []
    for step in steps:
        search = Search(job, step, sign)
        search.go()
        runs.append(_found(search, corruption))
    ranking = runs[0].ranking
    kept = np.array([[part in run.circuit for part in ranking.parts] for run in runs])
    score = sign * (np.array(steps)[:, None] * kept).max(0)
    if len(set(score)) == 1:
        log.warning(
            "at each of the thresholds %s of %s acdc keeps %s edges, so it ranks none above "
            "another. Others would say which matter.",
            *(steps, job.metrics[0].name, "all" if kept.all() else "no"),
        )
    return Attribution.of(
        ranking.parts,
        np.repeat(score[:, None], len(pairs), 1),
        cluster=ranking.cluster,
        method="acdc",
        metric=job.metrics[0].name,
        provenance={
            **{k: v for k, v in ranking.provenance.items() if k not in ("threshold", "kept")},
            "thresholds": steps,
            "runs": sum(run.runs for run in runs),
        },
    )


def harm(metric: Metric, worse: Worse | None = None) -> int:
    """The sign of a change for the worse: 1 where higher is worse, else -1.

    Raises:
        MetricError: a metric of one's own, of which it is not said.
    """
    found = worse or metric.worse
    if found is None:
        raise MetricError(
            f"of the metric {metric.name!r} it is not known where it goes when the model gets "
            "worse, and edges are cut as long as it does not: say worse='lower' (as of logit_diff) "
            "or worse='higher' (as of kl), here or in the metric."
        )
    return 1 if found == "higher" else -1


def _job(
    model: Model,
    pairs: Pairs,
    metric: Metric,
    ablation: PlainAblation,
    source: Averaged,
    positions: Where,
    running: Running,
) -> Sweep:
    """What is searched.

    Raises:
        Unsupported: no logits.
    """
    if not model.facts.language_model:
        raise Unsupported(
            f"{model.name} has no logits, so no edge leads to an answer that could be kept. Rank "
            "its heads and MLPs: interp.ablate(model, pairs, ['heads', 'mlps'], metric='cosine')."
        )
    pairs.require_one_kind("a search for circuits")
    graph = Graph.of(model.facts)
    masks = Masks(
        Wiring(model.facts, graph),
        np.zeros((0, 1, *graph.feeds.shape), dtype=bool),
        np.zeros(0, dtype=bool),
        ("all",) if positions == "all" else (*sorted(pairs.positions), REST),
        ablation,
        source if ablation == "mean" else None,
    )
    return Sweep(
        model=model,
        pairs=pairs,
        cells=(),
        method="acdc",
        base="clean",
        metrics=(metric,),
        masks=masks,
        **running,
    )


def _found(search: Search, corruption: str) -> Discovered:
    """The circuit, and the change that each edge made."""
    job, graph, metric = search.job, search.graph, search.job.metrics[0]
    masks = search.masks
    at = [(place, *graph.at(edge)) for place in range(len(search.kept)) for edge in graph.edges]
    parts = [
        Part(Edge(graph.writers[w], graph.readers[r]), masks.places[place]) for place, r, w in at
    ]
    index = tuple(np.array(at).T)
    kept = search.kept[index]
    circuit = Circuit.of(
        [part for part, inside in zip(parts, kept, strict=True) if inside],
        model=job.model.weight_hash,
        ablation=masks.ablation,
        corruption=corruption,
        granularity="edges",
    )
    if kept.all() or not kept.any():
        remark = (
            f"acdc keeps {'all' if kept.any() else 'none of the'} {len(kept)} edges at threshold "
            f"{search.threshold:g} of {metric.name}: it is the "
            f"{'whole model' if kept.any() else 'ablated run'}. Another threshold would say which "
            "edges matter"
        )
        circuit = replace(circuit, note=remark)
    note = provenance(
        job.model,
        job.pairs,
        engine=search.engine,
        plan={"tests at once": search.width},
        method="acdc",
        threshold=search.threshold,
        ablation=masks.ablation,
        corruption=corruption,
        metric=metric.name,
        worse="higher" if search.harm > 0 else "lower",
        kept=int(kept.sum()),
        runs=search.runs,
        **({} if masks.source is None else {"reference": masks.source.fingerprint}),
    )
    ranking = Attribution.of(
        parts,
        search.changes[index],
        cluster=job.pairs.cluster,
        method="acdc",
        metric=metric.name,
        provenance=note,
    )
    return Discovered(circuit, ranking, search.runs, search.waves)
