"""The fast engine: re-run only what an intervention can change.

A *wave* is one pass up the layers with many cells stacked on an axis of their own. A cell
joins the wave where its first intervention stands, with the base run's activations; what lies
before is never computed. Under a causal mask, positions before the first changed one are not
computed either: their keys and values are the base run's, shared by all cells. In the last
layer only the read position is computed. Along a path, attention is frozen, so a change stays
at its position and only the positions that a receiver reads are computed.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.sites import Kind, Site
from interp.engine import forward
from interp.engine.edits import STEPS, Edit, take
from interp.engine.interventions import Through
from interp.engine.trace import Trace
from interp.engine.weights import Block, Weights


@dataclass(frozen=True, eq=False)
class Arrived:
    """What a wave brings to its end.

    Attributes:
        final: the final residual stream at the read positions, in the order of the cells given;
            None when the wave ends at receivers.
        received: for each receiver the cells that reach it, and the query, key, value or MLP
            output that it computes from their residual stream, `cells batch window *axes`.
    """

    final: Float[Tensor, "cells batch read d_model"] | None
    received: dict[Site, tuple[list[int], Tensor]]


def wave(
    w: Weights,
    base: Trace,
    cells: Sequence[Sequence[Edit]],
    *,
    window: Int[Tensor, "batch window"],
    read: Int[Tensor, "batch read"],
    through: Through | None = None,
    receivers: Sequence[Site] = (),
) -> Arrived:
    """Run stacked cells from where they join.

    Args:
        base: the run that is intervened on, complete.
        cells: the edits of each cell.
        window: the positions that are computed. With `through=None` all positions from some
            start on; along a path any positions, since nothing moves between them.
        read: positions whose final residual stream is returned.
        through: None recomputes everything; "mlps" freezes attention, "direct" MLPs too.
        receivers: where a path ends; the logits when empty.
    """
    stack = _Stack(w, base, cells)
    last = w.facts.n_layers - 1
    end = max((site.layer or 0 for site in receivers), default=last)
    turn = forward.rotation(w, base.final.shape[1])
    received: dict[Site, tuple[list[int], Tensor]] = {}
    resid = base.final.new_empty(0, *window.shape, w.facts.d_model)
    for layer in range(stack.start, end + 1):
        block = w.blocks[layer]
        resid = stack.join(resid, "resid_pre", layer, "resid_pre", window)
        resid = stack.apply(resid, layer, ("embed", "resid_pre"), window)
        for site in receivers:
            if site.layer == layer and site.kind != "mlp_out":
                received[site] = stack.order[: len(resid)], _input(w, block, resid, site)
        if receivers and layer == end and Site("mlp_out", layer) not in receivers:
            break
        if through is None:
            query = read if layer == last else window
            resid, z = _attend(w, block, stack, layer, resid, window, query, turn)
            z = stack.apply(stack.join(z, "z", layer, "z", query), layer, ("z",), query)
            attn_out = block.attention.o(z.flatten(-2))
            window = query
        else:
            attn_out = stack.join(resid[:0], "attn_out", layer, "z", window)
            if edited := stack.edited(layer, "z"):
                empty = resid.new_empty(0, *window.shape, w.facts.n_heads, w.facts.d_head)
                z = stack.join(empty, "z", layer, "z", window)
                z = stack.apply(z, layer, ("z",), window)[edited]
                attn_out[edited] = block.attention.o(z.flatten(-2))
        resid = stack.join(resid, "resid_pre", layer, "attn_out", window)
        attn_out = stack.join(attn_out, "attn_out", layer, "attn_out", window)
        resid_mid = resid + stack.apply(attn_out, layer, ("attn_out",), window)
        resid_mid = stack.join(resid_mid, "resid_mid", layer, "resid_mid", window)
        resid_mid = stack.apply(resid_mid, layer, ("resid_mid",), window)
        site = Site("mlp_out", layer)
        mlp_out = resid_mid[:0]
        if through != "direct" or site in receivers:
            recomputed = forward.mlp(resid_mid, block.mlp)
            if site in receivers:
                received[site] = stack.order[: len(resid_mid)], recomputed
            if through != "direct":
                mlp_out = recomputed
        resid_mid = stack.join(resid_mid, "resid_mid", layer, "mlp_out", window)
        mlp_out = stack.join(mlp_out, "mlp_out", layer, "mlp_out", window)
        resid = resid_mid + stack.apply(mlp_out, layer, ("mlp_out",), window)
        resid = stack.join(resid, "resid_post", layer, "resid_post", window)
        resid = stack.apply(resid, layer, ("resid_post",), window)
    if receivers:
        return Arrived(None, received)
    back = torch.tensor(stack.order, device=resid.device).argsort()
    if resid.shape[2] != read.shape[1]:
        resid = _rows(resid, window, read)
    return Arrived(resid.index_select(0, back), {})


def _attend(
    w: Weights,
    block: Block,
    stack: "_Stack",
    layer: int,
    resid: Float[Tensor, "cells batch window d_model"],
    window: Int[Tensor, "batch window"],
    query: Int[Tensor, "batch query"],
    turn: forward.Rotation | None,
) -> tuple[
    Float[Tensor, "joined batch query d_model"], Float[Tensor, "joined batch query head d_head"]
]:
    """Residual stream and z at the query positions, for the cells that have joined by then."""
    p, d_head = block.attention, w.facts.d_head
    x = forward.norm(resid, p.norm)
    k, v = (forward.project(x, part, d_head) for part in (p.k, p.v))
    if query is not window:
        x, resid = (_rows(t, window, query) for t in (x, resid))
    q = forward.project(x, p.q, d_head)
    resid = stack.join(resid, "resid_pre", layer, "q", query)
    q = stack.apply(stack.join(q, "q", layer, "q", query), layer, ("q",), query)
    k, v = (
        stack.apply(stack.join(t, kind, layer, kind, window), layer, (kind,), window)
        for t, kind in ((k, "k"), (v, "v"))
    )
    start = int(window[0, 0])
    past = torch.arange(start, device=window.device)[None]
    old_k, old_v = (stack.base.kept[kind][layer][:, :start] for kind in ("k", "v"))
    if w.facts.group_size > 1 and stack.reads_own_key(layer):
        # one query head's own key or value: give every query head one, for this layer
        k, v, old_k, old_v = (
            repeat(t, "... g d -> ... (g i) d", i=w.facts.group_size) for t in (k, v, old_k, old_v)
        )
        k, v = (stack.apply(t, layer, (kind,), window) for t, kind in ((k, "k"), (v, "v")))
    q, k = forward.rotate(q, turn, query), forward.rotate(k, turn, window)
    allowed = forward.causal(query, stack.base.final.shape[1])
    pattern = forward.pattern(q, k, forward.rotate(old_k, turn, past), allowed, p.scale)
    return resid, forward.mix(pattern, v, old_v)


def _input(
    w: Weights, block: Block, resid: Float[Tensor, "cells batch window d_model"], site: Site
) -> Float[Tensor, "cells batch window d_head"]:
    """The query, key or value that a receiver computes from a residual stream."""
    p, d_head = block.attention, w.facts.d_head
    part = {"q": p.q, "k": p.k, "v": p.v}[site.kind]
    index = _head(site, w)
    return part.rows(index * d_head, (index + 1) * d_head)(forward.norm(resid, p.norm))


def _head(site: Site, w: Weights) -> int:
    """Row of a site among the heads that its projection writes."""
    if site.group is not None:
        return site.group
    assert site.head is not None
    return site.head if site.kind in ("q", "z") else site.head // w.facts.group_size


def _rows(
    x: Float[Tensor, "cells batch window d"],
    window: Int[Tensor, "batch window"],
    chosen: Int[Tensor, "batch chosen"],
) -> Float[Tensor, "cells batch chosen d"]:
    """The chosen positions of a contiguous window."""
    index = (chosen - window[:, :1])[None, ..., None]
    return x.gather(2, index.expand(x.shape[0], -1, -1, x.shape[-1]))


class _Stack:
    """Who has joined the wave: cells in the order of their entry, and their edits by site."""

    def __init__(self, w: Weights, base: Trace, cells: Sequence[Sequence[Edit]]) -> None:
        entry = [min(edit.entry for edit in cell) for cell in cells]
        self.base = base
        self.facts = w.facts
        self.order = sorted(range(len(cells)), key=lambda i: entry[i])
        self.entries = [entry[i] for i in self.order]
        self.start = self.entries[0][0]
        self.edits: dict[tuple[int, Kind], list[tuple[int, Edit]]] = {}
        for row, cell in enumerate(self.order):
            for edit in cells[cell]:
                key = (edit.site.layer or 0, edit.site.kind)
                self.edits.setdefault(key, []).append((row, edit))

    def join(
        self,
        x: Float[Tensor, "cells batch window *axes"],
        kind: Kind,
        layer: int,
        step: Kind,
        window: Int[Tensor, "batch window"],
    ) -> Float[Tensor, "more batch window *axes"]:
        """Append the base run's `kind` for the cells that have joined by this step."""
        new = bisect_right(self.entries, (layer, STEPS[step])) - len(x)
        if not new:
            return x
        held = take(self._whole(kind, layer), window)
        held = held.expand(new, *held.shape)
        return torch.cat([x, held]) if len(x) else held.clone()

    def apply(
        self,
        x: Float[Tensor, "cells batch window *axes"],
        layer: int,
        kinds: Sequence[Kind],
        window: Int[Tensor, "batch window"],
    ) -> Float[Tensor, "cells batch window *axes"]:
        """Make the edits at this layer's sites of these kinds, in place: x is the wave's own."""
        for kind in kinds:
            for row, edit in self.edits.get((layer, kind), ()):
                head = self._head(edit.site, x)
                if head is None:
                    x[row] = edit(x[row], window)
                elif head >= 0:
                    x[row, :, :, head] = edit(x[row, :, :, head], window)
        return x

    def edited(self, layer: int, kind: Kind) -> list[int]:
        """Rows with an edit of this kind."""
        return sorted({row for row, _ in self.edits.get((layer, kind), ())})

    def reads_own_key(self, layer: int) -> bool:
        """Is a key or value edited as one query head reads it?"""
        both = (*self.edits.get((layer, "k"), ()), *self.edits.get((layer, "v"), ()))
        return any(edit.site.head is not None for _, edit in both)

    def _head(self, site: Site, x: Tensor) -> int | None:
        """Index on the head axis; None without one; -1 if x does not hold the site's own."""
        if site.head is None and site.group is None:
            return None
        if site.kind in ("q", "z"):
            return site.head
        own = self.facts.n_kv_heads if site.group is not None else self.facts.n_heads
        index = site.group if site.group is not None else site.head
        assert index is not None
        return index if x.shape[3] == own else -1

    def _whole(self, kind: Kind, layer: int) -> Float[Tensor, "batch pos *axes"]:
        if kind == "resid_post":
            return self.base.at(Site("resid_post", layer))
        return self.base.kept[kind][layer]
