"""The engine: a wave for each hop, and one that recomputes what is after."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.parts.facts import Facts
from interp.engine.engines.protocol import OfWeights, Route, Written
from interp.engine.engines.replay.wave import Arrived, wave
from interp.engine.interventions import Freeze
from interp.engine.network import forward
from interp.engine.network import trace as tracing
from interp.engine.network.trace import See, Trace, shelf
from interp.engine.network.weights import Weights
from interp.engine.plan.edits import Edit
from interp.engine.plan.explain import require_running
from interp.engine.plan.score import Readout


@dataclass(frozen=True, eq=False)
class Replay(OfWeights):
    """Stacked cells over shared weights, wave by wave."""

    weights: Weights
    name = "replay"

    @property
    def facts(self) -> Facts:
        return self.weights.facts

    def unembed(
        self,
        final: Float[Tensor, "cells batch d_model"],
        columns: Int[Tensor, "batch columns"] | None = None,
        like: Float[Tensor, "batch d_model"] | None = None,
    ) -> Float[Tensor, "cells batch columns"]:
        return forward.unembed(self.weights, final, columns, like)

    def walk(
        self,
        tokens: Int[Tensor, "batch pos"],
        see: See,
        *,
        shelves: Sequence[str],
        layers: int | None = None,
        written: Written = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        require_running()
        return tracing.walk(self.weights, tokens, see, wanted=shelves, layers=layers)

    def run(
        self,
        base: Trace,
        tokens: Int[Tensor, "batch pos"],
        cells: Sequence[Sequence[Edit]],
        *,
        route: Route,
        readout: Readout,
        watch: bool = False,
        written: Written = None,
    ) -> Float[Tensor, "metrics cells batch"]:
        """The metrics of each cell: a wave for each hop, and one that recomputes what is after."""
        batch, pos = tokens.shape

        def after(start: int) -> Int[Tensor, "batch window"]:
            return torch.arange(start, pos, device=tokens.device).expand(batch, -1)

        for hop, receiving, start in zip(route.hops, route.receiving, route.starts, strict=False):
            window = after(start) if hop.through == "all" else receiving
            arrived = wave(
                self.weights,
                base,
                cells,
                window=window,
                start=start,
                read=readout.read,
                through=hop.through,
                receivers=() if hop.ends else hop.receivers,
                ln=hop.ln,
                watch=watch,
            )
            if arrived.final is not None:
                frozen = base if hop.ln == "freeze" else None
                return self._read(arrived.final, readout, frozen)
            cells = receivers_set(base, arrived, len(cells), window, receiving)
        final = wave(
            self.weights,
            base,
            cells,
            window=after(route.starts[-1]),
            start=route.starts[-1],
            read=readout.read,
            watch=watch,
        ).final
        assert final is not None
        return self._read(final, readout)


def receivers_set(
    base: Trace,
    arrived: Arrived,
    n: int,
    window: Int[Tensor, "batch window"],
    receiving: Int[Tensor, "batch receiving"],
) -> list[list[Edit]]:
    """For each cell the edits that give its receivers what arrived at them."""
    edits: list[list[Edit]] = [[] for _ in range(n)]
    for site, (reached, values) in arrived.received.items():
        held, first = base.at(site).to(values.device), tracing.begins(shelf(site), base.first)
        mask = held.new_zeros(len(held), first + held.shape[1], dtype=torch.bool)
        mask = mask.scatter(1, receiving.to(held.device), True)
        index = (window.to(held.device) - first)[(None, ..., *[None] * (held.ndim - 2))].expand(
            values.shape
        )
        found = held.expand(len(values), *held.shape).scatter(2, index, values)
        for cell, value in zip(reached, found, strict=True):
            edits[cell].append(Edit(site, Freeze(), mask, value, first=first))
    return edits
