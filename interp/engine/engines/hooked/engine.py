"""The engine: full forwards of the bridge, one cell after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.engines.hooked.run import run, trace, walk
from interp.engine.engines.hooked.writes import Output, require_open
from interp.engine.engines.protocol import Engine, Route, Written
from interp.engine.network.trace import Held, See, Trace
from interp.engine.plan.edits import Edit
from interp.engine.plan.score import Readout, Score
from interp.models.bridge.points import n_layers, point
from interp.models.model import Model


@dataclass(frozen=True, eq=False)
class Hooks(Engine):
    """One full forward a cell."""

    model: Model
    name = "hooks"

    def trace(
        self,
        tokens: Int[Tensor, "batch pos"],
        written: Written = None,
        *,
        keep: Sequence[str] | Held | None = None,
    ) -> Trace:
        keep = keep.kinds if isinstance(keep, Held) else keep
        wanted = self.kinds if keep is None else keep
        return trace(self.model, tokens, keep=wanted, written=written)

    def walk(
        self,
        tokens: Int[Tensor, "batch pos"],
        see: See,
        *,
        shelves: Sequence[str],
        layers: int | None = None,
        written: Written = None,
    ) -> Output:
        facts = self.model.facts
        shown = [(s, layer) for s in shelves for layer in range(layers or n_layers(facts, s))]
        require_open(self.model, [point(facts, shelf, layer) for shelf, layer in shown])
        return walk(self.model, tokens, see, shelves=shelves, written=written)

    def logits(self, ran: Output) -> Float[Tensor, "batch pos d_vocab"]:
        assert ran.logits is not None
        return ran.logits

    def found(self, run: Trace, score: Score) -> Float[Tensor, "batch columns"]:
        return score.found(run.logits, run.final)

    def plain(self, run: Trace, readout: Readout) -> Float[Tensor, "metrics batch"]:
        return readout.of_run(run.logits, run.final)[:, 0]

    def run(
        self,
        base: Trace,
        tokens: Int[Tensor, "batch pos"],
        cells: Sequence[Sequence[Edit]],
        *,
        route: Route,
        readout: Readout,
        watch: bool = False,
        written: Written = None,
    ) -> Float[Tensor, "metrics cells batch"]:
        """The metrics of each cell, one after the other."""
        found = []
        for edits in cells:
            ran = run(self.model, base, tokens, edits, route.hops, route.receiving, written)
            found.append(readout.of_run(ran.logits, ran.final))
        return torch.cat(found, 1)
