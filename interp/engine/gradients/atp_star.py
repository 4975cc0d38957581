"""AtP* (Kramár et al. 2024): attribution patching without two of its blind spots.

QK fix (sec. 3.1.1). Attention that is saturated has no gradient, however much a query or a key
changes. So what a changed query or key does to the attention probabilities is computed exactly,
and only what these do to the metric is linear. Here the query of a head changes by what one writer
adds to it (the norm before it linearised), and so do the keys of a group.

GradDrop (sec. 3.1.2). Direct and indirect effects may cancel in the gradient. So it is taken L
more times, each without what one layer passes on, and the estimate is the mean of their sizes:

    1 / (L - 1) sum over layers l other than the part's own of |estimate without l|

with the sign of the estimate that leaves nothing out, or without one where that is 0. A node's own
layer is that which it stands in, an edge's that of its reader; edges into the logits have none, and
the mean is over all L.
The paper has queries, keys, values and neurons for nodes; here an edge is corrected as its reader
is, and a node (the output of a head, an MLP) is the sum of its edges.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.errors import Unsupported
from interp.engine.gradients.estimates import changes, product, require_slope, top
from interp.engine.gradients.norms import pushed
from interp.engine.gradients.streams import Estimated
from interp.engine.gradients.tape import After, Attended, Inner, Tape, at_readers, back, projected
from interp.engine.limits import Limits
from interp.engine.network import forward
from interp.engine.network.linear import Map
from interp.engine.network.trace import project
from interp.engine.network.weights import Weights

Changes = Float[Tensor, "batch writer pos d_model"]
Worths = list[Float[Tensor, "_ batch _ _"]]
"""What edges are worth, for each of several gradients."""


class Terms(NamedTuple):
    """Estimates of the edges into some readers.

    Attributes:
        layer: the readers', counted through both stacks where there are two; the number of layers
            of the logits.
        writers: the first that these readers read are as many as the last axis has.
        plain: with nothing left out, `place batch reader writer`.
        without: what later layers pass on left out, one layer each, by layer.
    """

    layer: int
    readers: slice
    writers: int
    plain: Tensor
    without: dict[int, Tensor]

    @property
    def columns(self) -> slice:
        return slice(self.writers, self.writers + self.plain.shape[-1])


@torch.no_grad()
def of_edges(rows: Estimated) -> Float[Tensor, "place batch reader writer"]:
    """AtP* of every edge."""
    found = rows.zeros(len(rows.graph.readers), len(rows.graph.writers))
    for term in terms(rows):
        # what a layer before the reader passes on is not on the way back to it
        layer, plain, count = term.layer, term.plain, term.layer + len(term.without)
        size = layer * plain.abs() + sum(without.abs() for without in term.without.values())
        sized = _signed(size / count, plain) if count else plain
        found[:, :, term.readers, term.columns] = sized
    return found


@torch.no_grad()
def of_nodes(rows: Estimated) -> Float[Tensor, "place batch writer"]:
    """AtP* of every head and MLP (and 0 of what enters a stream)."""
    layers = rows.layers
    plain = rows.zeros(len(rows.graph.writers))
    without = plain.new_zeros(layers, *plain.shape)
    for term in terms(rows):
        plain[..., term.columns] += term.plain.sum(2)
        for layer in range(layers):
            if layer != term.layer:
                each = term.without.get(layer, term.plain).sum(2)
                without[layer, ..., term.columns] += each
    size = without.abs()
    for stream in rows.streams:
        for layer in range(stream.w.facts.n_layers):
            heads, mlp = stream.columns(layer)
            for own in (*heads, mlp):
                size[stream.before + layer, ..., own] = 0
    found = _signed(size.sum(0) / (layers - 1), plain) if layers > 1 else plain
    for stream in rows.streams:
        found[..., stream.writers] = 0
    return found


def _signed(size: Tensor, plain: Tensor) -> Tensor:
    """What cancels to 0 keeps its size: it is what the layers are left out for."""
    return torch.where(plain < 0, -size, size)


def terms(rows: Estimated) -> Iterator[Terms]:
    """The edges into the readers of each layer and kind, from the logits down."""
    for stream in rows.streams:
        _require_own_norms(stream.w)
    run = rows.run([stream.clean for stream in rows.streams])
    changed = [changes(rows, run, number) for number in range(len(run))]
    after = top(rows, run[-1].final)
    require_slope(rows, run[-1].final, after)
    last, end = len(rows.graph.readers) - 1, rows.last
    into = product(after[:, None], changed[-1], end.places)
    yield Terms(rows.layers, slice(last, last + 1), end.writers, into, {})
    now, without = After(after), dict[int, After]()
    for number in reversed(range(len(run))):
        stream = rows.streams[number]
        for taped in reversed(run[number].layers):
            layer = stream.before + taped.layer
            plain, *fewer = back(stream.w, taped, [now, *without.values()])
            others = dict(zip(without, fewer, strict=True))
            inputs, mlp = stream.lines(taped.layer)
            if stream.w.facts.d_mlp:
                before = changed[number][:, : int(rows.graph.feeds[mlp.start].sum())]
                into, *fewer = (
                    product(slopes.mlp[:, None], before, stream.places)
                    for slopes in (plain, *others.values())
                )
                left = dict(zip(others, fewer, strict=True))
                yield Terms(layer, mlp, stream.writers, into, left)
            for i, one in reversed([*enumerate(taped.attended)]):
                inner = [slopes.attended[i] for slopes in (plain, *others.values())]
                at = inputs[i]
                for readers, writers, found in _fixed(rows, run, number, one, at, changed, inner):
                    left = dict(zip(others, found[1:], strict=True))
                    yield Terms(layer, readers, writers, found[0], left)
            kept = {one: After(slopes.resid, slopes.memory) for one, slopes in others.items()}
            without = kept | {layer: now}
            now = After(plain.resid, plain.memory)
        if number:
            now, *fewer = rows.across(run, [now, *without.values()])
            without = dict(zip(without, fewer, strict=True))


def _fixed(
    rows: Estimated,
    run: tuple[Tape, ...],
    number: int,
    one: Attended,
    at: slice,
    changed: Sequence[Float[Tensor, "batch _ _ d_model"]],
    inner: Sequence[Inner],
) -> Iterator[tuple[slice, int, Worths]]:
    """Edges into queries, keys and values of an attention, for each of several gradients.

    Those of them that read one stream, with the first of its writers.
    """
    stream, p = rows.streams[number], one.p
    w, places = stream.w, stream.places
    fed = changed[number][:, : int(rows.graph.feeds[at.start].sum())]
    moves = _Moves.of(w, one, [reading.z for reading in inner])
    queries, keys = list[Worths](), list[Worths]()
    for part in moves.chunks(fed):
        inside = pushed(one.resid, p.ends.read, part.to(one.resid.device))
        queries.append(moves.of_queries(inside, places))
        if one.memory is None:
            keys.append(moves.of_keys(inside, places))
    values = [reading.inputs[2] for reading in inner if reading.inputs is not None]
    if one.memory is None:
        read = (at_readers(w, p, one.resid, [v], (p.v,)) for v in values)
        of_values = [product(reader, fed, places) for reader in read]
        yield at, stream.writers, _beside(_joined(queries), _joined(keys), of_values)
        return
    middle = at.start + w.facts.n_heads
    yield slice(at.start, middle), stream.writers, _joined(queries)
    encoded, source = run[0].final, rows.streams[0]
    for part in moves.chunks(changed[0]):
        keys.append(moves.of_keys(rows.out_of_encoder(encoded, part), source.places))
    read = (rows.into_encoder(encoded, projected(w, (p.v,), [v])) for v in values)
    of_values = [product(reader, changed[0], source.places) for reader in read]
    yield slice(middle, at.stop), source.writers, _beside(_joined(keys), of_values)


def _joined(parts: Sequence[Worths]) -> Worths:
    """Of some writers after others."""
    return [torch.cat(each, -1) for each in zip(*parts, strict=True)]


def _beside(*readers: Worths) -> Worths:
    """Of some readers beside others."""
    return [
        torch.cat([each.to(one[0].device) for each in one], 2) for one in zip(*readers, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Moves:
    """How the probabilities of an attention move, and what that does to the metric.

    Attributes:
        q, keys: queries, and keys before and after their norm.
        clean: the probabilities.
        slopes: of several gradients that at the probabilities.
    """

    w: Weights
    one: Attended
    q: Float[Tensor, "batch pos head d_head"]
    keys: tuple[Float[Tensor, "batch key group d_head"], Float[Tensor, "batch key group d_head"]]
    clean: Float[Tensor, "_ batch group in_group query key"]
    slopes: list[Float[Tensor, "batch group in_group query key"]]

    @classmethod
    def of(cls, w: Weights, one: Attended, zs: Sequence[Tensor]) -> "_Moves":
        """zs: several gradients at the outputs of heads."""
        q, k, v = project(w, one.p, one.resid, one.memory)
        held = forward.head_norm(k, one.p.k_norm)
        clean = _pattern(w, one, q[None], forward.Keys(held[:, :0], held[None]))
        slopes = [
            torch.einsum("bqgid,bkgd->bgiqk", z.unflatten(2, (v.shape[2], -1)), v) for z in zs
        ]
        return cls(w, one, q, (k, held), clean, slopes)

    def of_queries(self, change: Changes, places: Bool[Tensor, "place batch pos"]) -> Worths:
        """When the query of each head changes by what a writer adds, behind the norm."""
        dq, held = self._projected(change, self.one.p.q), self.keys[1]
        none = self.q.new_zeros(len(dq), len(held), 0, *held.shape[2:])
        moved = _pattern(self.w, self.one, self.q + dq, forward.Keys(held, none)) - self.clean
        shown = places.to(moved)
        each = (torch.einsum("wbgiqk,bgiqk->wbgiq", moved, slope) for slope in self.slopes)
        return [torch.einsum("wbgiq,mbq->mbgiw", x, shown).flatten(2, 3) for x in each]

    def of_keys(self, change: Changes, places: Bool[Tensor, "place batch key"]) -> Worths:
        """When the keys of a group do, at the positions of each place."""
        dk, (k, held) = self._projected(change, self.one.p.k), self.keys
        queries, found = self.q.expand(len(dk), *self.q.shape), list[list[Tensor]]()
        for there in places.to(dk.device):
            own = forward.head_norm(k + dk * there[..., None, None], self.one.p.k_norm)
            keys = forward.Keys(held[:, :0], own)
            moved = _pattern(self.w, self.one, queries, keys) - self.clean
            found.append([torch.einsum("wbgiqk,bgiqk->bgw", moved, s) for s in self.slopes])
        return [torch.stack(each) for each in zip(*found, strict=True)]

    def _projected(
        self, change: Changes, part: Map
    ) -> Float[Tensor, "writer batch _ index d_head"]:
        by_head = part.by_head(self.w.facts.d_head)
        return torch.einsum("bwpd,hed->wbphe", change.to(self.q.dtype), by_head)

    def chunks(self, changed: Changes) -> Iterator[Changes]:
        """Some writers at a time, as many as patterns fit of."""
        batch, _, pos, d_model = changed.shape
        keys = max(self.clean.shape[-2:])
        size = changed.element_size() * batch * self.w.facts.n_heads
        size *= max(pos, self.q.shape[1]) * (keys + 4 * d_model)
        yield from changed.split(max(1, Limits.of(changed.device).patterns // size), 1)


def _pattern(
    w: Weights, one: Attended, q: Float[Tensor, "cells batch pos head d_head"], keys: forward.Keys
) -> Float[Tensor, "cells batch group in_group query key"]:
    """The attention probabilities of all queries, keys normed already."""
    p, across = one.p, one.memory is not None
    turn = None if across else forward.rotation(forward.rotations(w, q.shape[2]), p)
    place = torch.arange(q.shape[2], device=q.device).expand(q.shape[1], -1)
    normed = forward.head_norm(q, p.q_norm)
    return forward.pattern(p, normed, keys, turn, place, causal=w.facts.causal and not across)


def _require_own_norms(w: Weights) -> None:
    """Refuse queries and keys that are normed together: no head's can change by itself.

    Raises:
        Unsupported: names the norm and what to take instead.
    """
    norms = [n for b in w.blocks for n in (b.attention.q_norm, b.attention.k_norm)]
    if wide := [n for n in norms if n is not None and len(n.weight) != w.facts.d_head]:
        raise Unsupported(
            f"method='atp*' computes attention again for one changed query at a time, and "
            f"{w.facts.architecture} norms the queries of all heads together (over "
            f"{len(wide[0].weight)} features), so one that changes changes all. Take method='atp' "
            "or 'eap', or measure the effects: interp.causal.exact."
        )
