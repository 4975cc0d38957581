"""Run a list of cells: traces once, batches by plan, one number per metric, cell and example.

Cells that are sets of edges go up with masks where the engine can and it pays; all others, and
these on other models, as interventions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from interp.core.errors import MetricError, is_short
from interp.core.parts.sites import Site
from interp.core.tables.results import Results
from interp.engine.checkpoint import Finished, Measured, begin, cell_identity, metric_identity
from interp.engine.circuits.masks import masks_of
from interp.engine.circuits.passes import Passes, able, averaged_now, plan_passes
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.protocol import Engine
from interp.engine.engines.replay.engine import Replay
from interp.engine.engines.resolution import named
from interp.engine.interventions import Averaged, Cell, Reference
from interp.engine.limits import Limits
from interp.engine.plain.means.means import MeanReference, taken
from interp.engine.plan.batches import Batch, Plan, make_plan
from interp.engine.plan.before import rides
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import SWEEP, budget, by_rows, fitting, halving, require
from interp.engine.provenance import provenance
from interp.engine.sweep.checks import require_interventions
from interp.engine.sweep.sweep import Sweep
from interp.engine.sweep.traced import Traced


@dataclass(eq=False)
class Numbers:
    """The numbers of a sweep.

    Attributes:
        null: the largest effect of a null control.
        resolution: of each metric what rounding alone does, the largest that was seen.
        engine, plan, references: for the provenance.
    """

    base: Float[np.ndarray, "metrics examples"]
    measured: Float[np.ndarray, "metrics cells examples"]
    null: float
    resolution: Float[np.ndarray, " metrics"]
    engine: str
    plan: Mapping[str, int]
    references: Mapping[str, int]

    @classmethod
    def of(cls, sweep: Sweep, engine: Engine, plan: Plan) -> "Numbers":
        metrics, n = len(sweep.metrics), len(sweep.pairs)
        values = np.full((metrics, len(sweep.cells), n), np.nan)
        base, rounding = np.full((metrics, n), np.nan), np.full(metrics, np.nan)
        return cls(base, values, 0.0, rounding, engine.name, plan.told, {})


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
    found = measure(sweep)
    cells = sweep.cells
    note = provenance(
        sweep.model,
        sweep.pairs,
        null=found.null,
        resolution=named(sweep.metrics, found.resolution),
        engine=found.engine,
        plan=found.plan,
        base=sweep.base,
        metric=[m.name for m in sweep.metrics] if len(sweep.metrics) > 1 else sweep.metrics[0].name,
        **({} if sweep.masks else {"references": found.references}),
        **sweep.note,
        **_unnormalised(cells),
    )
    return _results(sweep, found, note)


@torch.inference_mode()
def measure(sweep: Sweep) -> Numbers:
    """The numbers of a sweep.

    Raises:
        As `run`.
    """
    for metric in sweep.metrics:
        accept(sweep.model, sweep.pairs, metric)
    require_interventions(sweep)
    pairs, device = sweep.pairs, sweep.model.device
    engine = choose(sweep.model, sweep.engine, longest=pairs.longest)
    sweep = _served(sweep, engine)
    room = budget(sweep.memory, device, SWEEP)
    plan = _plan(sweep, engine, room)
    what = f"one cell of {sweep.method} in one prompt of {pairs.longest} tokens"
    if (enough := require(plan.least, room, sweep.memory, device, what)) > room:
        plan = _plan(sweep, engine, enough)
    proceed(_with_means(plan, sweep))
    make, found = _Maker.for_sweep(sweep, engine), Numbers.of(sweep, engine, plan)
    begun = [] if sweep.checkpoint is None else begin(sweep.model)
    with tqdm(
        total=len(sweep.cells) * len(pairs), desc=sweep.method, unit="run", delay=2, disable=None
    ) as bar:
        for _, same in groupby(plan.batches, key=lambda batch: (batch.rows, batch.share)):
            batches = list(same)

            def some(rows: list[int], batches: list[Batch] = batches) -> None:
                chosen = [replace(batch, rows=tuple(rows)) for batch in batches]
                _Rows(sweep, engine, chosen, make.of, begun, plan.budget).into(found, bar)

            by_rows(some, batches[0].rows, "the traces")
    found.references = make.said
    return found


def _with_means(plan: Plan, sweep: Sweep) -> Plan:
    """A plan that says what is averaged before it."""
    sources = {i.value.source for c in sweep.cells for i in c.interventions}
    sources |= {sweep.masks.source} if sweep.masks else set()
    prompts = sum(len(source.pairs) for source in sources if isinstance(source, Reference))
    if not prompts:
        return plan
    said = f"before it, {prompts} prompts are run plainly for their means"
    return replace(plan, note=f"{plan.note}; {said}" if plan.note else said)


def _served(sweep: Sweep, engine: Engine) -> Sweep:
    """Sets of edges as masks where the engine can and it pays, else as interventions."""
    if sweep.masks is None and able(engine):
        return replace(sweep, masks=masks_of(sweep.cells, sweep.model.facts, sweep.base))
    if sweep.masks is not None and not able(engine):
        cells = sweep.masks.as_interventions(sweep.cells, sweep.pairs)
        return replace(sweep, cells=cells, masks=None)
    return sweep


def _plan(sweep: Sweep, engine: Engine, room: int) -> Plan:
    if sweep.masks is not None:
        return plan_passes(sweep.masks, sweep.model, sweep.pairs, room=room)
    return make_plan(
        sweep.model.facts,
        sweep.pairs,
        sweep.cells,
        budget=room,
        itemsize=sweep.model.dtype.itemsize,
        metrics=sweep.metrics,
        engine=engine.name,
        base=sweep.base,
        limits=Limits.of(sweep.model.device),
    )


@dataclass(frozen=True, eq=False)
class _Maker:
    """What makes the block of some rows.

    Attributes:
        said: fingerprints of the mean references, and how many prompts the smallest mean is of.
    """

    of: Callable[[Sequence[Batch]], Traced | Passes]
    said: dict[str, int]

    @classmethod
    def for_sweep(cls, sweep: Sweep, engine: Engine) -> "_Maker":
        masks = sweep.masks
        if masks is None:
            means = _references(sweep, engine)
            said = {r.fingerprint: min(m.sizes.values()) for r, m in means.items()}
            return cls(lambda batches: Traced(sweep, engine, batches, means), said)
        assert isinstance(engine, Replay)
        model, pairs = sweep.model, sweep.pairs
        source = averaged_now(masks, model, engine, pairs)
        said = {}
        if isinstance(masks.source, Averaged) and isinstance(source, MeanReference):
            said = {masks.source.fingerprint: min(source.sizes.values())}

        def passes(batches: Sequence[Batch]) -> Passes:
            rows = batches[0].rows
            return Passes(model, pairs, sweep.metrics, masks, engine, rows, source, side=sweep.base)

        return cls(passes, said)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The batches of some rows of one length, which share their traces."""

    sweep: Sweep
    engine: Engine
    batches: Sequence[Batch]
    make: Callable[[Sequence[Batch]], Traced | Passes]
    begun: Sequence[object]
    room: int

    def into(self, found: Numbers, bar: tqdm) -> None:
        """Run what is not kept, and fill in the numbers."""
        block: Traced | Passes | None = None
        null, resolution = found.null, found.resolution  # what is kept knows those of its run
        for batch in self.batches:
            key = _key(self.sweep, self.engine, batch, self.begun) if self.begun else ()
            store, rows = Finished(self.sweep.checkpoint, key), list(batch.rows)
            kept, ran = store.load(), None
            if kept is None:
                if block is None:
                    block = self.make(self.batches)
                    if np.isnan(found.base).all():
                        ran, null = self._controlled(block, batch)
                        resolution = block.resolution()
                if ran is None:
                    ran = halving(block.run, batch, self.room)
                lines = np.concatenate([block.plain()[:, None], ran], 1)
                kept = store.save(Measured(lines, null, resolution).packed())
            said = Measured.unpacked(kept, batch=len(rows))
            found.base[:, rows] = said.lines[:, 0]
            found.measured[:, np.array(batch.cells)[:, None], rows] = said.lines[:, 1:]
            found.null = max(found.null, said.null)
            found.resolution = np.fmax(found.resolution, said.resolution)
            bar.update(len(batch.cells) * len(rows))

    def _controlled(
        self, block: Traced | Passes, batch: Batch
    ) -> tuple[Float[np.ndarray, "metrics cells batch"] | None, float]:
        """The first batch, if it ran together with its null control, and that."""
        if isinstance(block, Traced) and rides(batch, self.sweep.metrics, self.room):
            try:
                return block.controlled(batch)
            except MetricError:  # which cell's, and where, is said where they run alone
                pass
            except (MemoryError, RuntimeError) as error:
                if not is_short(error):
                    raise
        return None, self._null(block, batch)

    def _null(self, block: Traced | Passes, batch: Batch) -> float:
        """The null control of a batch, of one cell where the memory does not last for three."""
        found = fitting(partial(block.null, batch), batch, self.room)
        if found is not None:
            return found
        return self._null(block, replace(batch, cells=batch.cells[:1]))


