"""The cells of a wave: who has joined by which step, and the edits to make there."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.engines.replay.streams import Ledger
from interp.engine.engines.replay.within import INSIDE
from interp.engine.network.trace import BETWEEN, Trace
from interp.engine.network.weights import Weights
from interp.engine.plan.edits import STEPS, Edit, Together, entry, part_of, together


@dataclass(frozen=True, eq=False)
class Memory:
    """What the decoders of some cells read of the encoder, where that is not the base run's.

    Attributes:
        rows: of these cells, by their place among those of the wave, the row in `streams`.
        streams: the encoder's last residual stream in each, normed.
    """

    rows: Mapping[int, int]
    streams: Float[Tensor, "cells batch key d_model"]


@dataclass(frozen=True, eq=False)
class Entering:
    """What cells begin with that read tokens of their own, beside those of the base run.

    Attributes:
        streams: of some texts what enters each layer, and at last what leaves the last one; only
            the first where all cells begin there.
        texts: which of them each cell reads, row by row.
    """

    streams: Sequence[Float[Tensor, "texts batch window d_model"]]
    texts: Int[Tensor, "cells batch"]

    def at(
        self, kind: str, layer: int, cells: slice
    ) -> Float[Tensor, "cells batch window d_model"]:
        """The stream that some cells join with."""
        stream = self.streams[layer + (kind == "resid_post")]
        texts = self.texts[cells].to(stream.device)
        return stream[texts, torch.arange(texts.shape[1], device=stream.device)]


class Stack:
    """Cells in the order of their entry, and their edits by layer and kind.

    Args:
        begins: where the window begins, if it is all positions from there on.
        memory: of a decoder.
        entries: where each cell joins: by default at its first edit.
        entering: with what, where that is not the base run's.
    """

    def __init__(
        self,
        w: Weights,
        base: Trace,
        cells: Sequence[Sequence[Edit]],
        window: Int[Tensor, "batch window"],
        begins: int | None,
        memory: Memory | None = None,
        entries: Sequence[tuple[int, int]] | None = None,
        entering: Entering | None = None,
    ) -> None:
        n_layers = w.facts.n_layers
        never = (n_layers - 1, STEPS["resid_post"])  # a cell without edits is the base run
        first = [
            min((entry(e.site, e.readers, n_layers) for e in cell), default=never) for cell in cells
        ]
        first, self.entering = list(entries or first), entering
        if memory is not None:
            reads = 0, STEPS["cross.k"]
            first = [min(at, reads) if i in memory.rows else at for i, at in enumerate(first)]
        self.base, self.facts, self.memory = base, w.facts, memory
        self.mid = "resid_mid" if w.blocks[0].cross is None else BETWEEN
        self.windows, self.begins = [window], begins
        self.order = sorted(range(len(cells)), key=lambda i: first[i])
        self.entries = [first[i] for i in self.order]
        self.start = self.entries[0][0]
        self.edits: dict[tuple[int, str], list[tuple[int, Edit]]] = defaultdict(list)
        self.ledgers: dict[int, Ledger] = {}
        for row, cell in enumerate(self.order):
            for edit in cells[cell]:
                if edit.readers is None:
                    self.edits[edit.site.layer or 0, part_of(edit.site)].append((row, edit))
            if named := [edit for edit in cells[cell] if edit.readers is not None]:
                within = [
                    edit
                    for edit in cells[cell]
                    if edit.readers is None and edit.site.kind in INSIDE
                ]
                self.ledgers[row] = Ledger(w, base, named, within, first[cell], window)

    @cached_property
    def remembering(self) -> tuple[list[int], list[int]]:
        """The cells that read an encoder of their own, and its rows in the memory."""
        if self.memory is None:
            return [], []
        at = self.memory.rows
        found = [(row, at[cell]) for row, cell in enumerate(self.order) if cell in at]
        return [row for row, _ in found], [one for _, one in found]

    def joined(self, layer: int, step: str) -> int:
        """How many cells have joined by this step."""
        return bisect_right(self.entries, (layer, STEPS[step]))

    def join(
        self,
        x: Float[Tensor, "cells batch window *axes"],
        kind: str,
        layer: int,
        step: str,
        window: Int[Tensor, "batch window"],
    ) -> Float[Tensor, "more batch window *axes"]:
        """Append the base run's `kind` for the cells that have joined by this step."""
        new = self.joined(layer, step) - len(x)
        if not new:
            return x
        if self.entering is not None:
            held = self.entering.at(kind, layer, slice(len(x), len(x) + new))
        else:
            held = self.held(kind, layer, window)
            held = held.expand(new, *held.shape)
        return torch.cat([x, held]) if len(x) else held.clone()

    def held(
        self, kind: str, layer: int, window: Int[Tensor, "batch window"]
    ) -> Float[Tensor, "batch window *axes"]:
        """The base run's activations at a window."""
        return self.base.part(kind, layer, window, self.begins_at(window))

    def begins_at(self, window: Int[Tensor, "batch window"]) -> int | None:
        """Where a window begins that is all positions from there on: no index is needed then."""
        return self.begins if any(window is one for one in self.windows) else None

    def moved(
        self, window: Int[Tensor, "batch window"], device: torch.device
    ) -> Int[Tensor, "batch window"]:
        """A window as a layer elsewhere reads it, where the ledgers follow."""
        if window.device == device:
            return window
        there = window.to(device)
        if self.begins_at(window) is not None:
            self.windows.append(there)
        for ledger in self.ledgers.values():
            ledger.move(device)
        return there

    def apply(
        self,
        x: Float[Tensor, "cells batch window *axes"],
        layer: int,
        kinds: Sequence[str],
        window: Int[Tensor, "batch window"],
    ) -> Float[Tensor, "cells batch window *axes"]:
        """Make the edits at this layer's sites of these kinds, in place: x is the wave's own."""
        for kind in kinds:
            for group in self._together(layer, kind, window.device):
                group.into(x, window, self.begins_at(window))
        return x

    def apply_patterns(
        self,
        x: Float[Tensor, "cells batch head query key"],
        layer: int,
        query: Int[Tensor, "batch query"],
        at: str = "",
    ) -> None:
        """Write the patterns that are edited, in place."""
        for group in self._together(layer, f"{at}pattern", query.device):
            group.into(x, query, self.begins_at(query), head_axis=2)

    def _together(self, layer: int, kind: str, device: torch.device) -> list[Together]:
        """Edits that all readers see: a key of one query head is its reader's own."""
        edits = self.edits.get((layer, kind), ())
        if kind.removeprefix("cross.") in ("k", "v"):
            edits = [(row, edit) for row, edit in edits if edit.site.group is not None]
        return together([(row, edit.index, edit) for row, edit in edits], device) if edits else []

    def rows(self, layer: int, *kinds: str) -> list[int]:
        """Rows with an edit of these kinds."""
        return sorted({row for kind in kinds for row, _ in self.edits.get((layer, kind), ())})

    def edits_of(self, row: int, layer: int, kinds: Sequence[str]) -> list[Edit]:
        """The edits of one row."""
        found = (edit for kind in kinds for edit in self.edits.get((layer, kind), ()))
        return [edit for r, edit in found if r == row]

    def own_keys(self, layer: int, kind: str) -> list[tuple[int, Edit]]:
        """Edits of a key or value as one query head of a group reads it."""
        found = self.edits.get((layer, kind), ())
        return [(row, edit) for row, edit in found if edit.site.head is not None]

    def note(self, layer: int, part: str, inside: Tensor, written: Tensor) -> None:
        """Tell the ledgers of joined cells what a part wrote; `inside` may lack late cells."""
        for row, ledger in self.ledgers.items():
            if row >= len(written):
                continue
            mine = inside[row] if row < len(inside) else self.inside(layer, part, ledger.window)
            ledger.note(layer, part, mine, written[row])

    def inside(
        self, layer: int, part: str, window: Int[Tensor, "batch window"]
    ) -> Float[Tensor, "batch window *axes"]:
        """What the base run's part made its write of."""
        if part.endswith("attn_out"):
            return self.held(part.replace("attn_out", "z"), layer, window)
        return self.held("resid_pre" if self.facts.parallel else self.mid, layer, window)
