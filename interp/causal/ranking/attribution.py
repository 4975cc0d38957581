"""Attribution: what ablating each edge or node would do, estimated from gradients, for all at once.

    scores = attribute(model, pairs)                      # every edge, two forwards, one backward
    scores = attribute(model, pairs, "nodes", method="atp*")
    verify(scores, model, pairs, k=100)                   # are they right? measured

An estimate is first-order: it misses what saturates and what only acts together. `verify` (in
`interp.causal.ranking.verification`) says by how much.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.causal.averages import Averaging, PlainAblation, averaged
from interp.causal.ranking.cost import OF, Method, Parts, Room, plan_of, room_for
from interp.core.door.door import door
from interp.core.door.taken import Count
from interp.core.errors import PositionError, Unsupported
from interp.core.metrics import OneMetric, resolve_metric
from interp.core.parts.circuit import Part
from interp.core.parts.graph import Graph, nodes
from interp.core.parts.sites import Site, Stack
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import REST, free
from interp.core.tables.attribution import Attribution
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.replay.engine import Replay
from interp.engine.engines.replay.two import ReplayOfTwo
from interp.engine.gradients import atp_star
from interp.engine.gradients.estimates import Flat, atp, eap, eap_activations
from interp.engine.gradients.streams import (
    Differentiable,
    Estimated,
    Stream,
    read_by,
    require_sums,
    weights_in,
)
from interp.engine.interventions import Averaged
from interp.engine.network import forward
from interp.engine.network.ablated import Ablated
from interp.engine.plain.means.fitter import Group
from interp.engine.plain.means.means import MeanReference, taken
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import KEEP, Memory, budget, by_rows
from interp.engine.plan.positions import ids_of, places, target_names
from interp.engine.plan.score import Score
from interp.engine.provenance import provenance
from interp.models.model import Model


@door
@torch.inference_mode(mode=False)  # there is no gradient inside of it
def attribute(
    model: Model,
    pairs: Pairs,
    parts: Parts = "edges",
    *,
    method: Method | None = None,
    steps: Count = 5,
    ablation: PlainAblation = "resample",
    reference: Averaging = "corrupt",
    positions: str | Sequence[str] = "all",
    metric: OneMetric = "logit_diff",
    memory: Memory = None,
) -> Attribution:
    """Estimate the effect of ablating each part, all parts at once.

    Args:
        parts: `"edges"`, those of `interp.core.parts.graph.Graph`, or `"nodes"`, heads and MLPs.
        method: `"eap"` of edges (the default), edge attribution patching (Syed et al. 2023): the
            change of what the writer writes, times the gradient of the metric, at the clean run,
            at what the reader reads, summed over positions; the norm of the reader is linearised
            too, and one on the write (Gemma 2, OLMo 2). `"eap-ig-inputs"` (Hanna et al. 2024,
            sec. 3): with the mean of the gradients at embeddings z' + k/m (z - z'), z' the ablated
            one, k = 1 to m. That is the paper's formula; one step is EAP (the released code takes
            k = 0 to m - 1, which leaves the clean run out and takes the ablated one in).
            `"eap-ig-activations"` (Mueller et al. 2025): in place of the embedding, the heads of
            one attention (or an MLP) go from ablated to clean in the same steps, with runs of their
            own; that is two for each layer and step.
            `"atp"` of nodes (the default): attribution patching, the change of what the node
            writes, times the gradient there; it is the sum of the node's edges under EAP, and so
            are its integrated forms. `"atp*"` (Kramár et al. 2024): attention probabilities of
            changed queries and keys exact, and sizes averaged over gradients without one layer
            each; see `interp.engine.gradients.atp_star`.
        steps: m, of the integrated gradients.
        ablation: what a part is set to: its value in the corrupt prompt of the row
            (`"resample"`), its mean (`"mean"`), 0 (`"zero"`).
        reference: whose mean, as in `interp.ablate`.
        positions: `"all"`, or named positions, one row for each part and place; `"rest"` is all
            positions that no name of the pairs covers. Of an encoder-decoder a place is where the
            reader reads: the target's position in the decoder, the source's in the encoder (the
            keys and values of cross-attention, too), so both have to have the name.
        memory: bytes that activations and gradients may take; prompts run in chunks that fit, and
            edges are summed some positions at a time.

    Returns:
        One row for each part and place, with the score of each example: an estimate of what
        `ablate` would measure as `effect`, so parts that help have a negative one.

    Raises:
        Unsupported: a model that the replay engine does not serve (recurrent), whose residual
            stream is no sum (post-norm: BERT, BART), or an unknown method.
        MetricError: a metric without a gradient, or with one of zero at the clean run (`"kl"`).
        PairsError, PositionError: as their names say.
        InterpError: a single prompt takes more than `memory`.
    """
    method = _method(parts, method)
    metric = resolve_metric(metric)
    pairs.require_one_kind("an attribution")
    accept(model, pairs, metric)
    engine = differentiable(model, pairs)
    names = places_of(pairs, positions)
    graph = Graph.of(model.facts)
    allowed = budget(memory, model.device, KEEP)
    source = averaged(pairs, reference)
    room = room_for(pairs, graph, model, parts, method, len(names), allowed, memory)
    proceed(plan_of(model, graph, pairs, room, method, steps, ablation))
    means = _means(model, engine, pairs, ablation, source, graph)
    chosen = graph.edges if parts == "edges" else nodes(model.facts)
    wide, flat = np.float64 if model.dtype == torch.float64 else np.float32, 0
    each = np.zeros((len(names), len(chosen), len(pairs)), dtype=wide)

    def some(index: list[int]) -> None:
        nonlocal flat
        score = Score.of_rows(model, pairs, metric, index)
        rows = _rows(engine, pairs, score, graph, index, names, ablation, means, room)
        try:
            found = _estimate(rows, parts, method, steps)
        except Flat as refusal:
            flat += len(index)  # and so their scores are 0, unless there are no others
            if metric.needs_reference or flat == len(pairs):
                raise refusal
        else:
            each[:, :, index] = found.cpu().to(torch.float64).numpy()  # NumPy has no bfloat16

    with tqdm(total=len(pairs), desc=method, unit="prompt", delay=2, disable=None) as bar:
        for index, _ in room.chunks:
            by_rows(some, index, "the gradients")
            bar.update(len(index))
    note = provenance(
        model,
        pairs,
        engine="replay",
        plan={"batches": len(room.chunks), "memory": allowed},
        method=method,
        steps=steps if "ig" in method else 1,
        ablation=ablation,
        metric=metric.name,
        worse=metric.worse,
        **({} if means is None else {"reference": source.fingerprint}),
    )
    return Attribution.of(
        [Part(part, place) for place in names for part in chosen],
        each.reshape(-1, len(pairs)),
        cluster=pairs.cluster,
        method=method,
        metric=metric.name,
        provenance=note,
    )


def differentiable(model: Model, pairs: Pairs) -> Differentiable:
    """The replay engine of a model, if gradients along its edges mean something.

    Raises:
        Unsupported: the engine does not serve it, or its residual stream is no sum.
    """
    try:
        engine = choose(model, "replay", longest=pairs.longest)
    except Unsupported as refusal:
        raise Unsupported(
            f"attribution takes gradients on the replay engine, which does not serve {model.name}: "
            f"{refusal} The effects can be measured on any engine: interp.causal.exact."
        ) from refusal
    assert isinstance(engine, Replay | ReplayOfTwo)
    for w in weights_in(engine):
        require_sums(w, model.name)
    return engine


def places_of(pairs: Pairs, positions: str | Sequence[str]) -> list[str]:
    """The places that parts are at: ["all"], or names of the pairs and "rest".

    Raises:
        PositionError: an unknown name, none, one twice, or "all" beside others.
    """
    names = [positions] if isinstance(positions, str) else list(positions)
    if not names or len(set(names)) < len(names) or ("all" in names and len(names) > 1):
        raise PositionError(
            f"positions={positions!r}: give 'all', or each of some named positions once "
            f"({', '.join(pairs.positions)}, and 'rest' for all that have no name)."
        )
    for name in names:
        if name not in ("all", REST):
            pairs.at(name)
    return names


def mask(
    pairs: Pairs, place: str, rows: Sequence[int], stack: Stack | None = None
) -> Bool[Tensor, "batch pos"]:
    """The positions of a place in rows of one extent, in a stack of two.

    Raises:
        PositionError: a name that only the other stack has.
    """
    if place != REST:
        return places(
            pairs, place, rows, None if stack is None else Site("resid_pre", 0, stack=stack)
        )
    if stack == "dec":
        return free(target_names(pairs), pairs.written, rows)
    return free(pairs.positions, pairs.lengths, rows)


def _method(parts: Parts, method: Method | None) -> Method:
    known = OF[parts]
    if method is not None and method not in known:
        raise Unsupported(
            f"method={method!r} is not one of {parts}, which have {', '.join(map(repr, known))}."
        )
    return known[0] if method is None else method


def _means(
    model: Model,
    engine: Differentiable,
    pairs: Pairs,
    ablation: PlainAblation,
    source: Averaged,
    graph: Graph,
) -> MeanReference | None:
    """The means that mean ablation sets."""
    if ablation != "mean":
        return None
    return taken(source, model, engine, graph.writers, pairs)


@torch.no_grad()
def _rows(
    engine: Differentiable,
    pairs: Pairs,
    score: Score,
    graph: Graph,
    index: Sequence[int],
    names: Sequence[str],
    ablation: PlainAblation,
    means: MeanReference | None,
    room: Room,
) -> Estimated:
    """Some rows of one extent, with what ablation sets their writers to."""
    device = score.read.device
    ids = {side: ids_of(pairs, side, index, device) for side in ("clean", "corrupt")}
    run = engine.trace(*ids["corrupt"], keep=("z", "mlp_out")) if ablation == "resample" else None
    if score.metric.needs_reference:
        reference = engine.found(engine.trace(*ids["clean"], keep=()), score)
        score = replace(score, answers=replace(score.answers, reference=reference))
    every = pairs.groups
    groups = [every[i] for i in index]
    streams = list[Stream]()
    for w, clean, corrupt in zip(
        weights_in(engine), *(read_by(engine, *ids[side]) for side in ids), strict=True
    ):
        enters = forward.embed(w, clean)
        if run is not None:
            other = run if w.stack is None else run.of(w.stack)
            ablated = Ablated.of_run(forward.embed(w, corrupt), other)
        elif means is None:
            ablated = Ablated.zeros(w.facts, enters, crosses=w.blocks[0].cross is not None)
        else:
            at = partial(_mean, means, groups, enters)
            ablated = Ablated.at_each(w.facts, at, stack=w.stack)
        shown = torch.stack([mask(pairs, name, index, w.stack) for name in names]).to(device)
        streams.append(Stream.after(streams, w, enters, ablated, shown))
    return Estimated(engine, score, tuple(streams), graph, room.changes, room.graphs)


def _mean(
    means: MeanReference, groups: Sequence[Group], like: Tensor, site: Site
) -> Float[Tensor, "batch pos *axes"]:
    return means.at(site, groups).to(like)


def _estimate(
    rows: Estimated, parts: Parts, method: Method, steps: int
) -> Float[Tensor, "place part batch"]:
    """The scores of some rows, in the order of the parts."""
    match parts, method:
        case "nodes", "atp" | "eap-ig-inputs":
            found = atp(rows, steps=steps if method == "eap-ig-inputs" else 1)
        case "nodes", "atp*":
            found = atp_star.of_nodes(rows)
        case "nodes", _:  # what a node does to its readers is the sum of its edges
            found = eap_activations(rows, steps=steps).sum(2)
        case _, "atp*":
            found = atp_star.of_edges(rows)
        case _, "eap-ig-activations":
            found = eap_activations(rows, steps=steps)
        case _:
            found = eap(rows, steps=steps if method == "eap-ig-inputs" else 1)
    if parts == "nodes":
        enters = {stream.writers for stream in rows.streams}
        return found[..., [i for i in range(found.shape[-1]) if i not in enters]].mT
    edge = torch.from_numpy(rows.graph.feeds).to(found.device)
    return found[:, :, edge].mT
