"""Run models that consist of a circuit alone: rows of one length, a few circuits at a time.

Where what readers read is a plain sum, all circuits of a batch go up together
(`interp.engine.masked`); on other models each is a joint intervention (`interp.engine.outside`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.circuit import REST, Ablation
from interp.core.errors import InterpError
from interp.core.metrics import Metric
from interp.core.pairs import Pairs
from interp.core.sites import Site
from interp.engine import forward, masked
from interp.engine.block import NULL_TOLERANCE
from interp.engine.checkpoint import Store, function_identity
from interp.engine.collect.means import MeanReference, taken
from interp.engine.constants import Constants
from interp.engine.edits import take
from interp.engine.engines import EngineName, Replay, accept, choose
from interp.engine.fitting import halving
from interp.engine.flops import trace_bytes
from interp.engine.interventions import Averaged
from interp.engine.masked import Ablated
from interp.engine.plan import TOKENS_AT_ONCE, Batch, blocks
from interp.engine.run import DEFAULT_MEMORY
from interp.engine.score import Score
from interp.engine.trace import Trace
from interp.engine.wiring import Wiring
from interp.models.model import Model

FEW = 2
"""Prompts that the null control runs."""
Source = Averaged | Constants | None


@dataclass(frozen=True, eq=False)
class Isolation:
    """Circuits to be run by themselves, and everything that their numbers depend on.

    Attributes:
        kept: the edges of each circuit, at each place.
        lacking: is a circuit given by what it lacks? Then `kept` is what is cut, at its places.
        places: names of positions, "all" or "rest"; an edge that is kept at a place is kept at the
            positions that it names.
        source: whose mean, or which constants, take the place of the others.
    """

    model: Model
    pairs: Pairs
    wiring: Wiring
    kept: Bool[ndarray, "circuit place reader writer"]
    lacking: Bool[ndarray, " circuit"]
    places: tuple[str, ...]
    ablation: Ablation
    source: Source
    metrics: tuple[Metric, ...]
    engine: EngineName = "auto"
    memory: int | None = None
    checkpoint: Path | None = None

    def by_class(
        self, which: Bool[Tensor, "place class"], circuits: Sequence[int]
    ) -> Bool[ndarray, "circuit class reader writer"]:
        """What circuits keep at a class of positions: what they do at any place that names it."""
        chosen = list(circuits)
        given = self.kept[chosen]
        found = [given[:, which[:, k].numpy()].any(1) for k in range(which.shape[1])]
        cut = self.lacking[chosen, None, None, None]
        return self.wiring.graph.feeds & (np.stack(found, 1) ^ cut)


@dataclass(frozen=True, eq=False)
class Isolated:
    """The metrics of the full clean model and of each circuit by itself.

    Attributes:
        null: the largest change of a metric in the model with all of its edges.
    """

    base: Float[ndarray, "metric example"]
    found: Float[ndarray, "metric circuit example"]
    null: float
    engine: str


def classes(
    pairs: Pairs, places: Sequence[str], rows: Sequence[int]
) -> tuple[Bool[Tensor, "place class"], Int[Tensor, "batch pos"]]:
    """Positions that the same places name are of one class: which places, and which class each is.

    Raises:
        PositionError: a name that the pairs have not.
    """
    length = int(pairs.lengths[rows[0]])
    at = torch.arange(length).expand(len(rows), -1)
    index = list(rows)

    def named(place: str) -> Bool[Tensor, "batch pos"]:
        return at == pairs.at(place)[index, None]

    found = []
    for place in places:
        if place == "all":
            found.append(torch.ones_like(at, dtype=torch.bool))
        elif place == REST:
            found.append(~torch.stack([named(name) for name in pairs.positions]).any(0))
        else:
            found.append(named(place))
    which, number = torch.stack(found).flatten(1).unique(dim=1, return_inverse=True)
    return which, number.view(at.shape)


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
    with tqdm(total=n * len(pairs), desc="circuits", unit="run", delay=2, disable=None) as bar:
        for rows in blocks(pairs.lengths, max(1, budget // 2 // row)):
            size = budget // 2 // (row * len(rows))
            size = max(1, min(size, TOKENS_AT_ONCE // (len(rows) * int(pairs.lengths[rows[0]]))))
            block: Rows | None = None
            for first in range(0, max(n, 1), size):
                cells = tuple(range(first, min(first + size, n)))
                store = Store(job.checkpoint, _key(job, rows, cells) if job.checkpoint else ())
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


class Rows:
    """Rows of one length: the clean run, what is put in the place of what is cut, the metrics."""

    def __init__(
        self,
        job: Isolation,
        engine: Replay,
        rows: Sequence[int],
        source: MeanReference | Constants | None,
    ) -> None:
        self.job, self.w, index = job, engine.weights, list(rows)
        self.rows = tuple(index)
        model, pairs = job.model, job.pairs
        self.length = int(pairs.lengths[index[0]])
        clean, corrupt = (
            getattr(pairs, side)[index, : self.length].to(model.device)
            for side in ("clean", "corrupt")
        )
        self.tokens = clean
        self.clean = engine.trace(clean, keep=("k", "v", "z", "mlp_out"))
        if not self.clean.final.isfinite().all():
            raise InterpError(
                f"the clean run holds NaN or infinity in the final residual stream of the prompts "
                f"{index[:3]}.... Likely the weights are damaged; look with interp.evaluate."
            )
        self.resampled = job.ablation == "resample"
        self.ablated = _ablated(job, engine, clean, corrupt, index, source)
        which, kinds = classes(pairs, job.places, index)
        self.which, self.kinds = which, kinds.to(model.device)
        self.scores = [
            _with_reference(Score.of_rows(model, pairs, metric, index), engine, self.clean)
            for metric in job.metrics
        ]
        self.reads: list[Int[Tensor, "batch read"]] = []
        for score in self.scores:
            if not any(torch.equal(score.read, known) for known in self.reads):
                self.reads.append(score.read)
        self.start = 0
        if self.resampled and model.facts.causal:
            differ = (clean != corrupt).int()
            first = torch.where(differ.any(1), differ.argmax(1), self.length)
            read = min(int(read.min()) for read in self.reads)
            self.start = min(int(first.min()), read)
        self.engine = engine
        plain = [engine.plain(self.clean, score) for score in self.scores]
        self.base = torch.stack(plain).double().cpu().numpy()

    def finals(
        self, kept: Bool[ndarray, "circuit class reader writer"], *, reuse: bool = True
    ) -> list[Float[Tensor, "circuit batch _ d_model"]]:
        """The final residual stream of each circuit, for each of `reads`."""
        final = masked.run(
            self.w,
            self.job.wiring,
            kept,
            clean=self.clean,
            ablated=self.ablated,
            tokens=self.tokens,
            classes=self.kinds,
            read=torch.cat(self.reads, 1),
            start=self.start,
            resampled=self.resampled,
            reuse=reuse,
        )
        return list(final.split([read.shape[1] for read in self.reads], 2))

    def measured(
        self, finals: Sequence[Float[Tensor, "circuit batch _ d_model"]]
    ) -> Float[Tensor, "circuit metric batch"]:
        """All metrics of final residual streams."""
        found = []
        for score in self.scores:
            at = next(i for i, read in enumerate(self.reads) if torch.equal(read, score.read))
            found.append(score.of_final(finals[at], self._unembed, self.w.facts.d_vocab))
        return torch.stack(found, 1)

    def _unembed(self, resid: Tensor, columns: Tensor | None, at: slice) -> Tensor:
        return forward.unembed(self.w, resid, columns)

    def run(self, batch: Batch) -> Float[ndarray, "cells metrics_and_rows"]:
        """The metrics of the batch's circuits, metric after metric."""
        kept = self.job.by_class(self.which, batch.cells)
        found = self.measured(self.finals(kept))
        return found.double().cpu().numpy().reshape(len(batch.cells), -1)

    def null(self) -> float:
        """Largest change of a metric in the model with all of its edges.

        Raises:
            InterpError: the final residual stream moves by more than float noise.
        """
        feeds = self.job.wiring.graph.feeds
        full = np.broadcast_to(feeds, (1, self.which.shape[1], *feeds.shape)).copy()
        finals = self.finals(full, reuse=False)
        noise = torch.finfo(self.job.model.dtype).eps * NULL_TOLERANCE
        for final, read in zip(finals, self.reads, strict=True):
            plain = take(self.clean.final, read)
            moved = float((final[0] - plain).abs().max() / plain.abs().max())
            if not moved <= noise:
                raise InterpError(
                    f"null control failed: the circuit of all edges moved the final residual "
                    f"stream by {moved:.1e} of its size, more than float noise. The masked pass is "
                    "wrong on this model; use engine='hooks'."
                )
        effect = self.measured(finals)[0].double().cpu().numpy() - self.base
        return float(np.abs(effect).max())


