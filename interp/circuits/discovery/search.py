"""The search of ACDC: reader by reader from the logits, one edge after the other, many at once."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from tqdm.auto import tqdm

from interp.core.errors import InterpError
from interp.engine.checkpoint import Finished, begin, metric_identity
from interp.engine.circuits.masks import Masks, nothing
from interp.engine.circuits.onward import Onward
from interp.engine.circuits.passes import Passes, able, averaged_now, served
from interp.engine.circuits.wiring import Wiring
from interp.engine.interventions import Cell
from interp.engine.limits import Limits
from interp.engine.plan import operations as ops
from interp.engine.plan.batches import Batch, Plan
from interp.engine.plan.cost import forward_flops
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import KEEP, budget, free, require
from interp.engine.plan.positions import blocks, lengths_in
from interp.engine.sweep.run import measure
from interp.engine.sweep.sweep import Sweep

Test = Callable[[Bool[ndarray, "cell place writer"]], Float[ndarray, "cell example"]]
FIRST = 8
"""Tests in the first pass of a reader; twice as many in the next as held in the last."""


def settle(
    run: Test,
    kept: Bool[ndarray, "place writer"],
    candidates: Sequence[tuple[int, int]],
    now: Float[ndarray, " example"],
    *,
    cuts: Callable[[float], bool],
    width: int,
    likely: bool = True,
) -> tuple[
    Bool[ndarray, "place writer"],
    Float[ndarray, " example"],
    Float[ndarray, "candidate example"],
    list[int],
]:
    """Cut one candidate after the other, where `cuts` says so of the mean change of the metric.

    Some are tested together, each without the earlier ones that are guessed to be cut. Results
    hold up to the first wrong guess; the later ones of the same pass are the next guesses.

    Args:
        run: the metric for each set of edges that is kept.
        now: the metric before any of them is cut.
        width: how many to test together at most.
        likely: the first guess: are they cut?

    Returns:
        What is kept, the metric then, its change with each candidate, and the sizes of the passes.
    """
    n, start, size, passes = len(candidates), 0, FIRST, []
    guess = np.full(n, likely)
    changes = np.zeros((n, len(now)))
    while start < n:
        chosen = slice(start, min(start + size, start + width, n))
        cells, before, current, last = [], [], kept, 0
        for number, candidate in enumerate(candidates[chosen], start=1):
            cell = current.copy()
            cell[candidate] = False
            cells.append(cell)
            before.append(last)
            if guess[start + number - 1]:
                current, last = cell, number
        lines = np.vstack([now, run(np.stack(cells))])
        passes.append(len(cells))
        change = lines[1:] - lines[before]
        cut = np.array([cuts(float(mean)) for mean in change.mean(1)])
        wrong = np.flatnonzero(cut != guess[chosen])
        done = int(wrong[0]) + 1 if len(wrong) else len(cells)
        size = 2 * done  # what comes after a wrong guess is lost
        guess[chosen] = cut
        changes[start : start + done] = change[:done]
        for number in np.flatnonzero(cut[:done]):
            kept, now = cells[number], lines[number + 1]
        start += done
    return kept, now, changes, passes


class Search:
    """The cuts so far, reader by reader from the logits.

    Args:
        job: model, pairs, places, ablation and metric; its circuits are not looked at.
        harm: 1 where a higher metric is worse, else -1.

    Raises:
        InterpError: the clean runs do not fit into the memory, one test does not into `memory`, or
            the threshold is NaN.
    """

    def __init__(self, job: Sweep, threshold: float, harm: int) -> None:
        if np.isnan(threshold):
            raise InterpError("threshold=nan: nothing is less than it, so nothing would be cut")
        assert job.masks is not None
        self.job, self.masks, self.wiring = job, job.masks, job.masks.wiring
        self.graph = self.wiring.graph
        self.threshold, self.harm = threshold, harm
        shape = (len(self.masks.places), *self.graph.feeds.shape)
        self.kept = np.broadcast_to(self.graph.feeds, shape).copy()
        self.changes = np.zeros((*shape, len(job.pairs)))
        self.begun = [] if job.checkpoint is None else begin(job.model)
        self.runs = self.waves = 0
        self.likely = True
        self.blocks: list[tuple[list[int], Onward]] = []
        proceed(_plan(job, self.masks))
        engine = served(job.model, job.pairs, job.metrics, job.engine)
        self.moves = np.ones((shape[0], shape[2]), dtype=bool)
        self.engine = engine.name
        if not able(engine):
            self.now, self.width = self._measured(self.kept[None])[0], 64
            return
        source = averaged_now(self.masks, job.model, engine, job.pairs)
        _require_room(job, self.wiring)
        device, one = job.model.device, Onward.bytes_of(job.model, job.pairs, self.wiring)
        room, what = (
            budget(job.memory, device, KEEP),
            f"one test of acdc in {len(job.pairs)} prompts",
        )
        room = require(one, room, job.memory, device, what)
        # more is no faster (measured on a processor)
        most = 2 * Limits.of(device).wave_tokens(job.model.facts.d_model)
        for rows in blocks(job.pairs.extents, len(job.pairs)):
            held = Passes(job.model, job.pairs, job.metrics, self.masks, engine, rows, source)
            self.blocks.append((rows, Onward(held)))
        self.width = max(1, min(room // one, most // int(job.pairs.lengths.sum())))
        self.moves = np.any([suffix.moves() for _, suffix in self.blocks], 0)
        self.now = np.empty(len(job.pairs))
        for rows, suffix in self.blocks:
            self.now[rows] = suffix.rows.base[0]

    def cuts(self, change: float) -> bool:
        """Is an edge cut if the mean of the metric changes by so much without it?"""
        return self.harm * change < self.threshold

    def go(self) -> None:
        readers = range(len(self.graph.readers))
        for row in tqdm(readers[::-1], desc="acdc", unit="reader", delay=2, disable=None):
            self.reader(row)

    def reader(self, row: int) -> None:
        """Decide on all edges into a reader."""
        fed = self.graph.feeds[row]
        heard = self.wiring.read(self.kept.any(0)[None])[0]
        lost = not self._node(row, heard)
        idle = fed & (~self.moves | lost)
        if self.cuts(0.0):
            self.kept[:, row] &= ~idle
        candidates = [
            (place, int(writer))
            for writer in np.flatnonzero(fed)[::-1]
            for place in range(len(self.kept))
            if not idle[place, writer]
        ]
        if candidates:
            self._decide(row, candidates, self._run(row, heard))
        for _, suffix in self.blocks:
            suffix.settle(row, self.kept[:, row])

    def _decide(self, row: int, candidates: Sequence[tuple[int, int]], run: Test) -> None:
        """Test the edges into a reader, or read what an earlier run found."""
        places, writers = np.array(candidates).T
        store = Finished(self.job.checkpoint, self._key(row) if self.begun else ())
        lines = store.load()
        if lines is None:
            kept, now, changes, passes = settle(
                run,
                self.kept[:, row],
                candidates,
                self.now,
                cuts=self.cuts,
                width=self.width,
                likely=self.likely,
            )
            first = [0, *kept[places, writers]]
            lines = store.save(np.column_stack([first, np.vstack([now, changes])]))
            self.runs, self.waves = self.runs + sum(passes), self.waves + len(passes)
        self.kept[places, row, writers] = lines[1:, 0] > 0
        self.now, self.changes[places, row, writers] = lines[0, 1:], lines[1:, 1:]
        self.likely = bool(lines[1:, 0].mean() < 0.5)

    def _key(self, row: int) -> list[object]:
        """Everything that the decisions about a reader depend on."""
        job, metric = self.job, self.job.metrics[0]
        return [
            *(*self.begun, "acdc", job.pairs.fingerprint),
            *(*self.masks.key(()), self.engine),
            *metric_identity(metric),
            *(self.threshold, self.harm, row),
        ]

    def _node(self, row: int, heard: Bool[ndarray, " writer"]) -> bool:
        """Does a kept edge lead on from what reads here?"""
        behind = self.wiring.behind[row]
        return behind is None or bool(heard[behind].any())

    def _measured(
        self, kept: Bool[ndarray, "cell place reader writer"]
    ) -> Float[ndarray, "cell example"]:
        """The metric of circuits, each a run of its own."""
        none = nothing(self.job.model.facts)
        cells = [Cell(str(i), "all", (none,)) for i in range(len(kept))]
        return measure(replace(self.job, cells=cells, masks=self.masks.of(kept))).measured[0]

    def _run(self, row: int, heard: Bool[ndarray, " writer"]) -> Test:
        def run(
            cells: Bool[ndarray, "cell place writer"],
        ) -> Float[ndarray, "cell example"]:
            if not self.blocks:
                kept = np.broadcast_to(self.kept, (len(cells), *self.kept.shape)).copy()
                kept[:, :, row] = cells
                return self._measured(kept)
            values = np.empty((len(cells), len(self.now)))
            for rows, suffix in self.blocks:
                values[:, rows] = suffix.run(row, cells, heard)
            return values

        return run


def _plan(job: Sweep, masks: Masks) -> Plan:
    """At most one partial run for each edge and place, from its reader on."""
    facts, graph, pairs = job.model.facts, masks.wiring.graph, job.pairs
    full = sum(forward_flops(facts, length) for length in lengths_in(facts, pairs).tolist())
    every = facts.n_encoder_layers + facts.n_layers
    tests = flops = 0
    for row, site in enumerate(graph.readers):
        edges = int(graph.feeds[row].sum()) * len(masks.places)
        layers = 0 if site.layer is None else facts.n_layers - site.layer
        layers = every if site.stack == "enc" else layers
        tests, flops = tests + edges, flops + edges * full * layers // every
    rows, longest = tuple(range(len(pairs))), pairs.longest
    one = Onward.bytes_of(job.model, pairs, masks.wiring)
    held = Onward.held_by(job.model, pairs, masks.wiring) + one
    limits, itemsize = Limits.of(job.model.device), job.model.dtype.itemsize
    # the edges of one reader at a time, from its layer on: half of a pass
    ran = ops.masked_run(facts, longest, len(rows), itemsize, limits)
    ran = {name: len(graph.readers) * count // 2 for name, count in ran.items()}
    batch = Batch(rows, (), 0, longest, (0, facts.n_layers - 1), held, flops, tests, **ran)
    note = f"at most: {tests} edges are tested, fewer where cuts leave readers unheard"
    return Plan((batch,), 0, tests * full, facts, "replay", one, note)


def _require_room(job: Sweep, wiring: Wiring) -> None:
    """Refuse prompts whose clean runs cannot be held.

    Raises:
        InterpError: says how many bytes there are for how many prompts.
    """
    held = Onward.held_by(job.model, job.pairs, wiring)
    there = free(job.model.device)
    if held > there:
        raise InterpError(
            f"acdc holds what every writer writes and every reader reads in {len(job.pairs)} "
            f"prompts, {held / 1e6:.0f} MB, and {there / 1e6:.0f} MB are free on "
            f"{job.model.device}. Take fewer prompts (pairs.select)."
        )
