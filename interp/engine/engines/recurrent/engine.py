"""The engine of recurrent models: interventions inside the recurrence, cells on an axis.

A cell joins at the lowest layer that it changes, with the base run's states; layers below and
positions before the first changed one are not computed again. From there on everything is: a state
that is changed at one position is what the next position starts from, and what the layer above
reads. The cell state is changed before the hidden state is made of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import Unsupported
from interp.core.parts.facts import Facts
from interp.core.parts.sites import STATES, Kind, Site, absent
from interp.engine.engines.protocol import NotFinite, OfWeights, Route, Written
from interp.engine.engines.recurrent.changes import changes
from interp.engine.engines.recurrent.lstm import Layer, Recurrence, unroll, walk
from interp.engine.network.trace import RECURRENT, See, Trace
from interp.engine.plan.edits import Edit
from interp.engine.plan.score import Readout


def wave(
    w: Recurrence,
    base: Trace,
    cells: Sequence[Sequence[Edit]],
    *,
    start: int,
    read: Int[Tensor, "batch read"],
    watch: bool = False,
) -> Float[Tensor, "cells batch read d_model"]:
    """The last layer's hidden states of stacked cells at the positions that are read.

    `start`: the first position that can change. `watch`: raise NotFinite at the first state that
    is not.
    """
    end = int(read.max()) + 1
    first = [min(edit.site.layer or 0 for edit in cell) for cell in cells]
    order = sorted(range(len(cells)), key=lambda i: first[i])
    stacked = [cells[i] for i in order]
    below = base.final.new_empty(0)
    for layer in range(first[order[0]], w.facts.n_layers):
        joined = stacked[: sum(entry <= layer for entry in first)]
        driven = _driven(w.layers[layer], base, joined, below, layer, slice(start, end))
        before = (_before(base, kind, layer, start) for kind in STATES)
        c, h = (state.expand(len(joined), -1, -1) for state in before)
        hidden = []
        for step in unroll(w.layers[layer], driven, c, h, changes(joined, layer, start, end)):
            if watch:
                _require_finite(layer, *step)
            hidden.append(step[1])
        below = torch.stack(hidden)
    final = below.permute(1, 2, 0, 3)
    back = torch.tensor(order, device=final.device).argsort()
    places = (read - start)[None, ..., None].expand(len(cells), -1, -1, final.shape[-1])
    return final.gather(2, places).index_select(0, back)


def _driven(
    layer: Layer,
    base: Trace,
    cells: Sequence[Sequence[Edit]],
    below: Float[Tensor, "*_"],
    index: int,
    window: slice,
) -> Float[Tensor, "window _ batch gates"]:
    """What enters a layer gives to its gates; cells that join here share the base run's input."""
    old = below.shape[1] if below.numel() else 0
    held = base.kept["resid_pre"][index][:, window]
    embedded = [(row, e) for row, cell in enumerate(cells) for e in cell if e.site.kind == "embed"]
    if index == 0 and embedded:
        x = held.expand(len(cells), *held.shape).clone()
        places = torch.arange(window.start, window.stop, device=held.device)
        for row, edit in embedded:
            x[row] = edit(x[row], places.expand(len(held), -1))
        return layer.into(x).permute(2, 0, 1, 3)
    if old == len(cells):
        return layer.into(below)
    new = layer.into(held).transpose(0, 1)[:, None].expand(-1, len(cells) - old, -1, -1)
    return torch.cat([layer.into(below), new], 1) if old else new


def _before(base: Trace, kind: Kind, layer: int, start: int) -> Float[Tensor, "batch d_model"]:
    """The base run's state that the first position of the window starts from."""
    held = base.kept[kind][layer]
    return held[:, start - 1] if start else torch.zeros_like(held[:, 0])


def _require_finite(layer: int, *states: Float[Tensor, "cells batch d_model"]) -> None:
    for kind, state in zip(STATES, states, strict=True):
        if not state.isfinite().all():
            raise NotFinite(
                Site(kind, layer), int((~state.isfinite()).any(2).any(0).int().argmax())
            )


@dataclass(frozen=True, eq=False)
class Recurrent(OfWeights):
    """Stacked cells inside the recurrence."""

    weights: Recurrence
    name = "recurrent"
    kinds = RECURRENT

    @property
    def facts(self) -> Facts:
        return self.weights.facts

    def unembed(
        self,
        final: Float[Tensor, "cells batch d_model"],
        columns: Int[Tensor, "batch columns"] | None = None,
        like: Float[Tensor, "batch d_model"] | None = None,
    ) -> Float[Tensor, "cells batch columns"]:
        return self.weights.logits(final, columns)

    def walk(
        self,
        tokens: Int[Tensor, "batch pos"],
        see: See,
        *,
        shelves: Sequence[str],
        layers: int | None = None,
        written: Written = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Raises Unsupported for shelves that a recurrent model has not."""
        for shelf in shelves:
            if shelf not in RECURRENT:
                raise Unsupported(f"{absent(cast(Kind, shelf), self.weights.facts)}.")
        return walk(self.weights, tokens, see, layers=layers)

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
        """The metrics of each cell.

        Raises:
            Unsupported: paths, or readers of their own.
        """
        if route.hops or any(edit.readers is not None for cell in cells for edit in cell):
            raise Unsupported(
                f"{self.weights.facts.architecture}: paths and readers of their own are of "
                "transformers, where what is read is a sum of what was written. Intervene for all "
                "readers: ablate or patch '0.c[3]' at a position."
            )
        start = route.starts[-1]
        final = wave(self.weights, base, cells, start=start, read=readout.read, watch=watch)
        return self._read(final, readout)
