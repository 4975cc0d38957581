"""Where the nodes of a circuit stand: layers from bottom to top, few crossings within a layer.

All lengths are inches, so that text and boxes keep their size whatever is drawn.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from interp.core.parts.edges import begins
from interp.core.parts.sites import Site

SWEEPS = 12
GAP = 0.07
"""Between boxes of a row."""
INSIDE = 0.02
"""Between boxes of a unit."""
LETTERS = 6.0
"""Points."""
LETTER = 0.62
"""Width of a letter, in its size."""


@dataclass(frozen=True)
class Unit:
    """Nodes that stand side by side whatever happens.

    Attributes:
        nodes: one, or heads that share a key and a value.
        group: who reads that key and value, where an edge leads there.
    """

    nodes: tuple[Site, ...]
    group: Site | None = None

    @property
    def row(self) -> tuple[int, int, int]:
        """The stack, the layer and the place in it; what enters a stack stands before its first."""
        stack, layer, step, *_ = self.nodes[0].order
        return (stack, -1, 0) if begins(self.nodes[0]) else (stack, layer, step)

    @property
    def layer(self) -> str:
        """What a row is called; nothing of what enters a stack."""
        node = self.nodes[0]
        stack = f"{node.stack} " if node.stack else ""
        return "" if begins(node) else f"{stack}L{node.layer}"

    @property
    def names(self) -> tuple[Site, ...]:
        """All that edges may end at."""
        return (*self.nodes, self.group) if self.group else self.nodes


@dataclass(frozen=True)
class Arrangement:
    """Centres of the nodes.

    Attributes:
        at: x and y of each node, and of the middle of each group's heads; the embedding and the
            logits are bars about theirs.
        box: width and height of a node.
        bar: width of the embedding's and the logits' bars.
        size: of the letters, in points.
        rows: y of each layer that has a node, by its name.
        height: of everything.
    """

    at: Mapping[Site, tuple[float, float]]
    box: tuple[float, float]
    bar: float
    size: float
    rows: Mapping[str, float]
    height: float


def place(
    units: Sequence[Unit],
    links: Mapping[tuple[Site, Site], float],
    *,
    left: float,
    width: float,
    tallest: float,
    embed: bool,
    logits: bool,
) -> Arrangement:
    """Place units in their layers.

    The heads of a layer are a row, or more where one does not hold them; its MLP stands above
    them, so that all edges lead upwards. A decoder stands above its encoder, and its heads of
    cross-attention above its others.

    Args:
        units: everything but embedding and logits.
        links: weight of each pair of nodes, from the writer to the reader.
        embed, logits: is there such a bar?
        left: margin for the names of layers.
        width: of the page.
        tallest: of the page, which rows are squeezed to fit.
    """
    size = LETTERS
    longest = max((len(str(node)) for unit in units for node in unit.nodes), default=4)
    box = ((LETTER * size * longest + 5) / 72, (size + 3) / 72)
    fit = max(1, int((width - left) / (box[0] + GAP)))
    rows = _rows(units, fit)
    steps = max(1, len(rows) - 1 + embed + logits)
    step = float(np.clip(tallest / steps, 1.4 * box[1], 0.4))
    ground = [step * (i + embed) for i in range(len(rows))]
    x = _across(rows, links, left + box[0] / 2, width - box[0] / 2, box[0] + GAP)
    at: dict[Site, tuple[float, float]] = {}
    for i, row in enumerate(rows):
        for unit in row:
            for j, node in enumerate(unit.nodes):
                shift = (j - (len(unit.nodes) - 1) / 2) * (box[0] + INSIDE)
                at[node] = x[unit] + shift, ground[i]
            if unit.group:
                at[unit.group] = x[unit], ground[i]
    middle = (left + width) / 2
    height = step * steps
    at |= {Site("embed"): (middle, 0.0), Site("logits"): (middle, height)}
    named: dict[str, float] = {}
    for i, row in enumerate(rows):
        if row[0].layer:
            named.setdefault(row[0].layer, ground[i])
    return Arrangement(at, box, 0.8 * (width - left), size, named, height)


def _rows(units: Sequence[Unit], fit: int) -> list[list[Unit]]:
    """The units of each row, from below."""
    of: dict[tuple[int, int, int], list[Unit]] = defaultdict(list)
    for unit in sorted(units, key=lambda unit: unit.nodes):
        of[unit.row].append(unit)
    rows = []
    for key in sorted(of):
        row: list[Unit] = []
        for unit in of[key]:
            if row and sum(len(u.nodes) for u in [*row, unit]) > fit:
                rows.append(row)
                row = []
            row.append(unit)
        rows.append(row)
    return rows


def _across(
    rows: Sequence[Sequence[Unit]],
    links: Mapping[tuple[Site, Site], float],
    low: float,
    high: float,
    step: float,
) -> dict[Unit, float]:
    """x of each unit: near what it is linked to (barycentres), none on another."""
    unit_of = {node: unit for row in rows for unit in row for node in unit.names}
    near: dict[Unit, list[tuple[Unit, float]]] = defaultdict(list)
    for (a, b), weight in links.items():
        if a in unit_of and b in unit_of:
            near[unit_of[a]].append((unit_of[b], weight))
            near[unit_of[b]].append((unit_of[a], weight))
    x: dict[Unit, float] = {}
    for i, row in enumerate(rows):
        spots = np.linspace(low, high, 2 * len(row) + 1)[1::2] + (i % 2 - 0.5) * step / 2
        x |= dict(zip(row, spots.tolist(), strict=True))
    for _ in range(SWEEPS):
        wished = {
            unit: np.average([x[u] for u, _ in near[unit]], weights=[w for _, w in near[unit]])
            if near[unit]
            else x[unit]
            for unit in x
        }
        # all units spread by rank: means alone would draw them into one column
        order = sorted(x, key=lambda unit: x[unit] + wished[unit])
        spots = np.linspace(low, high, 2 * len(order) + 1)[1::2].tolist()
        x = dict(zip(order, spots, strict=True))
    for row in rows:
        order = sorted(row, key=x.__getitem__)
        spots = _apart([x[u] for u in order], [len(u.nodes) for u in order], low, high, step)
        x |= dict(zip(order, spots, strict=True))
    return x


def _apart(
    wished: Sequence[float], sizes: Sequence[int], low: float, high: float, step: float
) -> list[float]:
    """Places in this order where none overlaps: pushed to the right, then back from the edge."""
    need = [step * (a + b) / 2 for a, b in pairwise(sizes)]
    x = [max(low + step * (sizes[0] - 1) / 2, wished[0])]
    for want, gap in zip(wished[1:], need, strict=True):
        x.append(max(want, x[-1] + gap))
    x[-1] = min(x[-1], high - step * (sizes[-1] - 1) / 2)
    for i in range(len(x) - 2, -1, -1):
        x[i] = min(x[i], x[i + 1] - need[i])
    return x
