"""The plan of a sweep: which rows and cells run together, over which layers and positions.

Made before anything runs, from shapes alone; `interp.explain` prints it and the run follows it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Int
from torch import Tensor

from interp.core.metrics import Metric
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Kind
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import AFTER_FIRST, ALL, PerRow
from interp.engine.interventions import Cell, Hop
from interp.engine.network.trace import KEPT, RECURRENT
from interp.engine.plan.cost import (
    Stage,
    cell_flops,
    entry_of,
    forward_flops,
    ledger_bytes,
    passes,
    trace_bytes,
    wave_bytes,
)
from interp.engine.plan.positions import blocks, first_changed, readings

TOKENS_AT_ONCE = 2048
"""Cells x rows x positions in a batch: matrix products run at full speed from about a thousand on,
and what a batch holds should stay in the cache between two of them (measured)."""


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
        passes: through the model, whole or in part.
    """

    rows: tuple[int, ...]
    cells: tuple[int, ...]
    start: int
    positions: int
    layers: tuple[int, int]
    bytes: int
    flops: int
    passes: int = 1


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    It counts what is run for each intervention. The plain runs from which a sweep takes values,
    the null control of three of its cells, and the verification of the engine, once in a model's
    life, come to these.

    Attributes:
        batches: in the order they run.
        budget: bytes that a batch may hold.
        naive_flops: full forwards, one intervention at a time: one a cell, one more for each hop
            and each named reader.
        least: bytes without which nothing runs: one prompt, one cell.
        note: what else is to be said of it.
    """

    batches: tuple[Batch, ...]
    budget: int
    naive_flops: int
    facts: Facts
    engine: str
    least: int = 0
    note: str = ""

    @property
    def passes(self) -> int:
        """Passes through the model, whole or in part: one a batch, or what a batch says."""
        return sum(batch.passes for batch in self.batches)

    @property
    def told(self) -> dict[str, int]:
        """What the last digits of a sweep depend on, for its provenance."""
        return {"batches": len(self.batches), "memory": self.budget}

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
                f"{self.flops / 1e9:.1f} GFLOP in {self.passes} passes, against "
                f"{self.naive_flops / 1e9:.1f} with a full forward for each cell: "
                f"{self.naive_flops / max(self.flops, 1):.1f} times fewer; memory budget "
                f"{self.budget / 1e6:.0f} MB, at least {self.least / 1e6:.1f} MB",
                *([self.note] if self.note else []),
            ]
        )


def forward_plan(
    facts: Facts,
    lengths: Int[Tensor, " batch"],
    *,
    rows: int,
    runs: int,
    itemsize: int,
    engine: str,
    budget: int = 0,
    layers: int | None = None,
    kept: int | None = None,
) -> Plan:
    """Plain forwards, some rows at a time: no cells, and nothing that could be saved.

    `kept`: bytes that stay of all rows; a whole trace by default.
    """
    tokens = int(lengths.sum())
    last = (facts.n_layers if layers is None else layers) - 1
    batches = [
        Batch(
            tuple(chosen),
            (),
            0,
            int(lengths[chosen[0]]),
            (0, last),
            len(chosen) * trace_bytes(facts, int(lengths[chosen[0]]), itemsize)
            if kept is None
            else kept * int(lengths[chosen].sum()) // tokens,
            runs * len(chosen) * forward_flops(facts, int(lengths[chosen[0]]), layers),
            runs,
        )
        for chosen in blocks(lengths, rows)
    ]
    return Plan(tuple(batches), budget, sum(b.flops for b in batches), facts, engine)


def together(parts: Iterable[tuple[Sequence[int], Plan]]) -> Plan:
    """One plan of several, each of some rows."""
    parts = list(parts)
    return replace(
        parts[0][1],
        batches=tuple(
            replace(batch, rows=tuple(rows[row] for row in batch.rows))
            for rows, plan in parts
            for batch in plan.batches
        ),
        budget=max(plan.budget for _, plan in parts),
        naive_flops=sum(plan.naive_flops for _, plan in parts),
        least=max(plan.least for _, plan in parts),
    )


def make_plan(
    facts: Facts,
    pairs: Pairs,
    cells: Sequence[Cell],
    *,
    budget: int,
    itemsize: int,
    metrics: Sequence[Metric],
    engine: str,
    base: str = "clean",
) -> Plan:
    """Sort cells by where and when they change something, and cut them to the budget."""
    longest, sides = int(pairs.lengths.max()), kept_kinds(facts, cells, base).values()
    held = sum(trace_bytes(facts, longest, itemsize, kinds) for kinds in sides)
    widest = max((ledger_bytes(facts, cell, itemsize) for cell in cells), default=0) * longest
    row = held + widest
    most = max(1, budget // 2 // row)
    batches, largest = [], 0
    for rows in blocks(pairs.lengths, most):
        groups: dict[tuple[tuple[Hop, ...], tuple[int, ...]], list[int]] = defaultdict(list)
        for index, cell in enumerate(cells):
            groups[cell.hops, first_changed(facts, pairs, cell, rows, metrics)].append(index)
        for (hops, starts), members in groups.items():
            members.sort(key=lambda i: entry_of(facts, cells[i]))
            length = int(pairs.lengths[rows[0]])
            read = readings(facts, pairs, metrics, rows).shape[1]
            stages = [
                Stage(start, _positions(hop, length, start, read), read)
                for hop, start in zip(hops, starts, strict=False)
            ]
            if len(starts) > len(hops):
                stages.append(Stage(starts[-1], length - starts[-1], read))
            cut = list(_cut(facts, cells, rows, stages, length, members, budget, itemsize, metrics))
            largest = max(largest, cut[0].bytes // len(cut[0].cells) // len(rows))
            batches += cut
    if engine == "hooks":
        batches = [
            replace(b, passes=sum(passes(cells[i], hooks=True) for i in b.cells)) for b in batches
        ]
    full = sum(forward_flops(facts, length) for length in pairs.lengths.tolist())
    forwards = sum(passes(cell, hooks=engine == "hooks") for cell in cells)
    least = 2 * max(row, largest)
    return Plan(tuple(batches), budget, full * forwards, facts, engine, least)


def kept_kinds(facts: Facts, cells: Sequence[Cell], base: str) -> dict[str, tuple[Kind, ...]]:
    """The runs that cells take values from, with the kinds that their traces must hold."""
    needed: dict[str, set[Kind]] = {base: set()}
    for cell in cells:
        for i in cell.interventions:
            source = i.value.source
            if isinstance(source, str):
                needed.setdefault(base if source == "base" else source, set()).add(i.site.kind)
    needed[base] |= {i.site.kind for c in cells for i in c.interventions}  # null control
    large = ("pattern", "mlp_act")
    kept = RECURRENT if facts.recurrent else KEPT
    return {
        side: (*kept, *(kind for kind in large if kind in wanted))
        for side, wanted in needed.items()
    }


def _positions(hop: Hop, length: int, start: int, read: int) -> int:
    if hop.through == "all":
        return length - start
    if hop.ends:
        return read
    if isinstance(hop.positions, PerRow):
        return max(map(len, hop.positions.rows))
    return {ALL: length, AFTER_FIRST: length - 1}.get(str(hop.positions), 1)


def _cut(
    facts: Facts,
    cells: Sequence[Cell],
    rows: Sequence[int],
    stages: Sequence[Stage],
    length: int,
    members: Sequence[int],
    budget: int,
    itemsize: int,
    metrics: Sequence[Metric],
) -> Iterator[Batch]:
    # a decoder may be longer than the encoder's rows, whose length is counted here
    positions = max(1, *(stage.positions for stage in stages))
    tokens = len(rows) * positions
    one = wave_bytes(facts, tokens, length, stages, itemsize)
    one += tokens * max(ledger_bytes(facts, cells[i], itemsize) for i in members)
    at_once = len(rows) if facts.recurrent else tokens  # in one matrix product
    size = max(1, min(budget // 2 // one, TOKENS_AT_ONCE // at_once))
    wide = {"answers": 2, "vocabulary": facts.d_vocab, "embedding": 0}
    columns = sum(
        wide[m.reads] * (stages[-1].read if m.everywhere or m.position == "mean" else 1)
        for m in metrics
    )
    for i in range(0, len(members), size):
        chosen = members[i : i + size]
        first = entry_of(facts, cells[chosen[0]])[0]
        flops = len(rows) * sum(
            cell_flops(facts, cells[c], length, stages) + 2 * facts.d_model * columns
            for c in chosen
        )
        yield Batch(
            tuple(rows),
            tuple(chosen),
            min(stage.start for stage in stages),
            positions,
            (first, facts.n_layers - 1),
            one * len(chosen),
            flops,
        )
