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
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.errors import Unsupported
from interp.engine.gradients.estimates import (
    Estimated,
    changes,
    columns,
    lines,
    product,
    require_slope,
    top,
)
from interp.engine.gradients.tape import Slopes, Taped, at_readers, back, pushed
from interp.engine.limits import Limits
from interp.engine.network import forward
from interp.engine.network.trace import project
from interp.engine.network.weights import Attention, Weights


class Terms(NamedTuple):
    """Estimates of the edges into some readers.

    Attributes:
        layer: the readers'; the number of layers of the logits.
        plain: with nothing left out, `place batch reader writer`.
        without: what later layers pass on left out, one layer each, by layer.
    """

    layer: int
    readers: slice
    plain: Tensor
    without: dict[int, Tensor]


@torch.no_grad()
def of_edges(rows: Estimated) -> Float[Tensor, "place batch reader writer"]:
    """AtP* of every edge."""
    shape = (len(rows.places), len(rows.clean), len(rows.graph.readers), len(rows.graph.writers))
    found = rows.clean.new_zeros(shape)
    for layer, readers, plain, without in terms(rows):
        # what a layer before the reader passes on is not on the way back to it
        count = layer + len(without)
        size = layer * plain.abs() + sum(term.abs() for term in without.values())
        sized = _signed(size / count, plain) if count else plain
        found[:, :, readers, : plain.shape[-1]] = sized
    return found


@torch.no_grad()
def of_nodes(rows: Estimated) -> Float[Tensor, "place batch writer"]:
    """AtP* of every head and MLP (and 0 of the embedding)."""
    w, layers = rows.weights, rows.weights.facts.n_layers
    shape = (len(rows.places), len(rows.clean), len(rows.graph.writers))
    plain = rows.clean.new_zeros(shape)
    without = rows.clean.new_zeros(layers, *shape)
    for term in terms(rows):
        plain[..., : term.plain.shape[-1]] += term.plain.sum(2)
        for layer in range(layers):
            if layer != term.layer:
                each = term.without.get(layer, term.plain).sum(2)
                without[layer, ..., : each.shape[-1]] += each
    size = without.abs()
    for layer in range(layers):
        for own in columns(w, layer):
            size[layer, ..., own] = 0
    found = _signed(size.sum(0) / (layers - 1), plain) if layers > 1 else plain
    found[..., 0] = 0
    return found


def _signed(size: Tensor, plain: Tensor) -> Tensor:
    """What cancels to 0 keeps its size: it is what the layers are left out for."""
    return torch.where(plain < 0, -size, size)


def terms(rows: Estimated) -> Iterator[Terms]:
    """The edges into the readers of each layer and kind, from the logits down."""
    w = rows.weights
    _require_own_norms(w)
    run = rows.run(rows.clean)
    changed = changes(rows, run)
    after = top(rows, run.final)
    require_slope(rows, run.final, after)
    last = len(rows.graph.readers) - 1
    into = product(after[:, None], changed, rows.places)
    yield Terms(w.facts.n_layers, slice(last, last + 1), into, {})
    without: dict[int, Tensor] = {}
    for taped in reversed(run.layers):
        layer = taped.layer
        plain, *fewer = back(w, taped, [after, *without.values()])
        others = dict(zip(without, fewer, strict=True))
        inputs, mlp = lines(w, layer)
        if w.facts.d_mlp:
            before = changed[:, : int(rows.graph.feeds[mlp.start].sum())]
            into, *fewer = (
                product(reading.mlp[:, None], before, rows.places)
                for reading in (plain, *others.values())
            )
            yield Terms(layer, mlp, into, dict(zip(others, fewer, strict=True)))
        before = changed[:, : int(rows.graph.feeds[inputs.start].sum())]
        into, *fewer = _fixed(rows, taped, before, [plain, *others.values()])
        yield Terms(layer, inputs, into, dict(zip(others, fewer, strict=True)))
        without = {left: reading.resid for left, reading in others.items()} | {layer: after}
        after = plain.resid


