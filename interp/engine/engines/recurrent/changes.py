"""Edits of a recurrent layer's states, gathered so that each position takes one step for all."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.parts.sites import Kind, Site
from interp.engine.engines.recurrent.lstm import At
from interp.engine.interventions import Value, alike
from interp.engine.plan.edits import Edit


@dataclass(frozen=True, eq=False)
class Change:
    """What one value does to the state of a layer, in some cells, at a unit or at all.

    Attributes:
        cells: the row of each edit in the wave; no unit of a row stands there twice.
        units: of each edit; None changes the whole state.
        mask: the places of the window that each edit touches.
        found: what the value's source holds there, if it has one.
        active: places at which any edit touches a row.
    """

    value: Value
    cells: Int[Tensor, " edit"]
    units: Int[Tensor, " edit"] | None
    mask: Bool[Tensor, "edit batch window"]
    found: Float[Tensor, "edit batch window *axes"] | None
    active: Sequence[bool]

    @classmethod
    def of(cls, edits: Sequence[tuple[int, Edit]], start: int, end: int) -> "Change":
        """Of edits with one value, each with its row."""
        device, window = edits[0][1].mask.device, slice(start, end)
        units = [edit.site.neuron for _, edit in edits if edit.site.neuron is not None]
        mask = torch.stack([edit.mask[:, window] for _, edit in edits])
        found = [edit.found[:, window] for _, edit in edits if edit.found is not None]
        return cls(
            edits[0][1].value,
            torch.tensor([row for row, _ in edits], device=device),
            torch.tensor(units, device=device) if units else None,
            mask,
            torch.stack(found) if found else None,
            mask.flatten(0, 1).any(0).tolist(),
        )

    def __call__(
        self, state: Float[Tensor, "cells batch d_model"], place: int
    ) -> Float[Tensor, "cells batch d_model"]:
        """Make the edits, in place: the state is the wave's own."""
        if not self.active[place]:
            return state
        at = (self.cells,) if self.units is None else (self.cells, slice(None), self.units)
        current = state[at]
        held = current if self.found is None else self.found[:, :, place]
        # a value expects batch, positions and axes; these are one position each
        new = self.value(current.flatten(0, 1)[:, None], held.flatten(0, 1)[:, None])
        mask = self.mask[:, :, place]
        mask = mask if self.units is not None else mask[..., None]
        state[at] = torch.where(mask, new.view_as(current), current)
        return state


def changes(cells: Sequence[Sequence[Edit]], layer: int, start: int, end: int) -> At:
    """What the edits of a window make of a layer's states, those of one value in one go.

    In a cell that sets a whole state and a unit of it, the unit comes last.
    """
    groups: dict[tuple[Kind, bool, int, object], list[tuple[int, Edit]]] = defaultdict(list)
    for row, cell in enumerate(cells):
        times: Counter[Site] = Counter()
        for edit in cell:
            if edit.site.layer == layer:
                unit, n = edit.site.neuron is not None, times[edit.site]
                groups[edit.site.kind, unit, n, alike(edit.value)].append((row, edit))
                times[edit.site] += 1
    made: dict[Kind, list[Change]] = {"c": [], "h": []}
    for key in sorted(groups, key=lambda key: key[:3]):
        made[key[0]].append(Change.of(groups[key], start, end))

    def at(kind: Kind, place: int, state: Tensor) -> Tensor:
        for change in made[kind]:
            state = change(state, place)
        return state

    return at
