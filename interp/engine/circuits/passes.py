"""Rows of one length, and the cells that go up them together, each with a mask over all edges."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeGuard

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.metrics import Metric
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs, Side
from interp.engine.circuits import masked
from interp.engine.circuits.constants import Constants
from interp.engine.circuits.masks import Masks, classes, held_at
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.protocol import Engine, EngineName
from interp.engine.engines.replay.engine import Replay
from interp.engine.engines.resolution import resolution
from interp.engine.interventions import Averaged
from interp.engine.limits import Limits
from interp.engine.network import forward
from interp.engine.network.ablated import Ablated
from interp.engine.network.trace import Held, Trace, take
from interp.engine.plain.means.means import MeanReference, taken
from interp.engine.plan import operations as ops
from interp.engine.plan.batches import Batch, Plan
from interp.engine.plan.cost import circuit_flops, forward_flops, trace_bytes
from interp.engine.plan.positions import blocks
from interp.engine.plan.score import Readout, Score
from interp.models.bridge.precision import rounding
from interp.models.model import Model

FEW = 2
"""Prompts that the null control runs."""
Taken = MeanReference | Constants | None
OTHER: Mapping[Side, Side] = {"clean": "corrupt", "corrupt": "clean"}


def able(engine: Engine) -> TypeGuard[Replay]:
    """Can cells go up with masks on this model?"""
    return isinstance(engine, Replay) and masked.servable(engine.weights)


def served(model: Model, pairs: Pairs, metrics: Sequence[Metric], engine: EngineName) -> Engine:
    """The engine of circuits; whether it can run masks is what `able` says.

    Raises:
        ModelError, PairsError, Unsupported: what no engine can run.
    """
    for metric in metrics:
        accept(model, pairs, metric)
    return choose(model, engine, longest=pairs.longest)


def averaged_now(masks: Masks, model: Model, engine: Engine, pairs: Pairs) -> Taken:
    """The source of masks, averaged at the writers that some cell lacks."""
    if not isinstance(masks.source, Averaged):
        return masks.source
    return taken(masks.source, model, engine, masks.lacked, pairs)


class Passes:
    """Rows of one length: the run that cells start from, what is put in the place of what is cut.

    Attributes:
        clean: of the run that is intervened on.
        which, kinds: the classes of positions.
        start: the first position at which the two runs differ, or that is read.
    """

    def __init__(
        self,
        model: Model,
        pairs: Pairs,
        metrics: Sequence[Metric],
        masks: Masks,
        engine: Replay,
        rows: Sequence[int],
        source: Taken,
        *,
        side: Side = "clean",
    ) -> None:
        self.model, self.pairs, self.masks, self.engine = model, pairs, masks, engine
        self.metrics, self.source, self.side = metrics, source, side
        self.w, self.rows, index = engine.weights, tuple(rows), list(rows)
        self.length = int(pairs.lengths[index[0]])
        self.tokens, other = (
            getattr(pairs, one)[index, : self.length].to(model.device)
            for one in (side, OTHER[side])
        )
        self.clean = engine.trace(self.tokens, keep=("k", "v", "z", "mlp_out"))
        if not self.clean.final.isfinite().all():
            raise InterpError(
                f"the {side} run holds NaN or infinity in the final residual stream of the prompts "
                f"{index[:3]}.... Likely the weights are damaged; look with interp.evaluate."
            )
        self.resampled = masks.ablation == "resample"
        self.ablated, run = self._ablated(other)
        which, kinds = classes(pairs, masks.places, index)
        self.which, self.kinds = which, kinds.to(model.device)
        readout = Readout.of_rows(model, pairs, metrics, index)
        if any(metric.needs_reference for metric in metrics):
            said = self.clean if side == "clean" else run or engine.trace(other, keep=())
            readout = readout.referring(partial(engine.found, said))
        self.readout = readout
        self.start = 0
        if self.resampled and model.facts.causal:
            differ = (self.tokens != other).int()
            first = torch.where(differ.any(1), differ.argmax(1), self.length)
            self.start = min(int(first.min()), int(self.readout.read.min()))
        self.base = engine.plain(self.clean, self.readout).double().cpu().numpy()

    def plain(self) -> Float[ndarray, "metrics batch"]:
        """The metrics of the run that is intervened on."""
        return self.base

    def resolution(self) -> Float[ndarray, " metrics"]:
        """What rounding alone does to each metric."""
        return resolution(self.model, self.pairs, self.side, self.rows, self.readout, self.base)

    def final(
        self, kept: Bool[ndarray, "cell class reader writer"], *, reuse: bool = True
    ) -> Float[Tensor, "cell batch read d_model"]:
        """The final residual stream of each cell, where the metrics read."""
        return masked.run(
            self.w,
            self.masks.wiring,
            kept,
            clean=self.clean,
            ablated=self.ablated,
            tokens=self.tokens,
            classes=self.kinds,
            read=self.readout.read,
            start=self.start,
            resampled=self.resampled,
            reuse=reuse,
        )

    def measured(
        self, final: Float[Tensor, "cell batch read d_model"]
    ) -> Float[Tensor, "metric cell batch"]:
        """The metrics of final residual streams."""
        return self.readout.of_final(final, self._unembed, self.w.facts.d_vocab)

    def _unembed(
        self, score: Score, place: slice, resid: Tensor, columns: Tensor | None, at: slice
    ) -> Tensor:
        return forward.unembed(self.w, resid, columns)

    def run(self, batch: Batch) -> Float[ndarray, "metrics cells batch"]:
        """The metrics of the batch's cells."""
        kept = self.masks.by_class(self.which, batch.cells)
        return self.measured(self.final(kept)).double().cpu().numpy()

    def null(self, batch: Batch) -> float:
        """Largest change of a metric in the model with all of its edges, in a few of the rows.

        Raises:
            InterpError: the final residual stream moves by more than float noise.
        """
        few = self
        if len(self.rows) > FEW:
            few = Passes(
                self.model,
                self.pairs,
                self.metrics,
                self.masks,
                self.engine,
                self.rows[:FEW],
                self.source,
                side=self.side,
            )
        return few._whole()

    def _whole(self) -> float:
        feeds = self.masks.wiring.graph.feeds
        full = np.broadcast_to(feeds, (1, self.which.shape[1], *feeds.shape)).copy()
        final = self.final(full, reuse=False)
        plain = take(self.clean.final, self.readout.read)
        moved = float((final[0] - plain).abs().max() / plain.abs().max())
        # every reader's sum is added up in another order than in the clean run
        if not moved <= rounding(self.model.dtype) * self.w.facts.n_layers:
            raise InterpError(
                f"null control failed: the circuit of all edges moved the final residual stream by "
                f"{moved:.1e} of its size, more than float noise. The masked pass is wrong on this "
                "model; use engine='hooks'."
            )
        effect = self.measured(final)[:, 0].double().cpu().numpy() - self.base
        return float(np.abs(effect).max())

    def _ablated(self, other: Tensor) -> tuple[Ablated, Trace | None]:
        """What is put in the place of each writer's value, and the run that it is of."""
        source, like = self.source, forward.embed(self.w, self.tokens)
        if isinstance(source, Constants):
            return source.ablated(like), None
        if isinstance(source, MeanReference):
            return self._means(source, like), None
        if self.resampled:
            run = self.engine.trace(other, keep=("z", "mlp_out"))
            return Ablated.of_run(forward.embed(self.w, other), run), run
        return Ablated.zeros(self.model.facts, like), None

    def _means(self, source: MeanReference, like: Tensor) -> Ablated:
        """Means where some cell lacks a writer; elsewhere nothing stands in its place."""
        facts, cut = self.model.facts, {*self.masks.lacked}
        groups = [(self.pairs.template[i], self.length) for i in self.rows]

        def mean(site: Site) -> Tensor:
            if site in cut:
                return source.at(site, groups).to(like)
            width = facts.d_head if site.kind == "z" else facts.d_model
            return like.new_zeros(len(groups), self.length, width)

        return Ablated.at_each(facts, mean)


