"""Cells that are sets of edges: as masks over the graph, or as interventions on what is cut."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy import ndarray
from torch import Tensor

from interp.core.parts.circuit import Ablation
from interp.core.parts.edges import enters
from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph
from interp.core.parts.sites import Site, Stack
from interp.core.prompts.pairs import Pairs, Side
from interp.core.prompts.places import REST, PerRow, Place, free
from interp.engine.circuits.constants import Constants
from interp.engine.circuits.wiring import Wiring
from interp.engine.interventions import (
    Averaged,
    Cell,
    Freeze,
    Intervention,
    Mean,
    Resample,
    Set,
    Value,
    Zero,
)
from interp.engine.plan.positions import blocks, target_names
from interp.engine.plan.positions import places as positions_of

Source = Averaged | Constants | None
MANY = 200
"""Edges in a cell from which on a pass with masks is faster than a wave that sums for each reader
(measured on SmolLM2: as fast at 200, 1.7 times at 1,000)."""
MOST = 1 << 28
"""Bytes of masks that are made of interventions; more cells than that go up as waves."""


def nothing(facts: Facts) -> Intervention:
    """What stands in a cell whose edges a mask has."""
    two = facts.n_encoder_layers > 0
    return Intervention(Site("resid_pre", 0, stack="enc") if two else Site("embed"), Freeze())


@dataclass(frozen=True, eq=False)
class Masks:
    """Which edges of the model each cell keeps; the readers of the others see an ablated value.

    Attributes:
        kept: the edges of each cell, at each place.
        lacking: is a cell given by what it lacks? Then `kept` is what is cut, at its places.
        places: an edge that is kept at a place is kept at the positions that it means; `REST` are
            the positions without a name.
        source: whose mean, or which constants, take the place of the others.
    """

    wiring: Wiring
    kept: Bool[ndarray, "cell place reader writer"]
    lacking: Bool[ndarray, " cell"]
    places: tuple[Place, ...]
    ablation: Ablation
    source: Source

    def __len__(self) -> int:
        return len(self.kept)

    def of(self, kept: Bool[ndarray, "cell place reader writer"]) -> "Masks":
        """The same with other cells, given by what they keep."""
        return replace(self, kept=kept, lacking=np.zeros(len(kept), dtype=bool))

    def by_class(
        self, which: Bool[Tensor, "place class"], cells: Sequence[int]
    ) -> Bool[ndarray, "cell class reader writer"]:
        """What cells keep at a class of positions: what they do at any place that means it."""
        chosen = list(cells)
        given = self.kept[chosen]
        found = [given[:, which[:, k].numpy()].any(1) for k in range(which.shape[1])]
        cut = self.lacking[chosen, None, None, None]
        return self.wiring.graph.feeds & (np.stack(found, 1) ^ cut)

    def whole(self) -> Bool[ndarray, "cell reader writer"]:
        """What cells keep anywhere."""
        given = np.where(self.lacking[:, None, None], self.kept.all(1), self.kept.any(1))
        return self.wiring.graph.feeds & (given ^ self.lacking[:, None, None])

    @cached_property
    def lacked(self) -> tuple[Site, ...]:
        """The writers that some cell lacks somewhere: something has to stand in their place."""
        feeds = self.wiring.graph.feeds
        kept = self.kept[~self.lacking].all((0, 1)) & ~self.kept[self.lacking].any((0, 1))
        cut = (feeds & ~kept if len(self) else feeds).any(0)
        return tuple(
            site for site, any_ in zip(self.wiring.graph.writers, cut, strict=True) if any_
        )

    def key(self, cells: Sequence[int]) -> list[object]:
        """Everything that the numbers of cells depend on, for a checkpoint."""
        whose = self.source and self.source.fingerprint
        bits = ((bool(self.lacking[i]), np.packbits(self.kept[i]).tobytes()) for i in cells)
        return [self.ablation, whose, self.places, *bits]

    def as_interventions(self, cells: Sequence[Cell], pairs: Pairs) -> list[Cell]:
        """The cells as joint interventions on all that they cut, for any engine."""
        facts, made = self.wiring.facts, [list[Intervention]() for _ in cells]
        stacks: tuple[Stack | None, ...] = ("enc", "dec") if facts.n_encoder_layers else (None,)
        for stack in stacks:
            which, at = _everywhere(pairs, self.places, stack)
            masks = self.by_class(which, range(len(self)))
            for cuts, mask in zip(made, masks, strict=True):
                cuts += self._cuts(mask, at, pairs, stack)
        none = nothing(facts)
        return [
            replace(cell, interventions=tuple(cuts) or (none,))
            for cell, cuts in zip(cells, made, strict=True)
        ]

    def _cuts(
        self,
        kept: Bool[ndarray, "class reader writer"],
        at: Sequence[Place],
        pairs: Pairs,
        stack: Stack | None,
    ) -> Iterator[Intervention]:
        """What is not kept of a stack: writers for everyone, or for the readers that lose them."""
        graph = self.wiring.graph
        cut = graph.feeds & ~kept
        for w, writer in enumerate(graph.writers):
            if writer.stack != stack:
                continue
            lost, all_of_it = cut[:, :, w], graph.feeds[:, w]
            if not lost.any():
                continue
            value = self._value(writer, pairs)
            found = zip(lost, at, strict=True)
            if (lost == lost[:1]).all():
                found = [(lost[0], "all")]
            for one, place in found:
                if one.any():
                    # what enters a stack is a sum that later writes are terms of
                    everyone = bool((one == all_of_it).all()) and not enters(writer)
                    readers = tuple(graph.readers[r] for r in np.flatnonzero(one))
                    yield Intervention(writer, value, place, None if everyone else readers)

    def _value(self, writer: Site, pairs: Pairs) -> Value:
        if isinstance(self.source, Constants):
            return Set(self.source.at(writer).expand(*pairs.clean.shape, -1))
        if isinstance(self.source, Averaged):
            return Mean(self.source)
        return Resample("corrupt") if self.ablation == "resample" else Zero()


def classes(
    pairs: Pairs, places: Sequence[Place], rows: Sequence[int], stack: Stack | None = None
) -> tuple[Bool[Tensor, "place class"], Int[Tensor, "batch pos"]]:
    """Positions that the same places mean are of one class: which places, and which class each is.

    `stack`: whose positions, of an encoder-decoder.

    Raises:
        PositionError: a name that the pairs have not.
    """
    found = torch.stack([_marked(pairs, place, rows, stack) for place in places])
    which, number = found.flatten(1).unique(dim=1, return_inverse=True)
    return which, number.view(found.shape[1:])


def held_at(pairs: Pairs, places: Sequence[Place], rows: Sequence[int]) -> int:
    """The most positions that a row of one length has at any of some places."""
    found = torch.stack([_marked(pairs, place, rows) for place in places])
    return int(found.any(0).sum(1).max())


def _marked(
    pairs: Pairs, place: Place, rows: Sequence[int], stack: Stack | None = None
) -> Bool[Tensor, "batch pos"]:
    """A name that one of two stacks has not means none of its positions."""
    named, lengths = pairs.positions, pairs.lengths
    if stack == "dec":
        named, lengths = target_names(pairs), pairs.written
    if place == REST:
        return free(named, lengths, rows)
    if stack is not None and isinstance(place, str) and place != "all" and place not in named:
        return torch.zeros(len(rows), int(lengths[rows[0]]), dtype=torch.bool)
    first = None if stack is None else Site("resid_pre", 0, stack=stack)
    return positions_of(pairs, place, rows, first)


def _everywhere(
    pairs: Pairs, places: Sequence[Place], stack: Stack | None
) -> tuple[Bool[Tensor, "place class"], list[Place]]:
    """The classes of positions in all rows, and where each is."""
    if tuple(places) == ("all",):
        return torch.ones(1, 1, dtype=torch.bool), ["all"]
    at: dict[tuple[bool, ...], list[tuple[int, ...]]] = defaultdict(lambda: [()] * len(pairs))
    for rows in blocks(pairs.extents, len(pairs)):
        which, kinds = classes(pairs, places, rows, stack)
        for kind in range(which.shape[1]):
            for row, here in zip(rows, kinds == kind, strict=True):
                at[tuple(which[:, kind].tolist())][row] = tuple(here.nonzero().flatten().tolist())
    return torch.tensor(list(at)).T, [PerRow(tuple(rows)) for rows in at.values()]


def masks_of(cells: Sequence[Cell], facts: Facts, base: Side) -> Masks | None:
    """The same cells as masks, where each is a set of edges, large enough that it pays."""
    every = [i for cell in cells for i in cell.interventions]
    ablation = _ablation(every[0].value, base)
    if ablation is None or any(cell.hops for cell in cells):
        return None
    if sum(len(i.readers or ()) for i in every) < MANY * len(cells):
        return None
    if any(type(i.value) is not type(every[0].value) for i in every):
        return None
    if any(i.value.source != every[0].value.source for i in every):
        return None
    wiring = Wiring(facts, Graph.of(facts))
    known = {*wiring.graph.readers, *wiring.graph.writers}
    if any(site not in known for site in {s for i in every for s in (i.site, *(i.readers or ()))}):
        return None
    writers = {site: n for n, site in enumerate(wiring.graph.writers)}
    readers = {site: n for n, site in enumerate(wiring.graph.readers)}
    places = tuple(Counter(i.positions for i in every))
    shape = (len(cells), len(places), *wiring.graph.feeds.shape)
    if math.prod(shape) > MOST:
        return None
    cut = np.zeros(shape, dtype=bool)
    for n, cell in enumerate(cells):
        for i in cell.interventions:
            rows = slice(None) if i.readers is None else [readers[reader] for reader in i.readers]
            cut[n, places.index(i.positions), rows, writers[i.site]] = True
    source = every[0].value.source
    source = source if isinstance(source, Averaged) else None
    lacking = np.ones(len(cells), dtype=bool)
    return Masks(wiring, cut & wiring.graph.feeds, lacking, places, ablation, source)


def _ablation(value: Value, base: Side) -> Literal["zero", "mean", "resample"] | None:
    """What a value is as an ablation of the run that is intervened on."""
    match value:
        case Zero():
            return "zero"
        case Mean():
            return "mean"
        case Resample(source) if source != base:
            return "resample"
    return None
