"""Estimates of what ablating each edge or node does: changes of writers times gradients at readers.

All are first-order: for an edge, the change that ablation makes to what its writer writes, times
the gradient of the metric at what its reader reads; for a node, times that at what it writes. They
differ in the run at which the gradient is taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import grad

from interp.core.errors import MetricError
from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph
from interp.engine.engines.replay.engine import Replay
from interp.engine.gradients.tape import Slopes, Tape, at_readers, back, tape, written
from interp.engine.network import forward
from interp.engine.network.ablated import Ablated
from interp.engine.network.trace import Trace
from interp.engine.network.weights import Weights
from interp.engine.plan.score import Readout, Score


class Flat(MetricError):
    """A metric that is flat in all rows at hand, where the gradient is taken."""


@dataclass(frozen=True, eq=False)
class Estimated:
    """Estimated of one length, to be estimated.

    Attributes:
        clean: what the embedding writes in the clean run.
        ablated: what ablation sets each writer to.
        places: the positions that each part of the result is about.
        graph: of the model.
        room: bytes that what writers write and readers' gradients may take at a time.
        graphs: are those of all layers held?
    """

    engine: Replay
    score: Score
    clean: Float[Tensor, "batch pos d_model"]
    ablated: Ablated
    places: Bool[Tensor, "place batch pos"]
    graph: Graph
    room: int
    graphs: bool

    @property
    def weights(self) -> Weights:
        return self.engine.weights

    def run(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        *,
        start: int = 0,
        z: Float[Tensor, "batch pos head d_head"] | None = None,
    ) -> Tape:
        """The layers from `start` on, taped."""
        return tape(self.weights, resid, start=start, z=z, graphs=self.graphs)

    def mixed(self, share: float) -> Float[Tensor, "batch pos d_model"]:
        """The embedding between the ablated (share 0) and the clean one (share 1)."""
        return torch.lerp(self.ablated.embed, self.clean, share)


def top(rows: Estimated, final: Float[Tensor, "batch pos d_model"]) -> Tensor:
    """The gradient of the metric at the final residual stream, `batch pos d_model`.

    Raises:
        MetricError: it has none, or one that is not finite.
    """
    name = rows.score.metric.name
    leaf = final.detach().requires_grad_()
    with torch.enable_grad():
        run = Trace(rows.weights.facts, {}, leaf)
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


@dataclass(frozen=True, eq=False)
class Edges:
    """Scores of all edges, filled run by run.

    Attributes:
        clean: the run that is ablated, whole.
        parts: the positions that some place is of, as many at a time as there is room for; None is
            all of them.
        whole: how ablation changes what each writer writes, if all of that is held at once.
        scores: of readers and writers that are no edge, 0.
    """

    rows: Estimated
    clean: Tape
    parts: tuple[Int[Tensor, " some"] | None, ...]
    whole: Float[Tensor, "batch writer some d_model"] | None
    scores: Float[Tensor, "place batch reader writer"]

    @classmethod
    def of(cls, rows: Estimated, clean: Tape) -> "Edges":
        """Nothing yet."""
        graph, (batch, pos, _) = rows.graph, rows.clean.shape
        used = rows.places.any(0).any(0).nonzero()[:, 0]
        token = token_bytes(rows.weights.facts, graph, rows.clean.element_size())
        size = max(1, rows.room // (batch * token))
        parts = used.split(size) if min(size, len(used)) < pos else (None,)
        whole = changes(rows, clean, parts[0]) if len(parts) == 1 else None
        shape = (len(rows.places), batch, len(graph.readers), len(graph.writers))
        return cls(rows, clean, parts, whole, rows.clean.new_zeros(shape))

    def add(
        self,
        run: Tape,
        after: Float[Tensor, "batch pos d_model"],
        share: float,
        writers: slice = slice(None),
    ) -> None:
        """A share of the linear scores with the gradients of a run; only of some writers."""
        w, last = self.rows.weights, len(self.rows.graph.readers) - 1
        slopes = [
            (taped.layer, taped.resid, reading.inputs, reading.mlp)
            for taped, reading in zip(reversed(run.layers), sweep(w, run, after), strict=True)
        ]
        for part in self.parts:
            if self.whole is None:
                held = changes(self.rows, self.clean, part, writers)
            else:
                held = self.whole[:, writers]
            places = self.rows.places if part is None else self.rows.places[..., part]

            def term(
                readers: slice, at: Tensor, held: Tensor = held, places: Tensor = places
            ) -> None:
                before = int(self.rows.graph.feeds[readers.start].sum())  # writers stand in order
                start, stop, _ = writers.indices(before)
                if start < stop:
                    worth = product(at, held[:, : stop - start], places)
                    self.scores[:, :, readers, start:stop] += share * worth

            term(slice(last, last + 1), some(after, part)[:, None])
            for layer, resid, made, mlp in slopes:
                inputs, own = lines(w, layer)
                if w.facts.d_mlp:
                    term(own, some(mlp, part)[:, None])
                if made is not None:
                    q, k, v = (some(t, part) for t in made)
                    term(inputs, at_readers(w, some(resid, part), layer, (q, k, v)))


def some(
    x: Float[Tensor, "batch pos *axes"], part: Int[Tensor, " some"] | None
) -> Float[Tensor, "batch some *axes"]:
    """Some positions of all rows; None is all."""
    return x if part is None else x.index_select(1, part.to(x.device))


def token_bytes(facts: Facts, graph: Graph, itemsize: int) -> int:
    """What edges hold at a position of a row: each writer's change, and a layer's gradients."""
    inputs = facts.n_heads + 2 * facts.n_kv_heads
    return (len(graph.writers) + 4 * inputs) * facts.d_model * itemsize


def changes(
    rows: Estimated,
    clean: Tape,
    part: Int[Tensor, " some"] | None = None,
    writers: slice = slice(None),
) -> Float[Tensor, "batch writer some d_model"]:
    """How ablation changes what writers write, in the order of the graph, at some positions.

    clean: the run that is ablated, whole.
    """
    w, ablated = rows.weights, rows.ablated
    start, stop, _ = writers.indices(len(rows.graph.writers))
    here = some(rows.clean, part)
    found = here.new_empty(len(here), stop - start, *here.shape[1:])

    def wanted(columns: slice) -> bool:
        return columns.start < stop and columns.stop > start

    def put(columns: slice, made: Tensor) -> None:
        first, last = max(columns.start, start), min(columns.stop, stop)
        chosen = made[:, first - columns.start : last - columns.start]
        found[:, first - start : last - start] = chosen

    if wanted(slice(0, 1)):
        put(slice(0, 1), (some(ablated.embed, part) - here)[:, None])
    for taped in clean.layers:
        heads, mlp = columns(w, taped.layer)
        if wanted(heads):
            z = some(taped.z, part)
            into = some(ablated.z[taped.layer], part).to(z.device)
            put(heads, written(w, taped.layer, z, into - z))
        if w.facts.d_mlp and wanted(mlp):
            wrote = some(taped.mlp_out, part)
            into = some(ablated.mlp_out[taped.layer], part).to(wrote.device)
            put(mlp, (into - wrote)[:, None])
    return found


def sweep(w: Weights, run: Tape, after: Float[Tensor, "batch pos d_model"]) -> Iterator[Slopes]:
    """Back through the layers of a run."""
    for taped in reversed(run.layers):
        (reading,) = back(w, taped, [after])
        yield reading
        after = reading.resid


def columns(w: Weights, layer: int) -> tuple[slice, slice]:
    """Where the graph has the heads of a layer and its MLP among the writers."""
    heads = w.facts.n_heads
    start = 1 + layer * (heads + bool(w.facts.d_mlp))
    return slice(start, start + heads), slice(start + heads, start + heads + bool(w.facts.d_mlp))


def lines(w: Weights, layer: int) -> tuple[slice, slice]:
    """... and the queries, keys and values of a layer and its MLP among the readers."""
    inputs = w.facts.n_heads + 2 * w.facts.n_kv_heads
    start = layer * (inputs + bool(w.facts.d_mlp))
    return slice(start, start + inputs), slice(start + inputs, start + inputs + bool(w.facts.d_mlp))


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


def runs(rows: Estimated, clean: Tape, steps: int) -> Iterator[tuple[Tape, Tensor]]:
    """Runs whose embedding is `k / steps` of the way from ablated to clean, with their gradients.

    k = 1 to `steps` (Hanna et al. 2024, sec. 3): the last is the clean run, so a single step is
    plain attribution patching, and the ablated run itself is left out.
    """
    for k in range(steps, 0, -1):
        run = clean if k == steps else rows.run(rows.mixed(k / steps))
        after = top(rows, run.final)
        if steps == 1:
            require_slope(rows, run.final, after)
        yield run, after


@torch.no_grad()
def eap(rows: Estimated, *, steps: int = 1) -> Float[Tensor, "place batch reader writer"]:
    """Edge attribution patching; of several steps EAP-IG over inputs."""
    clean = rows.run(rows.clean)
    edges = Edges.of(rows, clean)
    for run, after in runs(rows, clean, steps):
        edges.add(run, after, 1 / steps)
    return edges.scores


@torch.no_grad()
def atp(rows: Estimated, *, steps: int = 1) -> Float[Tensor, "place batch writer"]:
    """Attribution patching of every head and MLP (and 0 of the embedding)."""
    w = rows.weights
    clean = rows.run(rows.clean)
    found = rows.clean.new_zeros(len(rows.places), len(rows.clean), len(rows.graph.writers))
    for run, after in runs(rows, clean, steps):
        for reading in sweep(w, run, after):
            taped, (heads, own) = clean.layers[reading.layer], columns(w, reading.layer)
            z = rows.ablated.z[reading.layer].to(taped.z.device) - taped.z
            each = torch.einsum("bphe,bphe,mbp->mbh", reading.z, z, rows.places.to(z))
            found[..., heads] += each.to(found.device) / steps
            if w.facts.d_mlp:
                wrote = taped.mlp_out
                mlp = rows.ablated.mlp_out[reading.layer].to(wrote.device) - wrote
                slope = reading.mlp_out.to(mlp.dtype)
                each = torch.einsum("bpd,bpd,mbp->mb", slope, mlp, rows.places.to(mlp))
                found[..., own] += each[..., None].to(found.device) / steps
    return found


@torch.no_grad()
def eap_activations(rows: Estimated, *, steps: int) -> Float[Tensor, "place batch reader writer"]:
    """EAP-IG over activations: the writers of one layer go from ablated to clean together.

    The embedding, the heads of a layer and its MLP have runs of their own, `k / steps` of the way,
    k = 1 to `steps`, from there on; all before them is clean. The last is the clean run for all.
    """
    w, ablated = rows.weights, rows.ablated
    clean = rows.run(rows.clean)
    edges = Edges.of(rows, clean)
    after = top(rows, clean.final)
    if steps == 1:
        require_slope(rows, clean.final, after)
    edges.add(clean, after, 1 / steps)
    for share in [k / steps for k in range(1, steps)]:
        run = rows.run(rows.mixed(share))
        edges.add(run, top(rows, run.final), 1 / steps, slice(0, 1))
        for taped in clean.layers:
            heads, mlp = columns(w, taped.layer)
            z = torch.lerp(ablated.z[taped.layer].to(taped.z.device), taped.z, share)
            run = rows.run(taped.resid, start=taped.layer, z=z)
            edges.add(run, top(rows, run.final), 1 / steps, heads)
            if w.facts.d_mlp:
                wrote = taped.mlp_out
                wrote = torch.lerp(ablated.mlp_out[taped.layer].to(wrote.device), wrote, share)
                attn_out = forward.attention_write(taped.z, w.blocks[taped.layer].attention)
                run = rows.run(taped.resid + attn_out + wrote, start=taped.layer + 1)
                edges.add(run, top(rows, run.final), 1 / steps, mlp)
    return edges.scores
