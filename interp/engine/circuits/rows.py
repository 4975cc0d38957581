"""Rows of one length in which circuits are run: the clean run, the ablated values, the metrics."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.parts.sites import Site
from interp.engine.circuits import masked
from interp.engine.circuits.constants import Constants
from interp.engine.circuits.job import Isolation, classes
from interp.engine.circuits.masked import Ablated
from interp.engine.engines.replay.engine import Replay
from interp.engine.engines.resolution import resolution
from interp.engine.network import forward
from interp.engine.plain.means.means import MeanReference
from interp.engine.plan.batches import Batch
from interp.engine.plan.edits import take
from interp.engine.plan.score import Readout, Score
from interp.models.bridge.precision import rounding


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
        readout = Readout.of_rows(model, pairs, job.metrics, index)
        self.readout = readout.referring(partial(engine.found, self.clean))
        self.start = 0
        if self.resampled and model.facts.causal:
            differ = (clean != corrupt).int()
            first = torch.where(differ.any(1), differ.argmax(1), self.length)
            self.start = min(int(first.min()), int(self.readout.read.min()))
        self.engine = engine
        self.base = engine.plain(self.clean, self.readout).double().cpu().numpy()

    def resolution(self) -> Float[ndarray, " metrics"]:
        """What rounding alone does to each metric."""
        job = self.job
        return resolution(job.model, job.pairs, "clean", self.rows, self.readout, self.base)

    def final(
        self, kept: Bool[ndarray, "circuit class reader writer"], *, reuse: bool = True
    ) -> Float[Tensor, "circuit batch read d_model"]:
        """The final residual stream of each circuit, where the metrics read."""
        return masked.run(
            self.w,
            self.job.wiring,
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
        self, final: Float[Tensor, "circuit batch read d_model"]
    ) -> Float[Tensor, "metric circuit batch"]:
        """All metrics of final residual streams."""
        return self.readout.of_final(final, self._unembed, self.w.facts.d_vocab)

    def _unembed(
        self, score: Score, place: slice, resid: Tensor, columns: Tensor | None, at: slice
    ) -> Tensor:
        return forward.unembed(self.w, resid, columns)

    def run(self, batch: Batch) -> Float[ndarray, "metrics cells batch"]:
        """The metrics of the batch's circuits."""
        kept = self.job.by_class(self.which, batch.cells)
        return self.measured(self.final(kept)).double().cpu().numpy()

    def null(self) -> float:
        """Largest change of a metric in the model with all of its edges.

        Raises:
            InterpError: the final residual stream moves by more than float noise.
        """
        feeds = self.job.wiring.graph.feeds
        full = np.broadcast_to(feeds, (1, self.which.shape[1], *feeds.shape)).copy()
        final = self.final(full, reuse=False)
        plain = take(self.clean.final, self.readout.read)
        moved = float((final[0] - plain).abs().max() / plain.abs().max())
        # every reader's sum is added up in another order than in the clean run
        if not moved <= rounding(self.job.model.dtype) * self.w.facts.n_layers:
            raise InterpError(
                f"null control failed: the circuit of all edges moved the final residual stream by "
                f"{moved:.1e} of its size, more than float noise. The masked pass is wrong on this "
                "model; use engine='hooks'."
            )
        effect = self.measured(final)[:, 0].double().cpu().numpy() - self.base
        return float(np.abs(effect).max())


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
        groups = [(job.pairs.template[i], clean.shape[1]) for i in rows]

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
