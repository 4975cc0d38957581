"""Run a list of cells: traces once, batches by plan, one number per cell and example."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, ParamSpec

import numpy as np
import pandas as pd
import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.errors import InterpError
from interp.core.metrics import Answers, Metric
from interp.core.pairs import Pairs
from interp.core.results import COLUMNS, Results
from interp.core.sites import KINDS, Kind, Site
from interp.engine import means
from interp.engine.checkpoint import Store, cell_identity, function_identity
from interp.engine.edits import Edit
from interp.engine.engines import Engine, EngineName, Route, accept, choose
from interp.engine.interventions import Cell, Freeze, Intervention, Reference
from interp.engine.means import Group, Means
from interp.engine.plan import Batch, Plan, blocks, make_plan, places, reading, route
from interp.engine.provenance import provenance
from interp.engine.score import Score
from interp.engine.trace import KEPT, Trace
from interp.models.model import Model

Side = Literal["clean", "corrupt"]
DEFAULT_MEMORY = 1 << 30
"""Bytes; more makes no sweep faster, so free memory decides only when it is short."""
NULL_TOLERANCE = 1e4
"""Units in the last place of the largest logit that a null intervention may move a logit."""
CONTROL = Metric("logits of both answers", lambda logits, _: logits.sum(-1), reads="answers")

P = ParamSpec("P")


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


class _Planned(Exception):
    """Carries the plan out of a method that was asked to explain itself."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan


_explaining: ContextVar[bool] = ContextVar("explaining", default=False)


def explain(method: Callable[P, Results], /, *args: P.args, **kwargs: P.kwargs) -> Plan:
    """What a call would do, without doing it: `print(explain(ablate, model, pairs, "heads"))`.

    Returns:
        The plan: cells, layers and positions that are re-run, stacked batches, peak bytes,
        FLOPs against one full forward for each cell.
    """
    token = _explaining.set(True)
    try:
        method(*args, **kwargs)
    except _Planned as planned:
        return planned.plan
    finally:
        _explaining.reset(token)
    raise InterpError(
        f"{getattr(method, '__name__', method)} runs no sweep of interventions, so there is no "
        "plan; explain() takes ablate, patch or path_patch."
    )


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
    if _explaining.get():
        raise _Planned(plan)
    references = _references(sweep, engine, plan.budget)
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
                        null = block.null(cells, batch)
                found = np.concatenate([block.plain()[None], block.run(cells, batch)])
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
    )
    return Results(_table(sweep, engine.name, base, values), note)


class _Block:
    """Rows of one length: their traces, and what turns interventions into edits."""

    def __init__(
        self,
        sweep: Sweep,
        engine: Engine,
        rows: tuple[int, ...],
        references: dict[Reference, Means],
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
        sweep, device = self.sweep, self.sweep.model.device
        receiving, starts = route(sweep.model.facts, sweep.pairs, cells[0], self.rows, sweep.metric)
        values = self.engine.run(
            self.base,
            self.tokens[self.sweep.base],
            [[self._edit(i) for i in cell.interventions] for cell in cells],
            route=Route(cells[0].hops, tuple(x.to(device) for x in receiving), starts),
            score=score,
        )
        return values.double().cpu().numpy()

    def _edit(self, intervention: Intervention) -> Edit:
        site, value = intervention.site, intervention.value
        mask = places(self.sweep.pairs, intervention.positions, self.rows, site)
        source = value.source
        found: Tensor | None = None
        if isinstance(source, Reference):
            found = self.references[source].at(site, self.groups)
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


def _references(sweep: Sweep, engine: Engine, budget: int) -> dict[Reference, Means]:
    """Each mean reference of the sweep, averaged once."""
    kinds: dict[Reference, set[Kind]] = {}
    for cell in sweep.cells:
        for intervention in cell.interventions:
            source = intervention.value.source
            if isinstance(source, Reference):
                kinds.setdefault(source, set()).add(_kept(intervention.site))
    found = {}
    for reference, wanted in kinds.items():
        pairs = reference.pairs
        tokens: Int[Tensor, "batch pos"] = getattr(pairs, reference.side)
        parts = [
            (
                [(pairs.cluster[i], int(pairs.lengths[i])) for i in rows],
                tokens[rows, : int(pairs.lengths[rows[0]])].to(sweep.model.device),
            )
            for rows in blocks(pairs.lengths, 64)
        ]
        keep = tuple(kind for kind in KINDS if kind in wanted)
        found[reference] = means.collect(
            parts,
            lambda tokens, keep: engine.trace(tokens, keep=keep),
            kinds=keep,
        )
    return found


def _kept(site: Site) -> Kind:
    return "resid_pre" if site.kind in ("embed", "resid_post") else site.kind


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
