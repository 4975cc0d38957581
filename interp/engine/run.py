"""Run a list of cells: traces once, batches by plan, one number per cell and example."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.errors import InterpError, SiteError
from interp.core.facts import Facts
from interp.core.results import COLUMNS, Results
from interp.core.sites import HEAD_KINDS, Site
from interp.engine.block import Block
from interp.engine.checkpoint import Store, begin, cell_identity, metric_identity
from interp.engine.collect.means import MeanReference, taken
from interp.engine.engines import Engine, accept, choose
from interp.engine.explain import proceed
from interp.engine.fitting import fitting, halving
from interp.engine.interventions import Averaged, Cell, Erase
from interp.engine.plan import Batch, make_plan
from interp.engine.provenance import provenance
from interp.engine.sweep import Sweep

DEFAULT_MEMORY = 1 << 30
"""Bytes; more makes no sweep faster, so free memory decides only when it is short."""


@torch.inference_mode()
def run(sweep: Sweep) -> Results:
    """Run a sweep and return one row for each cell and example.

    Raises:
        ModelError: a submodule is in training mode.
        PairsError, Unsupported: pairs or a question that the model or the engine has no answer to.
        MetricError: the metric is not one finite float per example.
        SiteError: a value that is not of the site's width.
        InterpError: intervening with a run's own values changed the metric (null control).
        ResultsError: the checkpoint folder cannot be written.
    """
    accept(sweep.model, sweep.pairs, sweep.metric)
    engine = choose(
        sweep.model,
        sweep.engine,
        longest=sweep.pairs.longest,
        prefix=sweep.pairs.decoder,
    )
    pairs, cells = sweep.pairs, list(sweep.cells)
    plan = make_plan(
        sweep.model.facts,
        pairs,
        cells,
        budget=_budget(sweep.memory),
        itemsize=sweep.model.dtype.itemsize,
        metric=sweep.metric,
        engine=engine.name,
    )
    proceed(plan)
    _require_values(cells, sweep.model.facts)
    references = _references(sweep, engine)
    base = np.full(len(pairs), np.nan)
    values = np.full((len(cells), len(pairs)), np.nan)
    null = 0.0
    begun = [] if sweep.checkpoint is None else begin(sweep.model)
    block: Block | None = None
    with tqdm(
        total=len(cells) * len(pairs), desc=sweep.method, unit="run", delay=2, disable=None
    ) as bar:
        for batch in plan.batches:
            rows = list(batch.rows)
            key = () if sweep.checkpoint is None else _key(sweep, engine, batch, begun)
            store = Store(sweep.checkpoint, key)
            found = store.load()
            if found is None:
                if block is None or block.rows != batch.rows:
                    block = None  # its traces go before the next ones come
                    block = Block(sweep, engine, batch.rows, references)
                    if np.isnan(base).all():
                        null = _null(block, cells, batch, plan.budget)
                ran = halving(partial(block.run, cells), batch, plan.budget)
                found = np.concatenate([block.plain()[None], ran])
                found = store.save(np.vstack([found, np.full(len(rows), null)]))
            base[rows] = found[0]
            values[np.ix_(batch.cells, rows)] = found[1:-1]
            null = max(null, float(found[-1, 0]))
            bar.update(len(batch.cells) * len(rows))
    note = provenance(
        sweep.model,
        pairs,
        null=null,
        engine=engine.name,
        base=sweep.base,
        metric=sweep.metric.name,
        references={r.fingerprint: min(m.sizes.values()) for r, m in references.items()},
        **_unnormalised(cells),
    )
    return Results(_table(sweep, engine.name, base, values), note)


def _null(block: Block, cells: Sequence[Cell], batch: Batch, budget: int) -> float:
    """The null control of a batch, of one cell where the memory does not last for three."""
    found = fitting(partial(block.null, cells, batch), batch, budget)
    if found is not None:
        return found
    return _null(block, cells, replace(batch, cells=batch.cells[:1]), budget)


def _require_values(cells: Sequence[Cell], facts: Facts) -> None:
    """Values of the user's own that would make nonsense of a run, or end it with a stack trace.

    Raises:
        InterpError: NaN or infinity.
        SiteError: an erasure of vectors of another width than the site's.
    """
    for cell in cells:
        for i in cell.interventions:
            source = i.value.source
            if isinstance(i.value, Erase):
                _require_width(i.value, i.site, facts)
            if isinstance(source, Tensor) and not source.isfinite().all():
                row = (~source.isfinite()).nonzero()[0, 0].item()
                raise InterpError(
                    f"the value given for '{i.site}' holds NaN or infinity, first in row {row}; "
                    "every number after it would. Look at how it was made."
                )


def _require_width(value: Erase, site: Site, facts: Facts) -> None:
    if site.kind == "pattern" or site.neuron is not None:
        raise SiteError(
            f"'{site}' is no vector of features that directions could be erased from; take the "
            "residual stream, an output ('12.attn', '12.mlp') or a head."
        )
    width = facts.d_head if site.kind in HEAD_KINDS else facts.d_model
    if value.width != width:
        raise SiteError(
            f"the erasure put at '{site}' is of vectors {value.width} wide, and the site's are "
            f"{width} wide: it was fitted at another kind of site, or on another model. ({facts})"
        )


def _unnormalised(cells: Sequence[Cell]) -> dict[str, bool]:
    """For the provenance: attention patterns need not sum to 1 here."""
    kinds = [i.site.kind for c in cells for i in c.interventions if not i.normalise]
    return {"unnormalised_patterns": True} if "pattern" in kinds else {}


def _references(sweep: Sweep, engine: Engine) -> dict[Averaged, MeanReference]:
    """Each mean reference of the sweep, averaged once at the sites that need it."""
    wanted: dict[Averaged, set[Site]] = {}
    for cell in sweep.cells:
        for intervention in cell.interventions:
            source = intervention.value.source
            if isinstance(source, Averaged):
                wanted.setdefault(source, set()).add(intervention.site)
    return {
        source: taken(source, sweep.model, engine, sites, sweep.pairs.decoder)
        for source, sites in wanted.items()
    }


def _key(sweep: Sweep, engine: Engine, batch: Batch, begun: Sequence[object]) -> list[object]:
    """Everything that the numbers of a batch depend on."""
    metric = sweep.metric
    return [
        *(*begun, sweep.pairs.fingerprint),
        *(engine.name, sweep.method, sweep.base, batch.rows),
        *metric_identity(metric),
        sweep.pairs.decoder,
        *(cell_identity(sweep.cells[i]) for i in batch.cells),
    ]


def _table(
    sweep: Sweep,
    engine: str,
    base: Float[np.ndarray, " examples"],
    values: Float[np.ndarray, "cells examples"],
) -> pd.DataFrame:
    """The long table: cells in the order of the list, examples in the order of the pairs."""
    cells, n = sweep.cells, len(sweep.pairs)
    direction = "noise" if sweep.base == "clean" else "denoise"

    def words(column: Sequence[str]) -> np.ndarray:
        return np.repeat(np.asarray(column, dtype=object), n)

    def numbers(column: Sequence[int | None]) -> pd.arrays.IntegerArray:
        return pd.array(np.repeat(np.asarray(column, dtype=object), n), dtype="Int16")

    frame = pd.DataFrame(
        {
            "method": words([sweep.method] * len(cells)),
            "site": words([c.name for c in cells]),
            "position": words([c.position for c in cells]),
            "receiver": words([" -> ".join(map(str, c.hops)) for c in cells]),
            "direction": words([direction] * len(cells)),
            "metric": words([sweep.metric.name] * len(cells)),
            "kind": words([c.site.kind if c.site else "set" for c in cells]),
            "layer": numbers([c.site.layer if c.site else None for c in cells]),
            "head": numbers([c.site.head if c.site else None for c in cells]),
            "through": words([_through(c) for c in cells]),
            "engine": words([engine] * len(cells)),
            "example": np.tile(np.arange(n, dtype=np.int32), len(cells)),
            "cluster": np.tile(np.asarray(sweep.pairs.cluster, object), len(cells)),
            "base": np.tile(base, len(cells)),
            "value": values.reshape(-1),
            "effect": (values - base).reshape(-1),
        }
    )
    return frame[COLUMNS]


def _budget(memory: int | None) -> int:
    if memory is not None and memory < 1:
        raise InterpError(f"memory={memory} bytes holds nothing; leave it out, or give more than 0")
    return memory or min(DEFAULT_MEMORY, psutil.virtual_memory().available // 4)


def _through(cell: Cell) -> str:
    """What the hops pass through, and whether norms were frozen: "mlps", "direct/frozen ln"."""
    words = {hop.through + ("/frozen ln" if hop.ln == "freeze" else "") for hop in cell.hops}
    return "+".join(sorted(words))