def _unnormalised(cells: Sequence[Cell]) -> dict[str, bool]:
    """For the provenance: patterns need not sum to 1 here, or experts' weights to what they did."""
    kinds = [i.site.kind for c in cells for i in c.interventions if not i.normalise]
    said = {"pattern": "unnormalised_patterns", "router": "unnormalised_routers"}
    return {name: True for kind, name in said.items() if kind in kinds}


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
        *(
            ["masks", *sweep.masks.key(batch.cells)]
            if sweep.masks
            else map(cell_identity, (sweep.cells[i] for i in batch.cells))
        ),
    ]


def _results(sweep: Sweep, found: Numbers, note: Mapping[str, object]) -> Results:
    """Metrics, then cells in the order of the list, then examples."""
    cells, times = sweep.cells, len(sweep.metrics)
    sites = [cell.site for cell in cells]
    columns: dict[str, list[object]] = {
        "site": [cell.name for cell in cells],
        "position": [cell.position for cell in cells],
        "receiver": [" -> ".join(map(str, cell.hops)) for cell in cells],
        "kind": [site.kind if site else sweep.kind for site in sites],
        "layer": [site.layer if site else None for site in sites],
        "head": [site.head if site else None for site in sites],
        "through": [_through(cell) for cell in cells],
        **{name: [*values] for name, values in sweep.columns.items()},
    }
    each = {name: column * times for name, column in columns.items()}
    each["metric"] = [metric.name for metric in sweep.metrics for _ in cells]
    direction = "noise" if sweep.base == "clean" else "denoise"
    return Results.of(
        {"method": sweep.method, "direction": direction, "engine": found.engine, **each},
        found.measured,
        units=sweep.pairs.units,
        provenance=note,
        base=found.base[:, None],
    )


def _through(cell: Cell) -> str:
    """What the hops pass through, and whether norms were frozen: "mlps", "direct/frozen ln"."""
    words = {hop.through + ("/frozen ln" if hop.ln == "freeze" else "") for hop in cell.hops}
    return "+".join(sorted(words))
