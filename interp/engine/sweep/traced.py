"""Rows of one length: their traces, and the metric of cells that start from them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError, MetricError, ModelError
from interp.core.metrics import METRICS, Answers, Metric
from interp.core.parts.sites import KINDS, Site
from interp.core.prompts.places import Place
from interp.engine.engines.protocol import Engine, NotFinite, Route
from interp.engine.engines.resolution import resolution
from interp.engine.interventions import Averaged, Cell, Freeze, Intervention
from interp.engine.network.trace import Trace, begins, shelf
from interp.engine.plain.means.means import Group, MeanReference
from interp.engine.plan.batches import Batch
from interp.engine.plan.before import controls
from interp.engine.plan.edits import STEPS, Edit
from interp.engine.plan.needed import needed, since
from interp.engine.plan.positions import decodes, ids_of, places, route
from interp.engine.plan.score import Readout, Score
from interp.engine.plan.values import rows_of
from interp.engine.sweep.sweep import Sweep

NULL_TOLERANCE = 16
"""Units in the last place of the largest logit that a null intervention may move a logit: what is
set is the value that stands there, so that honest runs move nothing at all."""
CONTROL = Metric("size of both logits", lambda logits, _: logits.norm(1, -1), reads="answers")
"""Not their sum, which may be near 0 where each of them is large."""


class Traced:
    """Rows of one length: their traces, and what turns interventions into edits."""

    def __init__(
        self,
        sweep: Sweep,
        engine: Engine,
        batches: Sequence[Batch],
        references: dict[Averaged, MeanReference],
    ) -> None:
        rows, first = batches[0].rows, min(batch.start for batch in batches)
        self.sweep, self.engine, self.rows, self.references = sweep, engine, rows, references
        pairs, device = sweep.pairs, sweep.model.device
        index = list(rows)
        groups = pairs.groups
        self.groups: list[Group] = [groups[i] for i in index]
        self.ids = {
            "clean": ids_of(pairs, "clean", index, device),
            "corrupt": ids_of(pairs, "corrupt", index, device),
        }
        cells = [sweep.cells[i] for batch in batches for i in batch.cells]
        held = needed(sweep.model.facts, cells, sweep.base, engine.name)
        held = since(held, engine.name, first)
        self.traces: dict[str, Trace] = {
            side: engine.trace(*self.ids[side], keep=keep) for side, keep in sorted(held.items())
        }
        for side, trace in self.traces.items():
            if not trace.final.isfinite().all():
                _refuse_infinite(engine.trace(*self.ids[side]), rows, side)
        readout = Readout.of_rows(sweep.model, pairs, sweep.metrics, rows)
        if any(metric.needs_reference for metric in sweep.metrics):
            clean = self.traces.get("clean") or engine.trace(*self.ids["clean"], keep=())
            readout = readout.referring(partial(engine.found, clean))
        self.readout = readout
        self._masks: dict[tuple[Place, bool], tuple[Tensor, bool]] = {}

    @property
    def base(self) -> Trace:
        return self.traces[self.sweep.base]

    def plain(self) -> Float[np.ndarray, "metrics batch"]:
        """The metrics of the run that is intervened on."""
        return self._plain

    @cached_property
    def _plain(self) -> Float[np.ndarray, "metrics batch"]:
        return self.engine.plain(self.base, self.readout).double().cpu().numpy()

    def run(self, batch: Batch) -> Float[np.ndarray, "metrics cells batch"]:
        """The metrics of the batch's cells."""
        return self._run([self.sweep.cells[i] for i in batch.cells], self.readout)

    def null(self, batch: Batch) -> float:
        """Largest effect of giving sites of the batch the values that they have anyway.

        Judged by the logits of the answers: a rank or an accuracy jumps at the least noise.

        Raises:
            InterpError: the logits move by more than float noise.
        """
        frozen = self._frozen(batch)
        return self._judged(frozen, self._run(frozen, self._both))

    def controlled(self, batch: Batch) -> tuple[Float[np.ndarray, "metrics cells batch"], float]:
        """What `run` and `null` say, of one wave.

        Raises:
            InterpError: as `null`.
            MetricError: as `run`, or if a cell's logits of the answers are not finite.
        """
        frozen, own = self._frozen(batch), [self.sweep.cells[i] for i in batch.cells]
        found = self._measure([*own, *frozen], self._both)
        null = self._judged(frozen, found[:, len(own) :])
        return found[: len(self.readout.scores), : len(own)], null

    def _frozen(self, batch: Batch) -> list[Cell]:
        """Some cells of a batch, whose sites are given the values that they have anyway."""
        cells = (self.sweep.cells[i] for i in controls(batch))
        return [
            Cell(
                name=cell.name,
                position=cell.position,
                interventions=tuple(replace(x, value=Freeze()) for x in cell.interventions),
                hops=cell.hops,
            )
            for cell in cells
        ]

    @cached_property
    def _both(self) -> Readout:
        """The metrics, and what the null control of each is judged by."""
        return Readout.of(*self.readout.scores, *map(_control, self.readout.scores))

    def _judged(
        self, frozen: Sequence[Cell], found: Float[np.ndarray, "metrics cells batch"]
    ) -> float:
        scores = self.readout.scores
        plain = self.engine.plain(self.base, self._both).double().cpu().numpy()
        moves = np.abs(found - plain[:, None])
        effect, moved = moves[: len(scores)], float(moves[len(scores) :].max())
        largest = max(1.0, float(np.abs(plain[len(scores) :]).max()))
        noise = torch.finfo(self.sweep.model.dtype).eps * largest
        if moved > NULL_TOLERANCE * noise:
            raise InterpError(
                f"null control failed: giving {', '.join(c.name for c in frozen)} the values "
                f"of the run itself moved the logits by {moved:.2e}, more than float noise. The "
                f"{self.engine.name} engine is wrong on this model; use the other one."
            )
        return float(effect.max())

    def resolution(self) -> Float[np.ndarray, " metrics"]:
        """What rounding alone does to each metric of the run that is intervened on."""
        sweep = self.sweep
        return resolution(
            sweep.model, sweep.pairs, sweep.base, self.rows, self.readout, self.plain()
        )

    def _run(
        self, cells: Sequence[Cell], readout: Readout
    ) -> Float[np.ndarray, "metrics cells batch"]:
        try:
            return self._measure(cells, readout)
        except MetricError as error:
            if found := self._not_finite(cells):
                raise MetricError(f"{found} ({error})") from error
            raise

    def _not_finite(self, cells: Sequence[Cell]) -> str:
        """Where a cell first leaves the finite numbers, in words; nothing if it does not."""
        if self.engine.name == "hooks":
            return ""
        control = Readout.of(*map(_control, self.readout.scores))
        for cell in cells:
            try:
                self._measure([cell], control, watch=True)
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
        self, cells: Sequence[Cell], readout: Readout, *, watch: bool = False
    ) -> Float[np.ndarray, "metrics cells batch"]:
        sweep, device = self.sweep, self.sweep.model.device
        receiving, starts = route(
            sweep.model.facts, sweep.pairs, cells[0], self.rows, sweep.metrics
        )
        tokens, written = self.ids[sweep.base]
        values = self.engine.run(
            self.base,
            tokens,
            [[self._edit(i) for i in cell.interventions] for cell in cells],
            route=Route(cells[0].hops, tuple(x.to(device) for x in receiving), starts),
            readout=readout,
            watch=watch,
            written=written,
        )
        return values.double().cpu().numpy()

    def _edit(self, intervention: Intervention) -> Edit:
        site, value = intervention.site, intervention.value
        mask, everywhere = self._mask(intervention.positions, site)
        source = value.source
        found: Tensor | None = None
        first = 0
        if isinstance(source, Averaged):
            found = self.references[source].at(site, self.groups).to(self.base.final)
        elif isinstance(source, Tensor):
            facts, pairs = self.sweep.model.facts, self.sweep.pairs
            found = rows_of(source, site, facts, pairs, self.rows, mask.shape[1])
            found = found.to(self.base.final)
        elif source is not None:
            run = self.base if source == "base" else self.traces[source]
            name = site.kind if site.stack is None else shelf(site)
            found, first = run.at(site), begins(name, run.first)
        seen = intervention.readers, intervention.normalise
        sinks = self.sweep.model.facts.sinks
        return Edit(site, value, mask, found, *seen, everywhere, first, sinks)

    def _mask(self, positions: Place, site: Site) -> tuple[Tensor, bool]:
        """The positions of a place where the model is, sent once, and whether they are all."""
        key = positions, decodes(site)
        if key not in self._masks:
            mask = places(self.sweep.pairs, positions, self.rows, site)
            self._masks[key] = mask.to(self.base.final.device), bool(mask.all())
        return self._masks[key]


