"""Run models that consist of a circuit alone: rows of one length, a few circuits at a time.

Where what readers read is a plain sum, all circuits of a batch go up together
(`interp.engine.masked`); on other models each is a joint intervention (`interp.engine.outside`).
"""

from collections.abc import Sequence

import numpy as np
import psutil
import torch
from tqdm.auto import tqdm

from interp.core.errors import InterpError
from interp.engine import masked
from interp.engine.checkpoint import Store, begin, metric_identity
from interp.engine.collect.means import MeanReference, taken
from interp.engine.constants import Constants
from interp.engine.engines import Replay, accept, choose
from interp.engine.fitting import halving
from interp.engine.flops import trace_bytes
from interp.engine.interventions import Averaged
from interp.engine.isolation import Isolated, Isolation
from interp.engine.plan import TOKENS_AT_ONCE, Batch, blocks
from interp.engine.rows import Rows
from interp.engine.run import DEFAULT_MEMORY

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
    pairs, n = job.pairs, len(job.kept)
    budget = room(job.memory)
    longest = int(pairs.lengths.max())
    row = row_bytes(job, longest)
    source = _fitted(job, engine)
    base = np.full((len(job.metrics), len(pairs)), np.nan)
    values = np.full((len(job.metrics), n, len(pairs)), np.nan)
    null, checked = 0.0, False
    begun = [] if job.checkpoint is None else begin(job.model)
    with tqdm(total=n * len(pairs), desc="circuits", unit="run", delay=2, disable=None) as bar:
        for rows in blocks(pairs.lengths, max(1, budget // 2 // row)):
            size = budget // 2 // (row * len(rows))
            size = max(1, min(size, TOKENS_AT_ONCE // (len(rows) * int(pairs.lengths[rows[0]]))))
            block: Rows | None = None
            for first in range(0, max(n, 1), size):
                cells = tuple(range(first, min(first + size, n)))
                store = Store(job.checkpoint, _key(job, rows, cells, begun) if begun else ())
                found = store.load()
                if found is None:
                    block = block or Rows(job, engine, rows, source)
                    if not checked:
                        few = Rows(job, engine, rows[:FEW], source)
                        null, checked = few.null(), True
                    length, last = block.length, job.model.facts.n_layers - 1
                    batch = Batch(
                        tuple(rows),
                        cells,
                        block.start,
                        length - block.start,
                        (0, last),
                        row * len(rows) * len(cells),
                        0,
                    )
                    ran = halving(block.run, batch, budget) if cells else np.empty((0, 1))
                    lines = [block.base.reshape(1, -1), ran.reshape(len(cells), -1)]
                    found = store.save(np.vstack([*lines, np.full_like(lines[0], null)]))
                shaped = found.reshape(len(found), len(job.metrics), len(rows))
                base[:, rows] = shaped[0]
                for i, cell in enumerate(cells):
                    values[:, cell, rows] = shaped[1 + i]
                null = max(null, float(shaped[-1, 0, 0]))
                bar.update(len(cells) * len(rows))
    return Isolated(base, values, null, engine.name)


def _fitted(job: Isolation, engine: Replay) -> MeanReference | Constants | None:
    if isinstance(job.source, Averaged):
        sites = job.wiring.graph.writers
        return taken(job.source, job.model, engine, sites, job.pairs.decoder)
    return job.source


def row_bytes(job: Isolation, length: int) -> int:
    """One row of one circuit: a change for each writer, streams, scores, its share of traces."""
    facts, itemsize = job.model.facts, job.model.dtype.itemsize
    changes = len(job.wiring.graph.writers) + 3 * facts.n_heads + 12
    scores = 4 * facts.n_heads * length
    wide = changes * facts.d_model + 4 * facts.d_mlp + scores
    return length * itemsize * wide + 2 * trace_bytes(facts, length, itemsize)


def room(memory: int | None) -> int:
    """Bytes to hold beside the weights.

    Raises:
        InterpError: none at all.
    """
    if memory is not None and memory < 1:
        raise InterpError(f"memory={memory} bytes holds nothing; leave it out, or give more than 0")
    return memory or min(DEFAULT_MEMORY, psutil.virtual_memory().available // 4)


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
