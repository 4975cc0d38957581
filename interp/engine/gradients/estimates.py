"""Estimates of what ablating each edge or node does: changes of writers times gradients at readers.

All are first-order: for an edge, the change that ablation makes to what its writer writes, times
the gradient of the metric at what its reader reads; for a node, times that at what it writes. They
differ in the run at which the gradient is taken.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product as product_of
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import grad

from interp.core.errors import MetricError
from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph
from interp.engine.gradients.streams import Estimated, some
from interp.engine.gradients.tape import (
    QKV,
    Attended,
    Tape,
    Taped,
    at_readers,
    projected,
    written,
)
from interp.engine.network import forward
from interp.engine.network.linear import Map
from interp.engine.network.trace import Trace
from interp.engine.plan.score import Readout


class Flat(MetricError):
    """A metric that is flat in all rows at hand, where the gradient is taken."""


def top(rows: Estimated, final: Float[Tensor, "batch pos d_model"]) -> Tensor:
    """The gradient of the metric at the final residual stream, `batch pos d_model`.

    Raises:
        MetricError: it has none, or one that is not finite.
    """
    name = rows.score.metric.name
    leaf = final.detach().requires_grad_()
    with torch.enable_grad():
        run = Trace(rows.engine.facts, {}, leaf)
        value = rows.engine.plain(run, Readout.of(rows.score))[0]
    if not value.requires_grad:
        raise MetricError(
            f"the metric {name!r} has no gradient (it counts or compares), so no attribution can "
            "be taken of it. Take a smooth one ('logit_diff', 'log_prob', 'prob'), or measure the "
            "effects: interp.causal.exact."
        )
    (found,) = grad(value, leaf, torch.ones_like(value))
    if not found.isfinite().all():
        raise MetricError(
            f"the gradient of the metric {name!r} holds NaN or infinity in row "
            f"{int((~found.isfinite()).flatten(1).any(1).int().argmax())} of a batch; likely it "
            "divides by zero or takes the logarithm of 0 there. Take another metric."
        )
    return found


def require_slope(rows: Estimated, final: Tensor, found: Tensor) -> None:
    """Refuse a metric that is flat at the run where the gradient is taken.

    A distance from the clean run has its minimum there, so that its gradient is rounding alone:
    less than the square root of the precision, as it changes when the final residual stream does
    by a part of itself.

    Raises:
        Flat: says what to take instead.
    """
    metric, slope = rows.score.metric, found.norm(dim=(1, 2))
    if metric.needs_reference:
        flat = (slope * final.norm(dim=(1, 2))).max() <= torch.finfo(final.dtype).eps ** 0.5
    else:
        flat = slope.max() == 0
    if flat:
        why = (
            "it compares a run with the clean run, and the clean run differs from itself by "
            "nothing: there the metric has its extreme"
            if metric.needs_reference
            else "nothing that it reads moves it"
        )
        raise Flat(
            f"the metric {metric.name!r} has a gradient of zero at the clean run ({why}), so every "
            "first-order estimate would be zero or rounding. Take the task's own metric "
            "('logit_diff', 'log_prob'), method='eap-ig-inputs' with several steps, which takes "
            "gradients between the runs, or measure the effects: interp.causal.exact."
        )


class Reading(NamedTuple):
    """The gradient at the stream as some readers read it.

    Attributes:
        stream: the number of that which they read.
        at: makes it of some positions, `batch reader some d_model`; None is all.
    """

    stream: int
    readers: slice
    at: Callable[[Int[Tensor, " some"] | None], Tensor]


def readings(
    rows: Estimated, run: tuple[Tape, ...], after: Float[Tensor, "batch pos d_model"]
) -> Iterator[Reading]:
    """At every reader of a run, from the logits down."""
    last, end = len(rows.graph.readers) - 1, len(run) - 1
    yield Reading(end, slice(last, last + 1), lambda part: some(after, part)[:, None])
    for number, taped, slopes in rows.sweep(run, after):
        stream = rows.streams[number]
        inputs, own = stream.lines(taped.layer)
        if stream.w.facts.d_mlp:
            yield Reading(number, own, lambda part, g=slopes.mlp: some(g, part)[:, None])
        for one, inner, at in zip(taped.attended, slopes.attended, inputs, strict=True):
            if inner.inputs is not None:
                yield from _inputs(rows, run, number, one, inner.inputs, at)


def _inputs(
    rows: Estimated, run: tuple[Tape, ...], number: int, one: Attended, made: QKV, at: slice
) -> Iterator[Reading]:
    """At the queries, keys and values of an attention."""
    w, p = rows.streams[number].w, one.p

    def own(part: Int[Tensor, " some"] | None, parts: Sequence[Map]) -> Tensor:
        read = [some(g, part) for g in made[: len(parts)]]
        return at_readers(w, p, some(one.resid, part), read, parts)

    if one.memory is None:
        yield Reading(number, at, partial(own, parts=(p.q, p.k, p.v)))
        return

    def across(part: Int[Tensor, " some"] | None) -> Tensor:
        read = projected(w, (p.k, p.v), [some(g, part) for g in made[1:]])
        return rows.into_encoder(some(run[0].final, part), read)

    middle = at.start + w.facts.n_heads
    yield Reading(number, slice(at.start, middle), partial(own, parts=(p.q,)))
    yield Reading(0, slice(middle, at.stop), across)


@dataclass(frozen=True, eq=False)
class Edges:
    """Scores of all edges, filled run by run.

    Attributes:
        clean: the run that is ablated, whole.
        parts: of each stream the positions that some place is of, as many at a time as there is
            room for; None is all of them.
        whole: how ablation changes what each writer of a stream writes, if all of that is held at
            once.
        scores: of readers and writers that are no edge, 0.
    """

    rows: Estimated
    clean: tuple[Tape, ...]
    parts: tuple[tuple[Int[Tensor, " _"] | None, ...], ...]
    whole: tuple[Float[Tensor, "batch _ _ d_model"] | None, ...]
    scores: Float[Tensor, "place batch reader writer"]

    @classmethod
    def of(cls, rows: Estimated, clean: tuple[Tape, ...]) -> "Edges":
        """Nothing yet."""
        facts, like = rows.last.w.facts, rows.last.clean
        size = max(
            1, rows.room // (rows.batch * token_bytes(facts, rows.graph, like.element_size()))
        )
        parts, whole = [], []
        for number, stream in enumerate(rows.streams):
            used = stream.places.any(0).any(0).nonzero()[:, 0]
            every = min(size, len(used)) == stream.clean.shape[1]
            parts.append((None,) if every else used.split(size))
            held = changes(rows, clean, number, parts[-1][0]) if len(parts[-1]) == 1 else None
            whole.append(held)
        scores = rows.zeros(len(rows.graph.readers), len(rows.graph.writers))
        return cls(rows, clean, tuple(parts), tuple(whole), scores)

    def add(
        self,
        run: tuple[Tape, ...],
        after: Float[Tensor, "batch pos d_model"],
        share: float,
        writers: Sequence[slice] = (slice(None),),
    ) -> None:
        """A share of the linear scores with the gradients of a run; only of some writers.

        The graphs of the run are gone then.
        """
        rows, found = self.rows, list(readings(self.rows, run, after))
        for (number, stream), one in product_of(enumerate(rows.streams), writers):
            asked = _both(one, stream.whole)
            here = [reading for reading in found if reading.stream == number]
            if asked.start >= asked.stop or not here:
                continue
            for part in self.parts[number]:
                held = self.whole[number]
                if held is None:
                    held = changes(rows, self.clean, number, part, asked)
                else:
                    held = held[:, asked.start - stream.writers : asked.stop - stream.writers]
                places = stream.places if part is None else stream.places[..., part]
                for _, readers, at in here:
                    # writers stand in order, so those before a reader are the first of a stream
                    fed = stream.writers + int(rows.graph.feeds[readers.start].sum())
                    stop = min(asked.stop, fed)
                    if asked.start < stop:
                        worth = product(at(part), held[:, : stop - asked.start], places)
                        self.scores[:, :, readers, asked.start : stop] += share * worth


def _both(one: slice, other: slice) -> slice:
    """Where a slice of all writers, perhaps without ends, meets another."""
    start = max(one.start or 0, other.start)
    return slice(start, other.stop if one.stop is None else min(one.stop, other.stop))


def token_bytes(facts: Facts, graph: Graph, itemsize: int) -> int:
    """What edges hold at a position of a row: each writer's change, and a layer's gradients."""
    inputs = facts.n_heads + 2 * facts.n_kv_heads
    return (len(graph.writers) + 4 * inputs) * facts.d_model * itemsize


def changes(
    rows: Estimated,
    clean: tuple[Tape, ...],
    number: int,
    part: Int[Tensor, " some"] | None = None,
    writers: slice = slice(None),
) -> Float[Tensor, "batch writer some d_model"]:
    """How ablation changes what writers of a stream write, in the order of the graph.

    Args:
        clean: the run that is ablated, whole.
        part: positions; None is all.
        writers: which of all.
    """
    stream = rows.streams[number]
    w, ablated, asked = stream.w, stream.ablated, _both(writers, stream.whole)
    here = some(stream.clean, part)
    found = here.new_empty(len(here), asked.stop - asked.start, *here.shape[1:])

    def put(columns: slice, make: Callable[[], Tensor]) -> None:
        wanted = _both(columns, asked)
        if wanted.start < wanted.stop:
            made = make()[:, wanted.start - columns.start : wanted.stop - columns.start]
            found[:, wanted.start - asked.start : wanted.stop - asked.start] = made

    first = slice(stream.writers, stream.writers + 1)
    put(first, lambda: (some(ablated.embed, part) - here)[:, None])
    for taped in clean[number].layers:
        heads, mlp = stream.columns(taped.layer)

        def moved(one: Attended, into: Tensor) -> Tensor:
            z = some(one.z, part)
            return written(w, one.p, z, some(into, part).to(z.device) - z)

        for one, into, columns in zip(
            taped.attended, ablated.heads(taped.layer), heads, strict=True
        ):
            put(columns, partial(moved, one, into))

        def by_mlp(taped: Taped = taped) -> Tensor:
            wrote = some(taped.mlp_out, part)
            into = some(ablated.mlp_out[taped.layer], part).to(wrote.device)
            return (into - wrote)[:, None]

        if w.facts.d_mlp:
            put(mlp, by_mlp)
    return found


def product(
    readers: Float[Tensor, "batch reader pos d_model"],
    changes: Float[Tensor, "batch writer pos d_model"],
    places: Bool[Tensor, "place batch pos"],
) -> Float[Tensor, "place batch reader writer"]:
    """Gradients times changes, summed over the positions of each place; where the changes are."""
    readers = readers.to(changes.device)
    if bool(places.all()):
        whole = torch.bmm(readers.flatten(2), changes.flatten(2).mT)
        return whole.expand(len(places), *whole.shape)
    each = torch.einsum("brpd,bwpd->brwp", readers, changes)
    return torch.einsum("brwp,mbp->mbrw", each, places.to(each))


def runs(
    rows: Estimated, clean: tuple[Tape, ...], steps: int
) -> Iterator[tuple[tuple[Tape, ...], Tensor]]:
    """Runs whose embedding is `k / steps` of the way from ablated to clean, with their gradients.

    k = 1 to `steps` (Hanna et al. 2024, sec. 3): the last is the clean run, so a single step is
    plain attribution patching, and the ablated run itself is left out. Of two stacks what enters
    either goes the same way.
    """
    for k in range(steps, 0, -1):
        run = clean if k == steps else rows.run(_mixed(rows, k / steps))
        after = top(rows, run[-1].final)
        if steps == 1:
            require_slope(rows, run[-1].final, after)
        yield run, after


def _mixed(rows: Estimated, share: float) -> list[Float[Tensor, "batch _ d_model"]]:
    """What enters each stream, between the ablated (share 0) and the clean (share 1)."""
    return [torch.lerp(one.ablated.embed, one.clean, share) for one in rows.streams]


def _clean(rows: Estimated) -> tuple[Tape, ...]:
    return rows.run([stream.clean for stream in rows.streams])


@torch.no_grad()
def eap(rows: Estimated, *, steps: int = 1) -> Float[Tensor, "place batch reader writer"]:
    """Edge attribution patching; of several steps EAP-IG over inputs."""
    clean = _clean(rows)
    edges = Edges.of(rows, clean)
    for run, after in runs(rows, clean, steps):
        edges.add(run, after, 1 / steps)
    return edges.scores


@torch.no_grad()
def atp(rows: Estimated, *, steps: int = 1) -> Float[Tensor, "place batch writer"]:
    """Attribution patching of every head and MLP (and 0 of what enters a stream)."""
    clean = _clean(rows)
    found = rows.zeros(len(rows.graph.writers))
    for run, after in runs(rows, clean, steps):
        for number, taped, slopes in rows.sweep(run, after):
            stream = rows.streams[number]
            ran, ablated = clean[number].layers[taped.layer], stream.ablated
            heads, own = stream.columns(taped.layer)
            each = zip(
                heads, ran.attended, ablated.heads(taped.layer), slopes.attended, strict=True
            )
            for columns, one, into, inner in each:
                z = into.to(one.z.device) - one.z
                worth = torch.einsum("bphe,bphe,mbp->mbh", inner.z, z, stream.places.to(z))
                found[..., columns] += worth.to(found.device) / steps
            if stream.w.facts.d_mlp:
                wrote = ran.mlp_out
                mlp = ablated.mlp_out[taped.layer].to(wrote.device) - wrote
                slope = slopes.mlp_out.to(mlp.dtype)
                worth = torch.einsum("bpd,bpd,mbp->mb", slope, mlp, stream.places.to(mlp))
                found[..., own] += worth[..., None].to(found.device) / steps
    return found


@torch.no_grad()
def eap_activations(rows: Estimated, *, steps: int) -> Float[Tensor, "place batch reader writer"]:
    """EAP-IG over activations: the writers of one layer go from ablated to clean together.

    What enters the streams, the heads of an attention and an MLP have runs of their own, `k /
    steps` of the way, k = 1 to `steps`, from there on; all before them is clean. The last is the
    clean run for all.
    """
    clean = _clean(rows)
    edges = Edges.of(rows, clean)
    after = top(rows, clean[-1].final)
    if steps == 1:
        require_slope(rows, clean[-1].final, after)
    edges.add(clean, after, 1 / steps)
    for share in [k / steps for k in range(1, steps)]:
        run = rows.run(_mixed(rows, share))
        first = [slice(stream.writers, stream.writers + 1) for stream in rows.streams]
        edges.add(run, top(rows, run[-1].final), 1 / steps, first)
        for writers, run in _moved(rows, clean, share):
            edges.add(run, top(rows, run[-1].final), 1 / steps, [writers])
    return edges.scores


def _moved(
    rows: Estimated, clean: tuple[Tape, ...], share: float
) -> Iterator[tuple[slice, tuple[Tape, ...]]]:
    """Runs in which the heads of one attention, or an MLP, are a share of the way to clean."""
    for number, stream in enumerate(rows.streams):
        ablated = stream.ablated
        for taped in clean[number].layers:
            layer, (heads, mlp) = taped.layer, stream.columns(taped.layer)
            each = zip(heads, taped.attended, ablated.heads(layer), strict=True)
            for columns, one, into in each:
                z = torch.lerp(into.to(one.z.device), one.z, share)
                cross = one.memory is not None
                yield columns, rows.onward(clean, number, taped.resid, layer, z=z, cross=cross)
            if stream.w.facts.d_mlp:
                wrote = taped.mlp_out
                wrote = torch.lerp(ablated.mlp_out[layer].to(wrote.device), wrote, share)
                last = taped.attended[-1]
                after = last.resid + forward.attention_write(last.z, last.p) + wrote
                yield mlp, rows.onward(clean, number, after, layer + 1)