def _control(score: Score) -> Score:
    """What the null control is judged by: smooth, and read where the metric is.

    Of the logits those of the answers, or any two; of running text the loss.
    """
    if score.metric.everywhere:
        loss = METRICS["next_token_loss"]
        return replace(score, metric=replace(loss, position=score.metric.position))
    if score.metric.reads == "embedding":
        return score
    answers = score.answers
    if not bool((torch.minimum(answers.correct, answers.wrong) >= 0).all()):
        ids = torch.zeros_like(answers.correct)
        answers = Answers(ids, ids + 1)
    control = replace(CONTROL, position=score.metric.position)
    return replace(score, metric=control, answers=answers)


def _refuse_infinite(trace: Trace, rows: Sequence[int], side: str) -> None:
    """Refuse a plain run that holds NaN or infinity at its end.

    Raises:
        ModelError: naming the first site and prompt.
    """
    layered = {name: layers for name, layers in trace.kept.items() if layers}
    for stack in ("enc.", "dec.") if trace.facts.n_encoder_layers else ("",):
        for layer, name in _in_order(stack, layered):
            bad = ~layered[name][layer].isfinite().flatten(1).all(1)
            if bad.any():
                row, kind = rows[int(bad.int().argmax())], name.removeprefix(stack)
                of = {"enc.": " of the encoder", "dec.": " of the decoder"}.get(stack, "")
                raise ModelError(
                    f"the {side} run holds NaN or infinity: first in {kind} of layer {layer}{of}, "
                    f"prompt {row}. Likely the weights are damaged, or {trace.final.dtype} is too "
                    "narrow for this model: load it with dtype=torch.float32."
                )


def _in_order(stack: str, layered: Mapping[str, Sequence[Tensor]]) -> Iterator[tuple[int, str]]:
    """Layers of a stack and what is held of each, in order of computation."""
    names = [f"{stack}{at}{kind}" for at in ("", "cross.") for kind in KINDS]
    held = [name for name in names if name in layered]
    held.sort(key=lambda name: STEPS.get(name.removeprefix(stack), -1))
    for layer in range(max((len(layered[name]) for name in held), default=0)):
        yield from ((layer, name) for name in held)