def _fixed(
    rows: Estimated,
    taped: Taped,
    changes: Float[Tensor, "batch writer pos d_model"],
    readings: Sequence[Slopes],
) -> list[Float[Tensor, "place batch reader writer"]]:
    """Edges into the queries, keys and values of a layer, for each of several gradients."""
    w, p = rows.weights, rows.weights.blocks[taped.layer].attention
    facts = w.facts
    batch, writers, pos, _ = changes.shape
    values = slice(facts.n_heads + facts.n_kv_heads, None)
    found = []
    for reading in readings:
        assert reading.inputs is not None
        readers = at_readers(w, taped.resid, taped.layer, reading.inputs)
        of_values = product(readers[:, values], changes, rows.places)
        attending = of_values.new_empty(len(rows.places), batch, values.start, writers)
        found.append(torch.cat([attending, of_values], 2))
    q, k, v = project(w, p, taped.resid)
    keys = forward.head_norm(k, p.k_norm)
    clean = _pattern(w, p, q[None], forward.Keys(keys[:, :0], keys[None]))
    slopes = [_slope(reading.z, v) for reading in readings]
    size = changes.element_size() * batch * facts.n_heads * pos * (pos + 4 * facts.d_model)
    step = max(1, Limits.of(changes.device).patterns // size)
    for start in range(0, writers, step):
        stop = min(start + step, writers)
        resid = taped.resid
        inside = pushed(resid, p.ends.read, changes[:, start:stop].to(resid.device))
        moved = _moved(w, p, (q, k, clean), inside, rows.places.to(resid.device))
        for slope, into in zip(slopes, found, strict=True):
            into[:, :, : values.start, start:stop] = _worth(moved, slope, rows.places)
    return found


class Moved(NamedTuple):
    """Changes of attention probabilities, `writer batch group in_group query key`.

    Attributes:
        by_query: when the query of each head changes by what a writer adds.
        by_keys: when the keys of a group do, at the positions of each place.
    """

    by_query: Tensor
    by_keys: tuple[Tensor, ...]


def _pattern(
    w: Weights,
    p: Attention,
    q: Float[Tensor, "cells batch pos head d_head"],
    keys: forward.Keys,
) -> Float[Tensor, "cells batch group in_group query key"]:
    """The attention probabilities of all queries, keys normed already."""
    turn = forward.rotation(forward.rotations(w, q.shape[2]), p)
    place = torch.arange(q.shape[2], device=q.device).expand(q.shape[1], -1)
    normed = forward.head_norm(q, p.q_norm)
    return forward.pattern(p, normed, keys, turn, place, causal=w.facts.causal)


def _slope(z: Tensor, v: Tensor) -> Float[Tensor, "batch group in_group query key"]:
    """The gradient at attention probabilities, from that at the outputs of heads."""
    by_group = z.unflatten(2, (v.shape[2], -1))
    return torch.einsum("bqgid,bkgd->bgiqk", by_group, v)


def _moved(
    w: Weights,
    p: Attention,
    clean: tuple[Tensor, Tensor, Tensor],
    change: Float[Tensor, "batch writer pos d_model"],
    places: Bool[Tensor, "place batch pos"],
) -> Moved:
    """How attention probabilities move.

    Args:
        clean: queries, keys and the pattern of the run.
        change: of the normed residual stream, as each writer's change makes it.
    """
    q, k, pattern = clean
    dq, dk = (
        torch.einsum("bwpd,hed->wbphe", change.to(q.dtype), part.by_head(w.facts.d_head))
        for part in (p.q, p.k)
    )
    held = forward.head_norm(k, p.k_norm)
    by_query = _pattern(w, p, q + dq, forward.Keys(held, dk[:, :, :0])) - pattern
    by_keys = []
    for there in places:
        own = forward.head_norm(k + dk * there[..., None, None], p.k_norm)
        queries = q.expand(len(dk), *q.shape)
        by_keys.append(_pattern(w, p, queries, forward.Keys(held[:, :0], own)) - pattern)
    return Moved(by_query, tuple(by_keys))


def _worth(
    moved: Moved,
    slope: Float[Tensor, "batch group in_group query key"],
    places: Bool[Tensor, "place batch pos"],
) -> Float[Tensor, "place batch reader writer"]:
    """What changed probabilities do to the metric, by query and by key."""
    each = torch.einsum("wbgiqk,bgiqk->wbgiq", moved.by_query, slope)
    queries = torch.einsum("wbgiq,mbq->mbgiw", each, places.to(each)).flatten(2, 3)
    keys = [torch.einsum("wbgiqk,bgiqk->bgw", by, slope) for by in moved.by_keys]
    return torch.cat([queries, torch.stack(keys)], 2)


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
