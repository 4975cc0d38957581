"""The fast engine: re-run only what an intervention can change.

A *wave* is one pass up the layers with many cells stacked on an axis of their own. A cell
joins the wave where its first intervention stands, with the base run's activations; what lies
before is never computed. Under a causal mask, positions before the first changed one are not
computed either: their keys and values are the base run's, shared by all cells. In the last
layer only the read positions are computed. Along a path, attention is frozen, so a change stays
at its position and only the positions that a receiver reads are computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.parts.sites import Kind, Site
from interp.engine.engines.protocol import NotFinite
from interp.engine.engines.replay.cache import Cache
from interp.engine.engines.replay.layers import Layers
from interp.engine.engines.replay.reading import pick
from interp.engine.engines.replay.stack import Entering, Memory, Stack
from interp.engine.interventions import LN, Through
from interp.engine.network import forward
from interp.engine.network.trace import Trace
from interp.engine.network.weights import Weights
from interp.engine.plan.edits import Edit


@dataclass(frozen=True, eq=False)
class Arrived:
    """What a wave brings to its end.

    Attributes:
        final: the final residual stream at the read positions, in the order of the cells given;
            None when the wave ends at receivers.
        received: for each receiver the cells that reach it, and the query, key, value or MLP
            output that it computes from their residual stream, `cells batch window *axes`.
        apart: of an encoder what a reader in the decoder sees as its last stream, by the cell and
            the reader, where that is a stream of its own.
    """

    final: Float[Tensor, "cells batch read d_model"] | None
    received: dict[Site, tuple[list[int], Tensor]]
    apart: dict[tuple[int, Site], Float[Tensor, "batch window d_model"]] = field(
        default_factory=dict
    )


def wave(
    w: Weights,
    base: Trace,
    cells: Sequence[Sequence[Edit]],
    *,
    window: Int[Tensor, "batch window"],
    start: int,
    read: Int[Tensor, "batch read"],
    through: Through = "all",
    receivers: Sequence[Site] = (),
    ln: LN = "recompute",
    watch: bool = False,
    memory: Memory | None = None,
    cache: Cache | None = None,
    entries: Sequence[tuple[int, int]] | None = None,
    entering: Entering | None = None,
    note: list[Tensor] | None = None,
) -> Arrived:
    """Run stacked cells from where they join.

    Args:
        base: the run that is intervened on, complete.
        cells: the edits of each cell.
        window: the positions that are computed. With `through="all"` all positions from some
            start on; else any positions, since nothing moves between them.
        start: the first of them; a number, so that no device is waited for.
        read: positions whose final residual stream is returned.
        through: "all" recomputes everything; "mlps" freezes attention, "direct" MLPs too.
        receivers: where a path ends; the logits when empty.
        ln: "freeze" keeps the base run's scale in every norm of the residual stream.
        watch: raise NotFinite at the first site that is not.
        memory: of a decoder: what some cells read of the encoder.
        cache: keys and values before the window, where cells have their own; takes in the window's.
        entries: layer and step at which each cell joins; by default where its first edit stands.
        entering: what cells join with that read tokens of their own: the stream before a layer, or
            after the last.
        note: takes what enters each layer, and what leaves the last.
    """
    turn = forward.rotations(w, base.final.shape[1]) if cache is None else cache.turn
    begins = start if through == "all" else None
    stack = Stack(w, base, cells, window, begins, memory, entries, entering)
    run = Layers(w, base, stack, through, ln, turn, start, cache)
    last = w.facts.n_layers - 1
    end = max((site.layer or 0 for site in receivers), default=last)
    reaches_mlp = not receivers or Site("mlp_out", end, stack=w.stack) in receivers
    crosses = reaches_mlp or any(site.cross and site.layer == end for site in receivers)
    received: dict[Site, tuple[list[int], Tensor]] = {}
    resid = base.final.new_empty(0, *window.shape, w.facts.d_model)

    def see(kind: Kind, activation: Tensor) -> None:
        if watch and not activation.isfinite().all():
            bad = ~activation.isfinite().flatten(2).all(2).all(0)
            raise NotFinite(Site(kind, layer, stack=w.stack), int(bad.int().argmax()))

    home = read.device
    for layer in range(stack.start, end + 1):
        here = w.blocks[layer].device
        resid, window = resid.to(here), stack.moved(window, here)
        resid = run.enter(resid, layer, window)
        if note is not None:
            note.append(resid)
        see("resid_pre", resid)
        for site in receivers:
            if site.layer == layer and site.kind != "mlp_out" and not site.cross:
                received[site] = stack.order[: len(resid)], run.input(resid, site, window)
        if layer == end and not crosses:
            break
        narrowed = layer == last and through == "all" and not receivers
        query = read.to(here) if narrowed else window
        resid, attn_out = run.attention(resid, layer, window, query)
        window = query
        see("attn_out", attn_out)
        mid = run.middle(resid, attn_out, layer, window)
        if w.blocks[layer].cross is not None:
            for site in receivers:
                if site.layer == layer and site.cross:
                    received[site] = stack.order[: len(mid)], run.input(mid, site, window)
            if layer == end and not reaches_mlp:
                break
            mid = run.across(mid, layer, window)
        mid, mlp_out, computed = run.mlp(resid, mid, layer, window, receivers)
        see("mlp_out", mlp_out)
        site = Site("mlp_out", layer, stack=w.stack)
        if site in receivers:
            received[site] = stack.order[: len(computed)], computed
        resid = run.leave(mid, mlp_out, layer, window)
        see("resid_post", resid)
    if receivers:
        return Arrived(None, received)
    if note is not None:
        note.append(resid)
    resid, window = resid.to(home), stack.moved(window, home)
    apart: dict[tuple[int, Site], Tensor] = {}
    for row, ledger in stack.ledgers.items():
        if Site("logits") in ledger.of:
            resid[row] = ledger.streams([Site("logits")], resid[row])[0]
        beyond = [site for site in ledger.of if w.stack == "enc" and site.stack == "dec"]
        for site in beyond:
            apart[stack.order[row], site] = ledger.streams([site], resid[row])[0]
    if resid.shape[2] != read.shape[1]:
        resid = pick(resid, window, read)
    back = torch.tensor(stack.order, device=resid.device).argsort()
    return Arrived(resid.index_select(0, back), {}, apart)
