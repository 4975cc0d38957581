"""Run models that consist of a circuit alone: rows of one length, a few circuits at a time.

Where what readers read is a plain sum, all circuits of a batch go up together
(`interp.engine.circuits.masked`); on other models each is a joint intervention
(`interp.engine.circuits.by_interventions`).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from interp.engine.checkpoint import Measured, Store, begin, metric_identity
from interp.engine.circuits import masked
from interp.engine.circuits.constants import Constants
from interp.engine.circuits.job import Isolated, Isolation
from interp.engine.circuits.rows import Rows
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.replay.engine import Replay
from interp.engine.interventions import Averaged
from interp.engine.plain.means.means import MeanReference, taken
from interp.engine.plan.batches import TOKENS_AT_ONCE, Batch, Plan
from interp.engine.plan.cost import circuit_flops, forward_flops, trace_bytes
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import SWEEP, budget, by_rows, halving, require
from interp.engine.plan.positions import blocks

FEW = 2
"""Prompts that the null control runs."""


@torch.inference_mode()
def isolate(job: Isolation, engine: Replay) -> Isolated:
    """Run all circuits through the masked pass.

    Raises:
        MetricError: a metric is not one finite float per example.
        InterpError: the model with all of its edges is not the model (null control).
        ResultsError: the checkpoint folder cannot be written.
    """
    pairs, n, device = job.pairs, len(job.kept), job.model.device
    longest = int(pairs.lengths.max())
    row, room = row_bytes(job, longest), budget(job.memory, device, SWEEP)
    what = f"one circuit in one prompt of {longest} tokens"
    room = require(2 * row, room, job.memory, device, what)
    plan = _plan(job, row, room)
    proceed(plan)
    source = _fitted(job, engine)
    found = Isolated(
        np.full((len(job.metrics), len(pairs)), np.nan),
        np.full((len(job.metrics), n, len(pairs)), np.nan),
        0.0,
        engine.name,
        np.full(len(job.metrics), np.nan),
        plan.told,
    )
    begun = [] if job.checkpoint is None else begin(job.model)
    with tqdm(total=n * len(pairs), desc="circuits", unit="run", delay=2, disable=None) as bar:
        for _, same in groupby(plan.batches, key=lambda batch: batch.rows):
            batches = list(same)

            def some(rows: list[int], batches: list[Batch] = batches) -> None:
                nonlocal found
                chosen = [replace(batch, rows=tuple(rows)) for batch in batches]
                null, rounding = _rows(job, engine, source, chosen, found, begun, room, bar)
                rounding = np.fmax(found.resolution, rounding)
                found = replace(found, null=max(found.null, null), resolution=rounding)

            by_rows(some, batches[0].rows, "the clean runs")
    return found


def _rows(
    job: Isolation,
    engine: Replay,
    source: MeanReference | Constants | None,
    batches: Sequence[Batch],
    found: Isolated,
    begun: Sequence[object],
    room: int,
    bar: tqdm,
) -> tuple[float, Float[np.ndarray, " metrics"]]:
    """Run the batches of some rows of one length, and fill in the numbers.

    Returns:
        The null control, and what rounding does to each metric; of the first rows that run.
    """
    block: Rows | None = None
    null, rounding = found.null, found.resolution  # what is kept knows those of its run
    for batch in batches:
        rows, cells = list(batch.rows), batch.cells
        store = Store(job.checkpoint, _key(job, rows, cells, begun) if begun else ())
        kept = store.load()
        if kept is None:
            block = block or Rows(job, engine, rows, source)
            if np.isnan(found.base).all():
                null = Rows(job, engine, rows[:FEW], source).null()
                rounding = block.resolution()
            ran = halving(block.run, batch, room) if cells else block.base[:, None][:, :0]
            lines = np.concatenate([block.base[:, None], ran], 1)
            kept = store.save(Measured(lines, null, rounding).packed())
        said = Measured.unpacked(kept, batch=len(rows))
        found.base[:, rows] = said.lines[:, 0]
        found.found[:, np.array(cells, dtype=int)[:, None], rows] = said.lines[:, 1:]
        null, rounding = max(null, said.null), np.fmax(rounding, said.resolution)
        bar.update(len(cells) * len(rows))
    return null, rounding


def _plan(job: Isolation, row: int, room: int) -> Plan:
    """Rows of one length together, and as many circuits at a time as the memory lasts for."""
    facts, pairs, n = job.model.facts, job.pairs, len(job.kept)
    batches = []
    for rows in blocks(pairs.lengths, room // 2 // row):
        length = int(pairs.lengths[rows[0]])
        size = min(room // 2 // (row * len(rows)), TOKENS_AT_ONCE // (len(rows) * length))
        size = max(1, size)
        for first in range(0, max(n, 1), size):
            cells = tuple(range(first, min(first + size, n)))
            held = row * len(rows) * len(cells)
            flops = circuit_flops(facts, length) * len(rows) * len(cells)
            layers = (0, facts.n_layers - 1)
            batches.append(Batch(tuple(rows), cells, 0, length, layers, held, flops))
    edges = (~job.kept).sum((1, 2, 3)).max(initial=0) if n else 0
    full = sum(forward_flops(facts, length) for length in pairs.lengths.tolist())
    note = f"one masked pass a batch, of circuits that lack up to {int(edges)} edges"
    return Plan(tuple(batches), room, full * n, facts, "replay", 2 * row, note)


def _fitted(job: Isolation, engine: Replay) -> MeanReference | Constants | None:
    if isinstance(job.source, Averaged):
        sites = job.wiring.graph.writers
        return taken(job.source, job.model, engine, sites, job.pairs)
    return job.source


def row_bytes(job: Isolation, length: int) -> int:
    """One row of one circuit: a change for each writer, streams, scores, its share of traces."""
    facts, itemsize = job.model.facts, job.model.dtype.itemsize
    changes = len(job.wiring.graph.writers) + 3 * facts.n_heads + 12
    scores = 4 * facts.n_heads * length
    wide = changes * facts.d_model + 4 * facts.d_mlp + scores
    return length * max(itemsize, 4) * wide + 2 * trace_bytes(facts, length, itemsize)


def _key(
    job: Isolation, rows: Sequence[int], cells: Sequence[int], begun: Sequence[object]
) -> list[object]:
    """Everything that the numbers of a batch depend on."""
    source = job.source
    return [
        *(*begun, "circuits", job.pairs.fingerprint, tuple(rows)),
        *(job.ablation, source and source.fingerprint, job.places),
        *map(metric_identity, job.metrics),
        *((bool(job.lacking[i]), np.packbits(job.kept[i]).tobytes()) for i in cells),
    ]


def served(job: Isolation) -> Replay | None:
    """The engine that the masked pass needs, or None where it cannot serve.

    Raises:
        ModelError, PairsError, Unsupported: what no engine can run.
    """
    for metric in job.metrics:
        accept(job.model, job.pairs, metric)
    engine = choose(job.model, job.engine, longest=job.pairs.longest, prefix=job.pairs.decoder)
    if isinstance(engine, Replay) and masked.servable(engine.weights):
        return engine
    return None
