"""Run a list of cells: traces once, batches by plan, one number per metric, cell and example."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.errors import SiteError
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results, ordered, tiled
from interp.engine.checkpoint import Measured, Store, begin, cell_identity, metric_identity
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.protocol import Engine
from interp.engine.engines.resolution import named
from interp.engine.interventions import Averaged, Cell, Intervention, Reference
from interp.engine.plain.means.means import MeanReference, require_mean, taken
from interp.engine.plan.batches import Batch, Plan, make_plan
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import SWEEP, budget, by_rows, fitting, halving, require
from interp.engine.plan.positions import places
from interp.engine.plan.values import require_fit
from interp.engine.provenance import provenance
from interp.engine.sweep.block import Block
from interp.engine.sweep.sweep import Sweep


@torch.inference_mode()
def run(sweep: Sweep) -> Results:
    """Run a sweep and return one row for each metric, cell and example.

    Raises:
        ModelError: a submodule is in training mode.
        PairsError, Unsupported: pairs or a question that the model or the engine has no answer to.
        PositionError: a position that some row has not.
        MetricError: a metric is not one finite float per example.
        SiteError: a value that is not of the site's shape, or two at one place.
        InterpError: intervening with a run's own values changed the metric (null control), or
            less memory than the least that is needed.
        ResultsError: the checkpoint folder cannot be written.
    """
    for metric in sweep.metrics:
        accept(sweep.model, sweep.pairs, metric)
    _require_interventions(sweep)
    pairs, cells, device = sweep.pairs, list(sweep.cells), sweep.model.device
    engine = choose(sweep.model, sweep.engine, longest=pairs.longest, prefix=pairs.decoder)
    room = budget(sweep.memory, device, SWEEP)
    planned = partial(
        make_plan,
        sweep.model.facts,
        pairs,
        cells,
        itemsize=sweep.model.dtype.itemsize,
        metrics=sweep.metrics,
        engine=engine.name,
        base=sweep.base,
    )
    plan = planned(budget=room)
    what = f"one cell of {sweep.method} in one prompt of {int(pairs.lengths.max())} tokens"
    if (enough := require(plan.least, room, sweep.memory, device, what)) > room:
        plan = planned(budget=enough)
    proceed(_with_means(plan, sweep))
    references = _references(sweep, engine)
    found = _Found.of(sweep)
    begun = [] if sweep.checkpoint is None else begin(sweep.model)
    with tqdm(
        total=len(cells) * len(pairs), desc=sweep.method, unit="run", delay=2, disable=None
    ) as bar:
        for _, same in groupby(plan.batches, key=lambda batch: batch.rows):
            batches = list(same)

            def some(rows: list[int], batches: list[Batch] = batches) -> None:
                chosen = [replace(batch, rows=tuple(rows)) for batch in batches]
                _Rows(sweep, engine, chosen, references, begun, plan.budget).into(found, bar)

            by_rows(some, batches[0].rows, "the traces")
    note = provenance(
        sweep.model,
        pairs,
        null=found.null,
        resolution=named(sweep.metrics, found.resolution),
        engine=engine.name,
        plan=plan.told,
        base=sweep.base,
        metric=[m.name for m in sweep.metrics] if len(sweep.metrics) > 1 else sweep.metrics[0].name,
        references={r.fingerprint: min(m.sizes.values()) for r, m in references.items()},
        **_unnormalised(cells),
    )
    return Results(_table(sweep, engine.name, found), note)


def _with_means(plan: Plan, sweep: Sweep) -> Plan:
    """A plan that says what is averaged before it."""
    sources = {i.value.source for c in sweep.cells for i in c.interventions}
    prompts = sum(len(source.pairs) for source in sources if isinstance(source, Reference))
    if not prompts:
        return plan
    return replace(plan, note=f"before it, {prompts} prompts are run plainly for their means")


@dataclass(eq=False)
class _Found:
    """The numbers so far.

    Attributes:
        null: the largest effect of a null control.
        resolution: of each metric what rounding alone does, the largest that was seen.
    """

    base: Float[np.ndarray, "metrics examples"]
    measured: Float[np.ndarray, "metrics cells examples"]
    null: float
    resolution: Float[np.ndarray, " metrics"]

    @classmethod
    def of(cls, sweep: Sweep) -> "_Found":
        metrics, n = len(sweep.metrics), len(sweep.pairs)
        values = np.full((metrics, len(sweep.cells), n), np.nan)
        return cls(np.full((metrics, n), np.nan), values, 0.0, np.full(metrics, np.nan))


@dataclass(frozen=True, eq=False)
class _Rows:
    """The batches of some rows of one length, which share their traces."""

    sweep: Sweep
    engine: Engine
    batches: Sequence[Batch]
    references: dict[Averaged, MeanReference]
    begun: Sequence[object]
    room: int

    def into(self, found: _Found, bar: tqdm) -> None:
        """Run what is not kept, and fill in the numbers."""
        block: Block | None = None
        null, resolution = found.null, found.resolution  # what is kept knows those of its run
        for batch in self.batches:
            key = _key(self.sweep, self.engine, batch, self.begun) if self.begun else ()
            store, rows = Store(self.sweep.checkpoint, key), list(batch.rows)
            kept = store.load()
            if kept is None:
                if block is None:
                    block = Block(self.sweep, self.engine, batch.rows, self.references)
                    if np.isnan(found.base).all():
                        null = self._null(block, batch)
                        resolution = block.resolution()
                cells = self.sweep.cells
                ran = halving(partial(block.run, cells), batch, self.room)
                lines = np.concatenate([block.plain()[:, None], ran], 1)
                kept = store.save(Measured(lines, null, resolution).packed())
            said = Measured.unpacked(kept, batch=len(rows))
            found.base[:, rows] = said.lines[:, 0]
            found.measured[:, np.array(batch.cells)[:, None], rows] = said.lines[:, 1:]
            found.null = max(found.null, said.null)
            found.resolution = np.fmax(found.resolution, said.resolution)
            bar.update(len(batch.cells) * len(rows))

    def _null(self, block: Block, batch: Batch) -> float:
        """The null control of a batch, of one cell where the memory does not last for three."""
        found = fitting(partial(block.null, self.sweep.cells, batch), batch, self.room)
        if found is not None:
            return found
        return self._null(block, replace(batch, cells=batch.cells[:1]))


def _require_interventions(sweep: Sweep) -> None:
    """Refuse, before anything runs, what would make nonsense of a run or do nothing in a row.

    Raises:
        PositionError, SiteError, PairsError: as `run`.
    """
    facts, pairs = sweep.model.facts, sweep.pairs
    lengths = _by_length(pairs)
    seen: set[tuple[object, ...]] = set()
    for cell in sweep.cells:
        for i in cell.interventions:
            if isinstance(i.value.source, Averaged) and (i.value.source,) not in seen:
                seen.add((i.value.source,))
                require_mean(i.value.source, pairs)
            key = (id(i.value), i.site.kind, i.site.neuron is None, i.site.stack, i.site.cross)
            if key not in seen:
                seen.add(key)
                require_fit(i, facts, pairs)
            place = (i.positions, i.site.stack, i.site.cross, i.site.kind in ("k", "v"))
            if place not in seen:
                seen.add(place)
                for rows in lengths:
                    places(pairs, i.positions, rows, i.site)
        for hop in cell.hops:
            if ("hop", hop.positions) not in seen:
                seen.add(("hop", hop.positions))
                for rows in lengths:
                    _require_even(places(pairs, hop.positions, rows), str(hop))
        if len(cell.interventions) > 1:
            _refuse_overlap(cell, pairs, lengths)


def _by_length(pairs: Pairs) -> list[list[int]]:
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(pairs.lengths.tolist()):
        by_length.setdefault(length, []).append(row)
    return list(by_length.values())


def _require_even(mask: Tensor, hop: str) -> None:
    counts = mask.sum(1)
    if int(counts.min()) != int(counts.max()):
        raise SiteError(
            f"the receivers {hop} take their input at {int(counts.min())} positions of one row and "
            f"at {int(counts.max())} of another of the same length; a path needs as many in each. "
            "Give as many, or run the rows apart (pairs.select)."
        )


def _refuse_overlap(cell: Cell, pairs: Pairs, lengths: Sequence[Sequence[int]]) -> None:
    """Two values for one site at one position, of places that are written otherwise."""
    for i, other in _same(cell.interventions):
        if isinstance(i.positions, int) and isinstance(other.positions, int):
            continue  # equal ones were refused when the cell was made
        for rows in lengths:
            both = places(pairs, i.positions, rows, i.site)
            both = both & places(pairs, other.positions, rows, i.site)
            if bool(both.any()):
                raise SiteError(
                    f"two interventions set '{i.site}' in one run ({cell.name!r}), at "
                    f"{i.positions!s} and at {other.positions!s}, which are one position in row "
                    f"{rows[int(both.any(1).int().argmax())]}: which one holds is not said. Leave "
                    "one out."
                )


def _same(interventions: Sequence[Intervention]) -> Iterator[tuple[Intervention, Intervention]]:
    """Pairs of interventions on one site that some reader sees both of."""
    by_site: dict[Site, list[Intervention]] = {}
    for i in interventions:
        for other in by_site.get(i.site, ()):
            apart = i.readers is not None and other.readers is not None
            if not (apart and set(i.readers or ()).isdisjoint(other.readers or ())):
                yield i, other
        by_site.setdefault(i.site, []).append(i)


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
        source: taken(source, sweep.model, engine, sites, sweep.pairs)
        for source, sites in wanted.items()
    }


def _key(sweep: Sweep, engine: Engine, batch: Batch, begun: Sequence[object]) -> list[object]:
    """Everything that the numbers of a batch depend on."""
    return [
        *(*begun, sweep.pairs.fingerprint),
        *(engine.name, sweep.method, sweep.base, batch.rows),
        *map(metric_identity, sweep.metrics),
        sweep.pairs.decoder,
        *(cell_identity(sweep.cells[i]) for i in batch.cells),
    ]


def _table(sweep: Sweep, engine: str, found: _Found) -> pd.DataFrame:
    """The long table: metrics, then cells in the order of the list, then examples."""
    cells, n, metrics = sweep.cells, len(sweep.pairs), sweep.metrics
    direction = "noise" if sweep.base == "clean" else "denoise"

    def words(column: Sequence[object]) -> np.ndarray:
        return np.tile(np.repeat(np.asarray(column, dtype=object), n), len(metrics))

    def numbers(column: Sequence[int | None]) -> pd.arrays.IntegerArray:
        return pd.array(words(column), dtype="Int16")

    lines = len(metrics) * len(cells)
    base = np.broadcast_to(found.base[:, None], found.measured.shape).reshape(-1)
    value = found.measured.reshape(-1)
    frame = pd.DataFrame(
        {
            "method": sweep.method,
            "site": words([c.name for c in cells]),
            "position": words([c.position for c in cells]),
            "receiver": words([" -> ".join(map(str, c.hops)) for c in cells]),
            "direction": direction,
            "metric": np.repeat(np.asarray([m.name for m in metrics], object), n * len(cells)),
            "kind": words([c.site.kind if c.site else "set" for c in cells]),
            "layer": numbers([c.site.layer if c.site else None for c in cells]),
            "head": numbers([c.site.head if c.site else None for c in cells]),
            "through": words([_through(c) for c in cells]),
            "engine": engine,
            "example": np.tile(np.arange(n, dtype=np.int32), lines),
            **tiled(sweep.pairs.units, lines),
            "base": base,
            "value": value,
            "effect": value - base,
        }
    )
    return ordered(frame)


def _through(cell: Cell) -> str:
    """What the hops pass through, and whether norms were frozen: "mlps", "direct/frozen ln"."""
    words = {hop.through + ("/frozen ln" if hop.ln == "freeze" else "") for hop in cell.hops}
    return "+".join(sorted(words))
