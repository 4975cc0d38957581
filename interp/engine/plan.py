"""The plan of a sweep: which rows and cells run together, over which layers and positions.

Made before anything runs, from shapes alone; `interp.explain` prints it and the run follows it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.facts import Facts
from interp.core.pairs import Pairs
from interp.engine.edits import STEPS
from interp.engine.interventions import Cell, Hop
from interp.engine.trace import KEPT

TOKENS_AT_ONCE = 2048
"""Cells x rows x positions in a batch: matrix products run at full speed from about a thousand on,
and what a batch holds should stay in the cache between two of them (measured)."""


def blocks(lengths: Int[Tensor, " batch"], most: int) -> list[list[int]]:
    """Rows of one length together, at most `most` at a time: so no row is ever padded."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for row, length in enumerate(lengths.tolist()):
        by_length[length].append(row)
    return [
        rows[i : i + most]
        for _, rows in sorted(by_length.items())
        for i in range(0, len(rows), most)
    ]


def places(pairs: Pairs, positions: str | int, rows: Sequence[int]) -> Bool[Tensor, "batch pos"]:
    """Which positions of these rows (all of one length) a name or an index means."""
    length = int(pairs.lengths[rows[0]])
    if positions == "all":
        return torch.ones(len(rows), length, dtype=torch.bool)
    if isinstance(positions, int):
        at = torch.full((len(rows),), positions)
    else:
        at = pairs.at(positions)[list(rows)]
    return torch.arange(length) == at[:, None]


