"""What a sweep runs before its cells: traces, the null control, Hugging Face's own run."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from interp.core.metrics import Metric
from interp.core.parts.facts import Facts
from interp.engine.interventions import Cell
from interp.engine.limits import Limits
from interp.engine.network.trace import begins
from interp.engine.plan import operations as ops
from interp.engine.plan.cost import forward_flops, trace_bytes
from interp.engine.plan.needed import needed, since
from interp.engine.plan.plan import Batch
from interp.engine.plan.positions import Starts, longest_in
from interp.engine.plan.stages import stages_of

NULLS = 3
"""Cells of a sweep that are given the values of the run itself."""


def beforehand(
    starts: Starts,
    cells: Sequence[Cell],
    batches: Sequence[Batch],
    base: str,
    engine: str,
    itemsize: int,
    limits: Limits,
    room: int,
) -> tuple[list[Batch], tuple[Batch, ...]]:
    """The batches with the traces that they stand on; and what runs before them.

    Of each block of rows and share of the cells that is the traces, and what the metrics read off
    the base run. In the first, too, the null control and Hugging Face's own run.
    """
    facts, n, metrics = starts.facts, starts.facts.n_layers, len(starts.metrics)
    before, found = list[Batch](), list[Batch]()
    for (rows, _), group in groupby(batches, key=lambda batch: (batch.rows, batch.share)):
        same, length = list(group), longest_in(facts, starts.pairs, rows)
        held = needed(facts, [cells[i] for batch in same for i in batch.cells], base, engine)
        sides = since(held, engine, min(batch.start for batch in same))
        traces = len(rows) * sum(trace_bytes(facts, length, itemsize, s) for s in sides.values())
        given = {"half": itemsize < 4, "limits": limits}
        launches = metrics * ops.READING + len(sides) * ops.FINITE
        for side in sides.values():
            copies = sum(len(ls) for kind, ls in side.layers.items() if begins(kind, side.first))
            run = ops.run_launches(facts, length, len(rows), copies=copies, **given)
            launches += ops.bridge_launches(facts) if engine == "hooks" else run
        ran = Batch(
            rows,
            (),
            0,
            length,
            (0, n - 1),
            0,
            len(sides) * len(rows) * forward_flops(facts, length, n),
            len(sides),
            traces=traces,
            launches=launches,
            waits=len(sides) + 1 + metrics,
            moved=len(sides) * ops.moved(facts, n, len(rows) * length, length, itemsize),
        )
        stands = [replace(batch, traces=traces) for batch in same]
        if not before:
            null = _null(stands[0], cells, starts, engine, room, **given)
            before += [ran, null, own_run(facts, rows, length, itemsize, metrics)]
        else:
            before.append(ran)
        found += stands
    return found, tuple(before)


def controls(batch: Batch) -> list[int]:
    """The cells of a batch that the null control gives the values which they have anyway."""
    return sorted({batch.cells[i * (len(batch.cells) - 1) // 2] for i in range(NULLS)})


def rides(batch: Batch, metrics: Sequence[Metric], room: int) -> bool:
    """Does the null control run in the wave of its batch? Where there is room for both, and what it
    reads beside the metrics costs next to nothing.
    """
    cells = len(batch.cells)
    cheap = not any(m.everywhere or m.reads == "embedding" for m in metrics)
    return cheap and batch.bytes // cells * (cells + NULLS) <= room


def _null(
    batch: Batch,
    cells: Sequence[Cell],
    starts: Starts,
    engine: str,
    room: int,
    *,
    half: bool,
    limits: Limits,
) -> Batch:
    """The null control: some cells of a batch, given the values that they have anyway."""
    facts, rows, metrics = starts.facts, batch.rows, len(starts.metrics)
    few = controls(batch)
    chosen, part = [cells[i] for i in few], len(few) / len(batch.cells)
    length, stages = longest_in(facts, starts.pairs, rows), stages_of(starts, chosen[0], rows)

    def launched(cells: Sequence[Cell]) -> int:
        return ops.wave_launches(facts, cells, len(rows), length, stages, half=half, limits=limits)

    run, alone, together = launched(chosen), 1, rides(batch, starts.metrics, room)
    if together:
        own = [cells[i] for i in batch.cells]
        run = launched([*own, *chosen]) - launched(own)
    if engine == "hooks":  # reads each cell by itself
        run, alone = int(part * batch.passes) * ops.bridge_launches(facts), len(few)
    return replace(
        batch,
        cells=tuple(few),
        bytes=int(part * batch.bytes),
        flops=int(part * batch.flops),
        passes=int(part * batch.passes),
        moved=int(part * batch.moved),
        # of the base run and of the cells, with a control beside each metric
        launches=run + (1 + alone) * 2 * metrics * ops.READING,
        # controls are no metrics of the library's own, so that their number of the last example is
        # compared with that of a batch
        waits=2 - together + (1 + alone) * (2 + 3) * metrics + metrics,
    )


def own_run(facts: Facts, rows: Sequence[int], length: int, itemsize: int, metrics: int) -> Batch:
    """Hugging Face's own run of a few rows, for what rounding does to the metrics."""
    rows, n = tuple(rows[: ops.FEW]), facts.n_layers
    if not ops.compared(facts, length, itemsize):
        return Batch(rows, (), 0, length, (0, n - 1), 0, 0, 0)
    return Batch(
        rows,
        (),
        0,
        length,
        (0, n - 1),
        len(rows) * length * facts.d_vocab * itemsize,
        len(rows) * forward_flops(facts, length),
        launches=ops.own_launches(facts) + metrics * ops.READING,
        waits=2 * metrics,
        moved=ops.moved(facts, n, len(rows) * length, length, itemsize),
    )
