"""The plan of a sweep: which rows and cells run together, over which layers and positions.

Made before anything runs, from shapes alone; `interp.explain` prints it and the run follows it.
"""

from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

from jaxtyping import Int
from torch import Tensor

from interp.core.metrics import Metric
from interp.core.parts.facts import Facts
from interp.core.prompts.pairs import Pairs
from interp.engine.interventions import Cell, Hop
from interp.engine.limits import PROCESSOR, Limits
from interp.engine.plan import operations as ops
from interp.engine.plan.before import beforehand, own_run
from interp.engine.plan.cost import (
    Stage,
    cell_flops,
    depth,
    entry_of,
    forward_flops,
    ledger_bytes,
    passes,
    pieces_bytes,
    trace_bytes,
    wave_bytes,
)
from interp.engine.plan.needed import needed, since
from interp.engine.plan.plan import Batch, Plan
from interp.engine.plan.positions import Starts, blocks, lengths_in, longest_in
from interp.engine.plan.stages import stages_of


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
    metrics: int = 0,
    limits: Limits = PROCESSOR,
) -> Plan:
    """Plain forwards, some rows at a time: no cells, and nothing that could be saved.

    `kept`: bytes that stay of all rows, in main memory; a whole trace by default, where the model
    is. `metrics`: how many are read off each run.
    """
    tokens, half = int(lengths.sum()), itemsize < 4
    n = facts.n_layers if layers is None else layers

    def batch(chosen: Sequence[int]) -> Batch:
        length, many = int(lengths[chosen[0]]), len(chosen)
        one = ops.run_launches(facts, length, many, half=half, limits=limits, layers=n)
        if engine == "hooks":
            one = ops.bridge_launches(facts)
        whole, wave = many * trace_bytes(facts, length, itemsize), [Stage(0, length)]
        there = wave_bytes(facts, many * length, itemsize)
        there += pieces_bytes(facts, many * length, length, wave, itemsize, limits)
        return Batch(
            tuple(chosen),
            (),
            0,
            length,
            (0, n - 1),
            whole if kept is None else kept * many * length // tokens,
            runs * many * forward_flops(facts, length, layers),
            runs,
            traces=0 if kept is None else there,
            launches=runs * (one + metrics * ops.READING),
            # what is kept leaves the device layer by layer
            waits=runs * (1 + metrics if kept is None else n),
            moved=runs * ops.moved(facts, n, many * length, length, itemsize),
        )

    batches = tuple(batch(chosen) for chosen in blocks([(n, 0) for n in lengths.tolist()], rows))
    full = sum(b.flops for b in batches)
    first = batches[0]
    before = (own_run(facts, first.rows, first.positions, itemsize, metrics),) if metrics else ()
    return Plan(batches, budget, full, facts, engine, before=before, kept=kept or 0)


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
        before=tuple(
            replace(batch, rows=tuple(rows[row] for row in batch.rows))
            for rows, plan in parts
            for batch in plan.before
        ),
        kept=sum(plan.kept for _, plan in parts),
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
    limits: Limits = PROCESSOR,
) -> Plan:
    """Sort cells by where and when they change something, and cut them to the budget."""
    starts = Starts(facts, pairs, metrics)
    wide = max((ledger_bytes(facts, cell, itemsize) for cell in cells), default=0)

    def row(members: Sequence[int]) -> int:
        """One row's traces for some cells, at most."""
        chosen, found = [cells[i] for i in members], 0
        held = needed(facts, chosen, base, engine)
        for rows in blocks(pairs.extents, len(pairs)):
            length = longest_in(facts, pairs, rows)
            sides = since(held, engine, starts.first(chosen, rows)).values()
            traces = sum(trace_bytes(facts, length, itemsize, side) for side in sides)
            found = max(found, traces + length * wide)
        return found

    lots = _lots(facts, cells) if engine == "replay" else [[*range(len(cells))]]
    shares = _shares(lots, row, budget // 2)
    held = max(map(row, shares))
    together = blocks(pairs.extents, len(pairs))
    changed = (longest_in(facts, pairs, rows) - starts.first(cells, rows) for rows in together)
    at_once = limits.work // facts.d_model**2 // max(1, *changed)  # prompts of one cell
    most = max(1, min(budget // 2 // held, at_once))
    given = budget, itemsize, limits
    batches, largest, fits = _batches(starts, cells, shares, most, *given)
    if fits < most and any(b.bytes > budget // 2 for b in batches):  # one cell of so many rows
        batches, *_ = _batches(starts, cells, shares, fits, *given)
    if engine == "hooks":
        batches = [_hooked(b, starts, cells, itemsize) for b in batches]
    batches, before = beforehand(starts, cells, batches, base, engine, itemsize, limits, budget)
    full = sum(forward_flops(facts, length) for length in lengths_in(facts, pairs).tolist())
    forwards = sum(passes(cell, hooks=engine == "hooks") for cell in cells)
    least = 2 * max(*map(row, lots), largest)
    return Plan(tuple(batches), budget, full * forwards, facts, engine, least, before=before)


def _lots(facts: Facts, cells: Sequence[Cell]) -> list[list[int]]:
    """Cells by the layer that they join at: the fewest that need traces of their own."""
    found: dict[int, list[int]] = defaultdict(list)
    for index, cell in enumerate(cells):
        found[entry_of(facts, cell)[0]].append(index)
    return [found[layer] for layer in sorted(found)]


def _shares(
    lots: Sequence[list[int]], row: Callable[[Sequence[int]], int], room: int
) -> list[list[int]]:
    """All cells, or where a row's traces for them do not fit, halves of the layers apart.

    Plain runs are made again for each share: little beside its cells, of which each is about as
    much.
    """
    whole = sorted(index for lot in lots for index in lot)
    if len(lots) == 1 or row(whole) <= room:
        return [whole]
    half = len(lots) // 2
    return [*_shares(lots[:half], row, room), *_shares(lots[half:], row, room)]


def _hooked(batch: Batch, starts: Starts, cells: Sequence[Cell], itemsize: int) -> Batch:
    """A batch of the hooks engine: full forwards of its rows, each with a reading of its own."""
    facts, metrics = starts.facts, len(starts.metrics)
    forwards = sum(passes(cells[i], hooks=True) for i in batch.cells)
    length = longest_in(facts, starts.pairs, batch.rows)
    tokens, read = len(batch.rows) * length, len(batch.cells) * metrics
    return replace(
        batch,
        passes=forwards,
        flops=forwards * len(batch.rows) * forward_flops(facts, length),
        launches=forwards * ops.bridge_launches(facts) + read * ops.READING,
        waits=1 + read,
        moved=forwards * ops.moved(facts, facts.n_layers, tokens, length, itemsize),
    )


def _batches(
    starts: Starts,
    cells: Sequence[Cell],
    shares: Sequence[Sequence[int]],
    most: int,
    budget: int,
    itemsize: int,
    limits: Limits,
) -> tuple[list[Batch], int, int]:
    """Batches of so many rows at most, the bytes of the largest cell of one row, and how many rows
    of any one cell the budget lasts for.
    """
    facts, pairs, metrics = starts.facts, starts.pairs, starts.metrics
    batches, largest, fits = [], 0, most
    for rows, share in product(blocks(pairs.extents, most), range(len(shares))):
        groups: dict[tuple[tuple[Hop, ...], tuple[int, ...]], list[int]] = defaultdict(list)
        for index in shares[share]:
            groups[cells[index].hops, starts.of(cells[index], rows)].append(index)
        for members in groups.values():
            members.sort(key=lambda i: entry_of(facts, cells[i]))
            length = longest_in(facts, pairs, rows)
            stages = stages_of(starts, cells[members[0]], rows)
            parts = (facts, cells, rows, stages, length, members)
            cut = _cut(*parts, budget, itemsize, metrics, limits)
            batches += [replace(batch, share=share) for batch in cut]
            shape = facts, [cells[i] for i in members], stages, length, itemsize, limits
            largest = max(largest, _held(*shape, rows=1, many=1))
            alone = partial(_held, *shape, many=1)
            fits = min(fits, bisect(range(1, most + 1), budget // 2, key=lambda n: alone(rows=n)))
    return batches, largest, max(1, fits)


def _held(
    facts: Facts,
    cells: Sequence[Cell],
    stages: Sequence[Stage],
    length: int,
    itemsize: int,
    limits: Limits,
    *,
    rows: int,
    many: int,
) -> int:
    """Bytes of a wave of so many of some cells in so many rows."""
    tokens = rows * max(1, *(stage.positions for stage in stages))
    written = any(i.site.kind == "pattern" for cell in cells for i in cell.interventions)
    one = wave_bytes(facts, tokens, itemsize)
    one += tokens * max(ledger_bytes(facts, cell, itemsize) for cell in cells)
    shape = many * tokens, length, stages, itemsize, limits
    return many * one + pieces_bytes(facts, *shape, written=written)


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
    limits: Limits,
) -> Iterator[Batch]:
    positions = max(1, *(stage.positions for stage in stages))
    tokens = len(rows) * positions
    at_once = len(rows) if facts.recurrent else tokens  # in one matrix product
    shape = facts, [cells[i] for i in members], stages, length, itemsize, limits

    def held(many: int) -> int:
        return _held(*shape, rows=len(rows), many=many)

    size = max(1, limits.wave_tokens(facts.d_model) // at_once)
    size = min(size, max(1, bisect(range(1, size + 1), budget // 2, key=held)))
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
        mine, hops = [cells[c] for c in chosen], cells[chosen[0]].hops
        still = bool(hops) and hops[-1].ends and all(hop.through != "all" for hop in hops)
        layers = depth(facts) - first
        yield Batch(
            tuple(rows),
            tuple(chosen),
            min(stage.start for stage in stages),
            positions,
            (first, depth(facts) - 1),
            held(len(chosen)),
            flops,
            launches=len(metrics) * ops.READING
            + ops.wave_launches(
                facts, mine, len(rows), length, stages, half=itemsize < 4, limits=limits
            ),
            waits=1 + len(metrics),
            moved=ops.moved(
                facts, layers, len(chosen) * tokens, length, itemsize, attention=not still
            ),
        )