@dataclass(frozen=True)
class Batch:
    """Cells that go up the layers together, over rows of one length.

    Attributes:
        rows: rows of the pairs.
        cells: indices of cells, by the time they join.
        start: first position that is computed again after the interventions.
        positions: number of positions computed (along a path: those that receivers read).
        bytes: estimated peak of what the wave holds.
        flops: of matrix products.
    """

    rows: tuple[int, ...]
    cells: tuple[int, ...]
    start: int
    positions: int
    layers: tuple[int, int]
    bytes: int
    flops: int


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    Attributes:
        batches: in the order they run.
        budget: bytes that a batch may hold.
        naive_flops: one full forward a cell (two for a path that ends before the logits).
    """

    batches: tuple[Batch, ...]
    budget: int
    naive_flops: int
    facts: Facts
    engine: str

    @property
    def flops(self) -> int:
        if self.engine == "hooks":
            return self.naive_flops
        return sum(batch.flops for batch in self.batches)

    def __str__(self) -> str:
        groups: dict[tuple[int, int], list[Batch]] = defaultdict(list)
        for batch in self.batches:
            groups[int(batch.start), batch.positions].append(batch)
        lines = [
            f"{'cells':>7} {'prompts':>8} {'layers':>9} {'positions':>10} {'batches':>8} "
            f"{'peak MB':>8} {'GFLOP':>9}"
        ]
        for (start, positions), found in sorted(groups.items()):
            low, high = min(b.layers[0] for b in found), max(b.layers[1] for b in found)
            lines.append(
                f"{len({c for b in found for c in b.cells}):7d} "
                f"{len({r for b in found for r in b.rows}):8d} {f'{low}-{high}':>9} "
                f"{f'{positions} from {start}':>10} {len(found):8d} "
                f"{max(b.bytes for b in found) / 1e6:8.1f} {sum(b.flops for b in found) / 1e9:9.1f}"
            )
        return "\n".join(
            [
                f"engine {self.engine}, {self.facts}",
                *lines,
                f"{self.flops / 1e9:.1f} GFLOP against {self.naive_flops / 1e9:.1f} with a full "
                f"forward for each cell: {self.naive_flops / max(self.flops, 1):.1f} times fewer; "
                f"memory budget {self.budget / 1e6:.0f} MB",
            ]
        )


def make_plan(
    facts: Facts,
    pairs: Pairs,
    cells: Sequence[Cell],
    *,
    budget: int,
    itemsize: int,
    read: str,
    columns: int,
    engine: str,
) -> Plan:
    """Sort cells by where and when they change something, and cut them to the budget.

    `read` is the position of the logits that the metric takes, `columns` how many of them.
    """
    longest = int(pairs.lengths.max())
    most = max(1, budget // 2 // (2 * _trace_bytes(facts, longest, itemsize)))
    batches = []
    for rows in blocks(pairs.lengths, most):
        groups: dict[tuple[Hop | None, int], list[int]] = defaultdict(list)
        for index, cell in enumerate(cells):
            groups[cell.hop, _start(pairs, cell, rows, read)].append(index)
        for (hop, start), members in groups.items():
            members.sort(key=lambda i: _entry(cells[i]))
            batches += _cut(
                facts, pairs, cells, rows, hop, start, members, budget, itemsize, columns
            )
    full = sum(_forward_flops(facts, length) for length in pairs.lengths.tolist())
    passes = sum(2 if c.hop and c.hop.receivers[0].kind != "logits" else 1 for c in cells)
    return Plan(tuple(batches), budget, full * passes, facts, engine)


def receiving(
    pairs: Pairs, hop: Hop, rows: Sequence[int], read: str
) -> Int[Tensor, "batch window"]:
    """The positions at which receivers read, row by row; the logits read at the read position."""
    if hop.receivers[0].kind == "logits":
        return pairs.at(read)[list(rows)][:, None]
    mask = places(pairs, hop.positions, rows)
    return mask.nonzero()[:, 1].view(len(rows), -1)


def _start(pairs: Pairs, cell: Cell, rows: Sequence[int], read: str) -> int:
    """First position that changes in any of the rows; never after the read position."""
    if cell.hop is not None:
        first = int(receiving(pairs, cell.hop, rows, read).min())
    else:
        masks = [places(pairs, i.positions, rows) for i in cell.interventions]
        first = int(torch.stack(masks).any(0).int().argmax(-1).min())
    return min(first, int(pairs.at(read)[list(rows)].min()))


def _entry(cell: Cell) -> tuple[int, int]:
    return min((i.site.layer or 0, STEPS[i.site.kind]) for i in cell.interventions)


def _cut(
    facts: Facts,
    pairs: Pairs,
    cells: Sequence[Cell],
    rows: Sequence[int],
    hop: Hop | None,
    start: int,
    members: Sequence[int],
    budget: int,
    itemsize: int,
    columns: int,
) -> Iterator[Batch]:
    length = int(pairs.lengths[rows[0]])
    positions = length - start
    if hop is not None:
        logits = hop.receivers[0].kind == "logits"
        positions = 1 if logits or hop.positions != "all" else length
    width = facts.n_heads * facts.d_head + facts.n_kv_heads * facts.d_head
    one = len(rows) * positions * itemsize * (5 * facts.d_model + 4 * width)
    one += 0 if hop else 3 * len(rows) * facts.n_heads * positions * length * itemsize
    size = max(1, min(budget // 2 // one, TOKENS_AT_ONCE // (len(rows) * positions)))
    last = facts.n_layers - 1
    for i in range(0, len(members), size):
        chosen = members[i : i + size]
        first = _entry(cells[chosen[0]])[0]
        flops = len(rows) * sum(
            _cell_flops(facts, cells[c], length, start, positions) + 2 * facts.d_model * columns
            for c in chosen
        )
        yield Batch(
            tuple(rows), tuple(chosen), start, positions, (first, last), one * len(chosen), flops
        )


def _cell_flops(facts: Facts, cell: Cell, length: int, start: int, positions: int) -> int:
    """Matrix products of one cell in one row, without the unembedding."""
    if cell.hop is None:
        return _wave_flops(facts, _entry(cell), length, positions)
    receivers = cell.hop.receivers
    logits = receivers[0].kind == "logits"
    mlps = {r.layer for r in receivers if r.kind == "mlp_out"}
    heads = [r for r in receivers if r.kind in ("q", "k", "v")]
    if cell.hop.through == "mlps":
        layer, step = _entry(cell)
        first = layer + (step >= STEPS["mlp_out"])
        end = facts.n_layers if logits else max(r.layer or 0 for r in receivers)
        mlps |= set(range(first, end))
    writes = {i.site.layer for i in cell.interventions if i.site.kind == "z"}
    flops = positions * (
        len(mlps) * _mlp_flops(facts)
        + len(heads) * 2 * facts.d_model * facts.d_head
        + len(writes) * 2 * facts.d_model * facts.n_heads * facts.d_head
    )
    if logits:
        return flops
    reached = min((r.layer or 0, STEPS[r.kind]) for r in receivers if cell.first < r)
    return flops + _wave_flops(facts, reached, length, length - start)


def _wave_flops(facts: Facts, entry: tuple[int, int], length: int, positions: int) -> int:
    """Matrix products above an entry; in the last layer only one position goes on."""
    inner, group = facts.n_heads * facts.d_head, facts.n_kv_heads * facts.d_head
    flops = 0
    for layer in range(entry[0], facts.n_layers):
        step = entry[1] if layer == entry[0] else 0
        queries = 1 if layer == facts.n_layers - 1 else positions
        if step < STEPS["q"]:
            flops += 2 * facts.d_model * (inner * queries + 2 * group * positions)
        if step < STEPS["z"]:
            flops += 4 * inner * length * queries
        if step < STEPS["attn_out"]:
            flops += 2 * facts.d_model * inner * queries
        if step < STEPS["mlp_out"]:
            flops += _mlp_flops(facts) * queries
    return flops


def _mlp_flops(facts: Facts) -> int:
    """Of one position."""
    return 2 * facts.d_model * facts.d_mlp * (3 if facts.gated else 2)


def _forward_flops(facts: Facts, length: int) -> int:
    inner, group = facts.n_heads * facts.d_head, facts.n_kv_heads * facts.d_head
    attention = 2 * facts.d_model * (2 * inner + 2 * group) + 4 * inner * length
    layer = attention + _mlp_flops(facts)
    return length * (facts.n_layers * layer + 2 * facts.d_model * facts.d_vocab)


def _trace_bytes(facts: Facts, length: int, itemsize: int) -> int:
    """One row's trace."""
    wide = facts.n_heads * facts.d_head * 2 + facts.n_kv_heads * facts.d_head * 2
    return length * itemsize * facts.n_layers * (wide + (len(KEPT) - 4) * facts.d_model)