def plan_passes(masks: Masks, model: Model, pairs: Pairs, *, room: int) -> Plan:
    """Rows of one length together, and as many cells at a time as the memory lasts for."""
    facts, n, batches = model.facts, len(masks), []
    limits, itemsize = Limits.of(model.device), model.dtype.itemsize
    most = limits.wave_tokens(facts.d_model)
    row = row_bytes(masks, model, pairs)
    for rows in blocks(pairs.extents, max(1, room // 2 // row)):
        length = int(pairs.lengths[rows[0]])
        size = min(room // 2 // (row * len(rows)), most // (len(rows) * length))
        size = max(1, size)
        for first in range(0, n, size):
            cells = tuple(range(first, min(first + size, n)))
            held = row * len(rows) * len(cells)
            flops = circuit_flops(facts, length) * len(rows) * len(cells)
            layers = (0, facts.n_layers - 1)
            ran = ops.masked_run(facts, length, len(rows) * len(cells), itemsize, limits)
            batches.append(Batch(tuple(rows), cells, 0, length, layers, held, flops, **ran))
    edges = int(np.where(masks.lacking, *_counts(masks)).max(initial=0))
    full = sum(forward_flops(facts, length) for length in pairs.lengths.tolist())
    note = f"one masked pass a batch, of cells that lack up to {edges} edges"
    return Plan(tuple(batches), room, full * n, facts, "replay", 2 * row, note)


def _counts(masks: Masks) -> tuple[ndarray, ndarray]:
    feeds = masks.wiring.graph.feeds
    return masks.kept.sum((1, 2, 3)), (feeds & ~masks.kept).sum((1, 2, 3))


def row_bytes(masks: Masks, model: Model, pairs: Pairs) -> int:
    """One row of one cell: a change for each writer where edges are kept, streams, scores, its
    share of traces.
    """
    facts: Facts = model.facts
    length, itemsize = pairs.longest, model.dtype.itemsize
    limits = Limits.of(model.device)
    changes = len(masks.wiring.graph.writers) * _held(masks, pairs)
    wide = (changes + (3 * facts.n_heads + 12) * length) * facts.d_model
    wide += 4 * facts.d_mlp * min(length, limits.mlp_tokens(facts.d_mlp))
    wide += 4 * min(facts.n_heads * length * length, limits.scores)
    held = (("k", "v", "z", "mlp_out"), ("z", "mlp_out"))
    traces = (Held.whole(kinds, facts.n_layers) for kinds in held)
    return max(itemsize, 4) * wide + sum(
        trace_bytes(facts, length, itemsize, trace) for trace in traces
    )


def _held(masks: Masks, pairs: Pairs) -> int:
    """The most positions of a row at which some cell keeps an edge."""
    if masks.lacking.any() or not len(masks):
        return pairs.longest
    used = masks.kept.any((0, 2, 3))
    places = [place for place, on in zip(masks.places, used, strict=True) if on]
    by_length = blocks(pairs.extents, len(pairs))
    return max((held_at(pairs, places, rows) for rows in by_length), default=0) if places else 0
