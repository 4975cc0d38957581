"""The engine of encoder-decoders: a wave up the encoder, then one up the decoder that reads it.

A cell that changes nothing in the encoder is in the second wave alone, with the base run's keys and
values of cross-attention, which all such cells share. One that does joins it where the decoder
first reads the encoder, with keys and values of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.parts.edges import read_in
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site
from interp.engine.engines.protocol import OfWeights, Route, Written, begun
from interp.engine.engines.replay.engine import receivers_set
from interp.engine.engines.replay.reading import projection
from interp.engine.engines.replay.stack import Memory
from interp.engine.engines.replay.wave import Arrived, wave
from interp.engine.interventions import LN, Freeze, Hop, Through
from interp.engine.network import forward
from interp.engine.network import trace as tracing
from interp.engine.network.stacks import Stacks
from interp.engine.network.trace import BETWEEN, Held, See, Trace
from interp.engine.plan.edits import Edit
from interp.engine.plan.explain import require_running
from interp.engine.plan.score import Readout
from interp.models.bridge.points import shelves as shelves_of

Cells = Sequence[Sequence[Edit]]


@dataclass(frozen=True, eq=False)
class ReplayOfTwo(OfWeights):
    """Stacked cells over the shared weights of two stacks."""

    stacks: Stacks
    name = "replay"

    @property
    def facts(self) -> Facts:
        return self.stacks.facts

    def unembed(
        self,
        final: Float[Tensor, "cells batch d_model"],
        columns: Int[Tensor, "batch columns"] | None = None,
        like: Float[Tensor, "batch d_model"] | None = None,
    ) -> Float[Tensor, "cells batch columns"]:
        return forward.unembed(self.stacks.decoder, final, columns, like)

    def walk(
        self,
        tokens: Int[Tensor, "batch pos"],
        see: See,
        *,
        shelves: Sequence[str],
        layers: int | None = None,
        written: Written = None,
    ) -> Float[Tensor, "batch _ d_model"]:
        encoded, final = self._walk(tokens, written, see, shelves=shelves, layers=layers)
        return encoded if final is None else final

    def _walk(
        self,
        tokens: Int[Tensor, "batch key"],
        written: Written,
        see: See,
        *,
        shelves: Sequence[str],
        layers: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        require_running()
        read = begun(self.stacks.start, tokens, written)
        return tracing.walk_both(self.stacks, tokens, read, see, wanted=shelves, layers=layers)

    def trace(
        self,
        tokens: Int[Tensor, "batch pos"],
        written: Written = None,
        *,
        keep: object = None,
    ) -> Trace:
        """Whole layers of the kinds that are asked for, of both stacks."""
        kinds = keep.kinds if isinstance(keep, Held) else self.kinds if keep is None else keep
        wanted = [*shelves_of(self.facts, kinds), f"dec.{BETWEEN}"]
        kept: dict[str, list[Tensor]] = {name: [] for name in wanted}

        def see(name: str, layer: int, activation: Tensor) -> None:
            if name in kept:
                kept[name].append(activation)

        encoded, final = self._walk(tokens, written, see, shelves=wanted)
        assert final is not None
        found = {name: tuple(layers) for name, layers in kept.items()}
        return Trace(self.facts, found, final, encoded=encoded)

    def encoded(self, base: Trace, cells: Cells) -> tuple[list[list[Edit]], Memory | None]:
        """What edits of the encoder leave to be made in the decoder, and what it reads of it."""
        return _Both(self.stacks, base, False)._encoded(cells, "all", "recompute")

    def run(
        self,
        base: Trace,
        tokens: Int[Tensor, "batch pos"],
        cells: Cells,
        *,
        route: Route,
        readout: Readout,
        watch: bool = False,
        written: Written = None,
    ) -> Float[Tensor, "metrics cells batch"]:
        """The metrics of each cell: waves for each hop, and those that recompute what is after."""
        both = _Both(self.stacks, base, watch)
        for hop, receiving in zip(route.hops, route.receiving, strict=False):
            if hop.ends:
                final = both.end(cells, readout.read, through=hop.through, ln=hop.ln)
                return self._read(final, readout, base if hop.ln == "freeze" else None)
            arrived, window = both.arrive(cells, hop, receiving)
            cells = receivers_set(base, arrived, len(cells), window, receiving)
        return self._read(both.end(cells, readout.read), readout)


@dataclass(frozen=True, eq=False)
class _Both:
    """Waves over two stacks from one base run."""

    stacks: Stacks
    base: Trace
    watch: bool

    @cached_property
    def sides(self) -> Mapping[str, Trace]:
        return {"enc": self.base.of("enc"), "dec": self.base.of("dec")}

    def end(
        self,
        cells: Cells,
        read: Int[Tensor, "batch read"],
        *,
        through: Through = "all",
        ln: LN = "recompute",
    ) -> Float[Tensor, "cells batch read d_model"]:
        """The decoder's last stream at the read positions, in each cell."""
        cells, memory = self._encoded(cells, through, ln)
        window = self._every("dec") if through == "all" else read
        arrived = self._wave(cells, window, read, through=through, ln=ln, memory=memory)
        assert arrived.final is not None
        return arrived.final

    def arrive(
        self, cells: Cells, hop: Hop, receiving: Int[Tensor, "batch receiving"]
    ) -> tuple[Arrived, Int[Tensor, "batch window"]]:
        """What the receivers of a hop compute, and at which positions."""
        through, ln = hop.through, hop.ln
        stack = read_in(hop.receivers[0])
        window = self._every(stack) if through == "all" else receiving
        if stack == "dec":
            cells, memory = self._encoded(cells, through, ln)
            arrived = self._wave(
                cells, window, window, through=through, ln=ln, memory=memory, to=hop.receivers
            )
            return arrived, window
        received: dict[Site, tuple[list[int], Tensor]] = {}
        if own := [site for site in hop.receivers if site.stack == "enc"]:
            received |= self._wave(
                cells, window, window, through=through, ln=ln, to=own, stack="enc"
            ).received
        if across := [site for site in hop.receivers if site.stack == "dec"]:
            final = self._wave(cells, window, window, through=through, ln=ln, stack="enc").final
            assert final is not None
            memory = self._normed(final, window, ln)
            for site in across:
                received[site] = [*range(len(cells))], projection(self.stacks.decoder, site)(memory)
        return Arrived(None, received), window

    def _every(self, stack: str) -> Int[Tensor, "batch pos"]:
        """All positions of a stack, as a window."""
        final = self.sides[stack].final
        return torch.arange(final.shape[1], device=final.device).expand(len(final), -1)

    def _encoded(
        self, cells: Cells, through: Through, ln: LN
    ) -> tuple[list[list[Edit]], Memory | None]:
        """What is left to be made in the decoder, and what it reads of the encoder.

        A key or value that sees an encoder's stream of its own is set to what it computes of that;
        an edit of its own acts on it.
        """
        inside = [[edit for edit in cell if edit.site.stack == "enc"] for cell in cells]
        left = [[edit for edit in cell if edit.site.stack != "enc"] for cell in cells]
        changed = [i for i, edits in enumerate(inside) if edits]
        if not changed:
            return left, None
        window = self._every("enc")
        arrived = self._wave(
            [inside[i] for i in changed], window, window, through=through, ln=ln, stack="enc"
        )
        assert arrived.final is not None
        for (one, site), stream in arrived.apart.items():
            made = projection(self.stacks.decoder, site)(forward.norm(stream, self.stacks.norm))
            everywhere = torch.ones(made.shape[:2], dtype=torch.bool, device=made.device)
            left[changed[one]].insert(0, Edit(site, Freeze(), everywhere, made, everywhere=True))
        rows = {cell: row for row, cell in enumerate(changed)}
        return left, Memory(rows, self._normed(arrived.final, window, ln))

    def _normed(
        self, final: Float[Tensor, "cells batch window d_model"], window: Tensor, ln: LN
    ) -> Float[Tensor, "cells batch window d_model"]:
        like = tracing.take(self.sides["enc"].final, window) if ln == "freeze" else None
        return forward.norm(final, self.stacks.norm, like)

    def _wave(
        self,
        cells: Cells,
        window: Int[Tensor, "batch window"],
        read: Int[Tensor, "batch read"],
        *,
        through: Through,
        ln: LN,
        to: Sequence[Site] = (),
        stack: str = "dec",
        memory: Memory | None = None,
    ) -> Arrived:
        """Up one stack."""
        return wave(
            self.stacks.encoder if stack == "enc" else self.stacks.decoder,
            self.sides[stack],
            cells,
            window=window,
            start=0,
            read=read,
            through=through,
            receivers=to,
            ln=ln,
            watch=self.watch,
            memory=memory,
        )
