"""The waves of a cell: where each begins, and how many positions it computes."""

from collections.abc import Sequence

from interp.core.prompts.places import AFTER_FIRST, ALL, PerRow
from interp.engine.interventions import Cell, Hop
from interp.engine.plan.cost import Stage
from interp.engine.plan.positions import Starts, longest_in, readings


def stages_of(starts: Starts, cell: Cell, rows: Sequence[int]) -> list[Stage]:
    """The waves of a cell: one for each hop, and one after them."""
    first, hops = starts.of(cell, rows), cell.hops
    length = longest_in(starts.facts, starts.pairs, rows)
    read = readings(starts.facts, starts.pairs, starts.metrics, rows).shape[1]
    stages = [
        Stage(start, _positions(hop, length, start, read), read)
        for hop, start in zip(hops, first, strict=False)
    ]
    if len(first) > len(hops):
        stages.append(Stage(first[-1], length - first[-1], read))
    return stages


def _positions(hop: Hop, length: int, start: int, read: int) -> int:
    if hop.through == "all":
        return length - start
    if hop.ends:
        return read
    if isinstance(hop.positions, PerRow):
        return max(map(len, hop.positions.rows))
    return {ALL: length, AFTER_FIRST: length - 1}.get(str(hop.positions), 1)
