"""Run a list of cells: traces once, batches by plan, one number per cell and example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pandas as pd
import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.errors import InterpError, MetricError, ModelError
from interp.core.metrics import Answers, Metric
from interp.core.pairs import Pairs
from interp.core.results import COLUMNS, Results
from interp.core.sites import KINDS, Kind, Site
from interp.engine.checkpoint import Store, cell_identity, function_identity
from interp.engine.collect.means import Group, MeanReference, taken
from interp.engine.edits import Edit
from interp.engine.engines import Engine, EngineName, Replay, Route, accept, choose
from interp.engine.explain import proceed
from interp.engine.interventions import Averaged, Cell, Freeze, Intervention
from interp.engine.plan import Batch, make_plan, places, reading, route
from interp.engine.provenance import provenance
from interp.engine.replay import NotFinite
from interp.engine.score import Score
from interp.engine.trace import KEPT, Trace
from interp.models.model import Model

Side = Literal["clean", "corrupt"]
DEFAULT_MEMORY = 1 << 30
"""Bytes; more makes no sweep faster, so free memory decides only when it is short."""
NULL_TOLERANCE = 1e4
"""Units in the last place of the largest logit that a null intervention may move a logit."""
CONTROL = Metric("logits of both answers", lambda logits, _: logits.sum(-1), reads="answers")


@dataclass(frozen=True, eq=False)
class Sweep:
    """A list of cells and everything that their numbers depend on.

    Attributes:
        method: the word in the `method` column.
        base: the run that is intervened on.
        memory: bytes that the run may hold beside the weights; None takes 1 GiB, or a quarter
            of what is free if that is less.
        checkpoint: a folder for finished batches; a run that was killed goes on from there.
    """

    model: Model
    pairs: Pairs
    cells: Sequence[Cell]
    method: str
    base: Side
    metric: Metric
    engine: EngineName = "auto"
    memory: int | None = None
    checkpoint: Path | None = None


@torch.inference_mode()
def run(sweep: Sweep) -> Results:
    """Run a sweep and return one row for each cell and example.

    Raises:
        ModelError: a submodule is in training mode.
        PairsError, Unsupported: pairs or a question that the model or the engine has no answer to.
        MetricError: the metric is not one finite float per example.
        InterpError: intervening with a run's own values changed the metric (null control).
        ResultsError: the checkpoint folder cannot be written.
    """
    engine = choose(sweep.model, sweep.engine, prefix=sweep.pairs.decoder)
    accept(sweep.model, sweep.pairs, sweep.metric)
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
    _require_finite_values(cells)
    references = _references(sweep, engine)
    base = np.full(len(pairs), np.nan)
    values = np.full((len(cells), len(pairs)), np.nan)
    null = 0.0
    block: _Block | None = None
    with tqdm(
        total=len(cells) * len(pairs), desc=sweep.method, unit="run", delay=2, disable=None
    ) as bar:
        for batch in plan.batches:
            rows = list(batch.rows)
            store = Store(sweep.checkpoint, _key(sweep, engine, batch))
            found = store.load()
            if found is None:
                if block is None or block.rows != batch.rows:
                    block = None  # its traces go before the next ones come
                    block = _Block(sweep, engine, batch.rows, references)
                    if np.isnan(base).all():
                        null = _null(block, cells, batch, plan.budget)
                ran = _halving(partial(block.run, cells), batch, plan.budget)
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


T = TypeVar("T")


def _null(block: "_Block", cells: Sequence[Cell], batch: Batch, budget: int) -> float:
    """The null control of a batch, of one cell where the memory does not last for three."""
    found = _fitting(partial(block.null, cells, batch), batch, budget)
    if found is not None:
        return found
    return _null(block, cells, replace(batch, cells=batch.cells[:1]), budget)


def _fitting(call: Callable[[], T], batch: Batch, budget: int) -> T | None:
    """Run something; None where the memory does not last and fewer cells could help.

    Raises:
        InterpError: not even one cell fits.
    """
    try:
        return call()
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and "allocate memory" not in str(error):
            raise
        if len(batch.cells) > 1:
            return None
        raise InterpError(
            f"out of memory with a single cell of {len(batch.rows)} prompts (estimated "
            f"{batch.bytes / 1e6:.0f} MB beside the weights and the traces; the budget was "
            f"{budget / 1e6:.0f} MB). Fewer prompts run together in a smaller budget: give "
            f"memory={budget // 2}, or free memory."
        ) from error


def _halving(
    run: Callable[[Batch], Float[np.ndarray, "cells batch"]], batch: Batch, budget: int
) -> Float[np.ndarray, "cells batch"]:
    """Run a batch, in halves where the memory does not last."""
    found = _fitting(partial(run, batch), batch, budget)
    if found is not None:
        return found
    half = len(batch.cells) // 2
    parts = (replace(batch, cells=c) for c in (batch.cells[:half], batch.cells[half:]))
    return np.concatenate([_halving(run, part, budget) for part in parts])


def _require_finite_values(cells: Sequence[Cell]) -> None:
    for cell in cells:
        for i in cell.interventions:
            source = i.value.source
            if isinstance(source, Tensor) and not source.isfinite().all():
                row = (~source.isfinite()).nonzero()[0, 0].item()
                raise InterpError(
                    f"the value given for '{i.site}' holds NaN or infinity, first in row {row}; "
                    "every number after it would. Look at how it was made."
                )


def _unnormalised(cells: Sequence[Cell]) -> dict[str, bool]:
    """For the provenance: attention patterns need not sum to 1 here."""
    kinds = [i.site.kind for c in cells for i in c.interventions if not i.normalise]
    return {"unnormalised_patterns": True} if "pattern" in kinds else {}


class _Block:
    """Rows of one length: their traces, and what turns interventions into edits."""

    def __init__(
        self,
        sweep: Sweep,
        engine: Engine,
        rows: tuple[int, ...],
        references: dict[Averaged, MeanReference],
    ) -> None:
        self.sweep, self.engine, self.rows, self.references = sweep, engine, rows, references
        pairs, device = sweep.pairs, sweep.model.device
        index = list(rows)
        self.length = int(pairs.lengths[index[0]])
        self.groups: list[Group] = [(pairs.cluster[i], self.length) for i in index]
        self.tokens = {
            side: getattr(pairs, side)[index, : self.length].to(device)
            for side in ("clean", "corrupt")
        }
        self.traces: dict[str, Trace] = {
            side: engine.trace(self.tokens[side], keep=keep)
            for side, keep in sorted(_kinds(sweep).items())
        }
        for side, trace in self.traces.items():
            _require_finite(trace, rows, side)
        read = reading(sweep.model.facts, pairs, sweep.metric, rows).to(device)
        answers = Answers(pairs.correct[index].to(device), pairs.wrong[index].to(device))
        self.score = Score(sweep.metric, answers, read)
        if sweep.metric.needs_reference:
            clean = self.traces.get("clean") or engine.trace(self.tokens["clean"], keep=())
            answers = replace(answers, reference=engine.found(clean, self.score))
            self.score = replace(self.score, answers=answers)

    @property
    def base(self) -> Trace:
        return self.traces[self.sweep.base]

    def plain(self) -> Float[np.ndarray, " batch"]:
        """The metric of the run that is intervened on."""
        return self.engine.plain(self.base, self.score).double().cpu().numpy()

    def run(self, cells: Sequence[Cell], batch: Batch) -> Float[np.ndarray, "cells batch"]:
        """The metric of the batch's cells."""
        return self._run([cells[i] for i in batch.cells], batch, self.score)

    def null(self, cells: Sequence[Cell], batch: Batch) -> float:
        """Largest effect of giving sites of the batch the values that they have anyway.

        Judged by the logits of the answers: a rank or an accuracy jumps at the least noise.

        Raises:
            InterpError: the logits move by more than float noise.
        """
        chosen = sorted({batch.cells[i * (len(batch.cells) - 1) // 2] for i in range(3)})
        frozen = [
            Cell(
                name=cells[i].name,
                position=cells[i].position,
                interventions=tuple(replace(x, value=Freeze()) for x in cells[i].interventions),
                hops=cells[i].hops,
            )
            for i in chosen
        ]
        effect = np.abs(self._run(frozen, batch, self.score) - self.plain())
        control = self.score
        if control.metric.reads != "embedding":
            control = replace(control, metric=CONTROL, answers=self._two_logits())
        plain = self.engine.plain(self.base, control).double().cpu().numpy()
        moved = float(np.abs(self._run(frozen, batch, control) - plain).max())
        noise = torch.finfo(self.sweep.model.dtype).eps * max(1.0, float(np.abs(plain).max()))
        if moved > NULL_TOLERANCE * noise:
            raise InterpError(
                f"null control failed: giving {', '.join(c.name for c in frozen)} the values "
                f"of the run itself moved the logits by {moved:.2e}, more than float noise. The "
                f"{self.engine.name} engine is wrong on this model; use the other one."
            )
        return float(effect.max())

    def _run(
        self, cells: Sequence[Cell], batch: Batch, score: Score
    ) -> Float[np.ndarray, "cells batch"]:
        try:
            return self._measure(cells, batch, score)
        except MetricError as error:
            if found := self._not_finite(cells, batch):
                raise MetricError(f"{found} ({error})") from error
            raise

    def _not_finite(self, cells: Sequence[Cell], batch: Batch) -> str:
        """Where a cell first leaves the finite numbers, in words; nothing if it does not."""
        if not isinstance(self.engine, Replay):
            return ""
        for cell in cells:
            try:
                self._measure([cell], batch, replace(self.score, metric=CONTROL), watch=True)
            except NotFinite as bad:
                return (
                    f"under the intervention on {cell.name}, {bad.site} is the first to hold NaN "
                    f"or infinity, in prompt {self.rows[bad.row]}. Likely its value is far out of "
                    "range for the model's precision"
                )
            except MetricError:
                continue
        return ""

    def _measure(
        self, cells: Sequence[Cell], batch: Batch, score: Score, *, watch: bool = False
    ) -> Float[np.ndarray, "cells batch"]:
        sweep, device = self.sweep, self.sweep.model.device
        receiving, starts = route(sweep.model.facts, sweep.pairs, cells[0], self.rows, sweep.metric)
        values = self.engine.run(
            self.base,
            self.tokens[self.sweep.base],
            [[self._edit(i) for i in cell.interventions] for cell in cells],
            route=Route(cells[0].hops, tuple(x.to(device) for x in receiving), starts),
            score=score,
            watch=watch,
        )
        return values.double().cpu().numpy()

    def _edit(self, intervention: Intervention) -> Edit:
        site, value = intervention.site, intervention.value
        mask = places(self.sweep.pairs, intervention.positions, self.rows, site)
        source = value.source
        found: Tensor | None = None
        if isinstance(source, Averaged):
            found = self.references[source].at(site, self.groups).to(self.base.final)
        elif isinstance(source, Tensor):
            found = source[list(self.rows), : mask.shape[1]].to(self.base.final)
            found = found[..., : self.length] if site.kind == "pattern" else found
        elif source is not None:
            found = (self.base if source == "base" else self.traces[source]).at(site)
        mask = mask.to(self.base.final.device)
        return Edit(site, value, mask, found, intervention.readers, intervention.normalise)

    def _two_logits(self) -> Answers:
        """The logits that the null control is judged by; any two where there are no answers."""
        answers = self.score.answers
        if bool((answers.correct >= 0).all()):
            return answers
        return Answers(torch.zeros_like(answers.correct), torch.ones_like(answers.wrong))


def _require_finite(trace: Trace, rows: Sequence[int], side: str) -> None:
    """Refuse a plain run that holds NaN or infinity anywhere.

    Raises:
        ModelError: naming the first site and prompt.
    """
    if trace.final.isfinite().all():
        return
    layered = {kind: layers for kind, layers in trace.kept.items() if layers}
    for layer in range(trace.facts.n_layers):
        for kind in (kind for kind in KINDS if kind in layered):
            bad = ~layered[kind][layer].isfinite().flatten(1).all(1)
            if bad.any():
                row = rows[int(bad.int().argmax())]
                raise ModelError(
                    f"the {side} run holds NaN or infinity: first in {kind} of layer {layer}, "
                    f"prompt {row}. Likely the weights are damaged, or {trace.final.dtype} is too "
                    "narrow for this model: load it with dtype=torch.float32."
                )


def _kinds(sweep: Sweep) -> dict[str, tuple[Kind, ...]]:
    """The runs that a sweep takes values from, with the kinds that their traces must hold."""
    needed: dict[str, set[Kind]] = {sweep.base: set()}
    for cell in sweep.cells:
        for i in cell.interventions:
            source = i.value.source
            if isinstance(source, str):
                needed.setdefault(sweep.base if source == "base" else source, set()).add(
                    i.site.kind
                )
    needed[sweep.base] |= {
        i.site.kind for c in sweep.cells for i in c.interventions
    }  # null control
    large = ("pattern", "mlp_act")
    return {
        side: (*KEPT, *(kind for kind in large if kind in wanted))
        for side, wanted in needed.items()
    }


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


def _key(sweep: Sweep, engine: Engine, batch: Batch) -> list[object]:
    """Everything that the numbers of a batch depend on."""
    metric = sweep.metric
    return [
        *(sweep.model.weight_hash, str(sweep.model.dtype), sweep.pairs.fingerprint),
        *(engine.name, sweep.method, sweep.base, batch.rows),
        *(metric.name, metric.position, metric.reads, function_identity(metric.fn)),
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