def _with_reference(score: Score, engine: Replay, clean: Trace) -> Score:
    if not score.metric.needs_reference:
        return score
    answers = replace(score.answers, reference=engine.found(clean, score))
    return replace(score, answers=answers)


def _ablated(
    job: Isolation,
    engine: Replay,
    clean: Int[Tensor, "batch pos"],
    corrupt: Int[Tensor, "batch pos"],
    rows: Sequence[int],
    source: MeanReference | Constants | None,
) -> Ablated:
    """What is put in the place of each writer's value."""
    facts = job.model.facts
    like = forward.embed(engine.weights, clean)
    if isinstance(source, Constants):
        return source.ablated(like)
    if isinstance(source, MeanReference):
        groups = [(job.pairs.cluster[i], clean.shape[1]) for i in rows]

        def mean(site: Site) -> Tensor:
            return source.at(site, groups).to(like)

        heads, layers = range(facts.n_heads), range(facts.n_layers)
        return Ablated(
            mean(Site("embed")),
            tuple(torch.stack([mean(Site("z", n, head=h)) for h in heads], 2) for n in layers),
            tuple(mean(Site("mlp_out", n)) for n in layers if facts.d_mlp),
        )
    if job.ablation == "resample":
        run = engine.trace(corrupt, keep=("z", "mlp_out"))
        embed = forward.embed(engine.weights, corrupt)
        return Ablated(embed, run.kept["z"], run.kept["mlp_out"])
    return Constants.zeros(job.model).ablated(like)


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


def _key(job: Isolation, rows: Sequence[int], cells: Sequence[int]) -> list[object]:
    """Everything that the numbers of a batch depend on."""
    model, source = job.model, job.source
    return [
        *("circuits", model.weight_hash, str(model.dtype), job.pairs.fingerprint, tuple(rows)),
        *(job.ablation, source and source.fingerprint, job.places),
        *((m.name, m.position, m.reads, function_identity(m.fn)) for m in job.metrics),
        *((bool(job.lacking[i]), np.packbits(job.kept[i]).tobytes()) for i in cells),
    ]


def served(job: Isolation) -> Replay | None:
    """The engine that the masked pass needs, or None where it cannot serve.

    Raises:
        ModelError, PairsError, Unsupported: what no engine can run.
    """
    engine = choose(job.model, job.engine, prefix=job.pairs.decoder)
    for metric in job.metrics:
        accept(job.model, job.pairs, metric)
    if isinstance(engine, Replay) and masked.servable(engine.weights):
        return engine
    return None
