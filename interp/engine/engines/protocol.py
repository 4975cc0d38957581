"""What every engine offers, so that methods need not know which one serves a model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.parts.facts import Facts
from interp.core.parts.sites import Kind, Site
from interp.engine.interventions import Hop
from interp.engine.network.trace import KEPT, Held, See, Trace, begins, take
from interp.engine.plan.edits import Edit
from interp.engine.plan.explain import require_running
from interp.engine.plan.score import Readout, Score

Written = Int[Tensor, "batch written"] | None
"""Ids that a decoder reads after its start token, row by row."""
EngineName = Literal["auto", "replay", "hooks", "recurrent"]


def begun(
    start: int, tokens: Int[Tensor, "batch pos"], written: Written
) -> Int[Tensor, "batch read"]:
    """What a decoder reads: its start token, and what it has written since."""
    first = tokens.new_full((len(tokens), 1), start)
    return first if written is None else torch.cat([first, written], 1)


class NotFinite(Exception):
    """A watched run met NaN or infinity: at which site, in which row."""

    def __init__(self, site: Site, row: int) -> None:
        self.site, self.row = site, row


@dataclass(frozen=True, eq=False)
class Route:
    """The hops of some cells, resolved for the rows of a block.

    Attributes:
        receiving: for each hop the positions at which its receivers take their input; the read
            positions for the logits.
        starts: the first position that can change, in each hop and in what is recomputed at last.
    """

    hops: tuple[Hop, ...]
    receiving: tuple[Int[Tensor, "batch _"], ...]
    starts: tuple[int, ...]


class Engine(ABC):
    """What can trace a run, read a metric off it, and run cells of interventions."""

    name: ClassVar[Literal["replay", "hooks", "recurrent"]]
    kinds: ClassVar[tuple[Kind, ...]] = KEPT
    """What a trace holds if nothing else is said: enough to intervene anywhere."""

    @abstractmethod
    def trace(
        self,
        tokens: Int[Tensor, "batch pos"],
        written: Written = None,
        *,
        keep: Sequence[str] | Held | None = None,
    ) -> Trace:
        """The activations of a plain run, of the given kinds.

        `written`, here and below: what a decoder that reads an encoder has written after its start
        token; other models have none.
        """

    @abstractmethod
    def walk(
        self,
        tokens: Int[Tensor, "batch pos"],
        see: See,
        *,
        shelves: Sequence[str],
        layers: int | None = None,
        written: Written = None,
    ) -> object:
        """A plain run, or its first layers, that shows the activations of some shelves."""

    @abstractmethod
    def logits(self, ran: Any) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits at every position, of what `walk` returned after all layers."""

    @abstractmethod
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
        """The metrics of each cell."""

    @abstractmethod
    def found(self, run: Trace, score: Score) -> Float[Tensor, "batch columns"]:
        """What a metric reads of a plain run: every logit at its position, or the embedding."""

    @abstractmethod
    def plain(self, run: Trace, readout: Readout) -> Float[Tensor, "metrics batch"]:
        """The metrics of a plain run."""


class OfWeights(Engine):
    """An engine that computes from weights, and makes only those logits that are read."""

    @property
    @abstractmethod
    def facts(self) -> Facts: ...

    @abstractmethod
    def unembed(
        self,
        final: Float[Tensor, "cells batch d_model"],
        columns: Int[Tensor, "batch columns"] | None = None,
        like: Float[Tensor, "batch d_model"] | None = None,
    ) -> Float[Tensor, "cells batch columns"]:
        """Logits, of all columns or of some; `like`: whose scale the last norm takes."""

    def trace(
        self,
        tokens: Int[Tensor, "batch pos"],
        written: Written = None,
        *,
        keep: Sequence[str] | Held | None = None,
    ) -> Trace:
        require_running()
        if not isinstance(keep, Held):
            keep = Held.whole(self.kinds if keep is None else keep, self.facts.n_layers)
        held, kept = keep, {kind: list[Tensor]() for kind in keep.kinds}

        def see(kind: Kind, layer: int, activation: Tensor) -> None:
            if kind not in kept:
                return
            if layer not in held.layers[kind]:
                activation = activation.new_empty(0)
            elif start := begins(kind, held.first):
                activation = activation[:, start:].clone()  # lets go of what is before
            kept[kind].append(activation)

        final = self.walk(tokens, see, shelves=held.kinds, written=written)
        found = {kind: tuple(layers) for kind, layers in kept.items()}
        return Trace(self.facts, found, final, first=held.first)

    @abstractmethod
    def walk(
        self,
        tokens: Int[Tensor, "batch pos"],
        see: See,
        *,
        shelves: Sequence[str],
        layers: int | None = None,
        written: Written = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Returns what stands after the last layer that was run."""

    def logits(self, ran: Any) -> Float[Tensor, "batch pos d_vocab"]:
        return self.unembed(ran.flatten(0, 1)[None])[0].unflatten(0, ran.shape[:2])

    def found(self, run: Trace, score: Score) -> Float[Tensor, "batch columns"]:
        final = take(run.final, score.read)
        if score.metric.reads == "embedding":
            return final.mean(1)
        return self.unembed(final[None, :, 0])[0]

    def plain(self, run: Trace, readout: Readout) -> Float[Tensor, "metrics batch"]:
        return self._read(take(run.final, readout.read)[None], readout)[:, 0]

    def _read(
        self,
        final: Float[Tensor, "cells batch read d_model"],
        readout: Readout,
        frozen: Trace | None = None,
    ) -> Float[Tensor, "metrics cells batch"]:
        """`frozen`: the run whose scale the last norm keeps."""
        held = None if frozen is None else take(frozen.final, readout.read)

        def unembed(
            score: Score, place: slice, final: Tensor, columns: Tensor | None, at: slice
        ) -> Tensor:
            like = None if held is None else held[:, place][:, at].flatten(0, 1)
            return self.unembed(final, columns, like)

        return readout.of_final(final, unembed, self.facts.d_vocab)
