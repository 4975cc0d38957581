"""Cells decode together: each step is a wave over one position, with what was before in a cache."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import Unsupported
from interp.engine.decode.companions import Companions
from interp.engine.decode.edits import Lasting
from interp.engine.engines.replay.cache import Cache
from interp.engine.engines.replay.stack import Entering, Memory
from interp.engine.engines.replay.wave import wave
from interp.engine.network import forward
from interp.engine.network.trace import Trace
from interp.engine.network.weights import Weights
from interp.engine.plan.edits import STEPS, Edit, entry

Logits = Float[Tensor, "cells batch d_vocab"]


class Cached:
    """Decoding on weights.

    Args:
        tokens: the prompts, of one length.
        base: their run, with all kinds and layers.
        cells: the edits of each cell.
        room: tokens of the prompt and of what is said.
        memory: of a decoder: what cells read of the encoder, where that is not the base run's.
    """

    def __init__(
        self,
        w: Weights,
        tokens: Int[Tensor, "batch pos"],
        base: Trace,
        cells: Sequence[Sequence[Lasting]],
        room: int,
        memory: Memory | None = None,
    ) -> None:
        self.w, self.tokens, self.base, self.room = w, tokens, base, room
        self.pos = tokens.shape[1]
        self.turn, self.memory = turns(w, self.pos, room), memory
        n, read = w.facts.n_layers, memory.rows if memory is not None else {}
        entries = [(0, 0) if i in read else _entry(cell, n) for i, cell in enumerate(cells)]
        self.order = sorted(range(len(cells)), key=lambda i: entries[i])
        self.back = torch.tensor(self.order, device=tokens.device).argsort()
        self.cells = [cells[i] for i in self.order]
        self.entries = [entries[i] for i in self.order]
        if memory is not None:
            rows = {at: read[i] for at, i in enumerate(self.order) if i in read}
            self.memory = Memory(rows, memory.streams)
        firsts = [one.first for cell in cells for one in cell if one.first < self.pos]
        self.start = 0 if memory is not None else min([*firsts, self.pos - 1])

    def begin(self) -> Logits:
        """Run the prompts; what is said after them."""
        given = {"cells": len(self.cells), "room": self.room, "turn": self.turn}
        self.companions = Companions(self.w, self.tokens, self.base, **given)
        return self._begin(self.entries)

    def step(self, said: Int[Tensor, "cells batch"]) -> Logits:
        """What is said after one more token."""
        said = said.index_select(0, _index(self.order, said))
        entering, start = self.companions.step(said), self.companions.ids.shape[2] - 1
        return self._logits(self._run(start, start + 1, self.entries, entering)[:, :, 0])

    def pick(self, rows: Int[Tensor, "cells batch"]) -> None:
        """Each cell goes on from other rows of its own, which share a prompt."""
        rows = rows.index_select(0, _index(self.order, rows))
        self.cache.pick(rows)
        self.companions.pick(rows)

    @property
    def beside(self) -> tuple[Float[Tensor, "texts batch d_vocab"], Int[Tensor, "cells batch"]]:
        """What the plain model says after the texts that there are, and which each cell has."""
        return self.companions.logits, self.companions.of.index_select(0, self.back)

    def said(self, after: Int[Tensor, "cells batch n"]) -> Iterator[Logits]:
        """The logits at each step of texts that are known, all of them computed in one wave."""
        whole = [(0, 0)] * len(self.cells)
        yield self._begin(whole)
        yield from self._known(after.index_select(0, _index(self.order, after)), whole)

    def plain(self, after: Int[Tensor, "texts batch n"]) -> Iterator[Logits]:
        """The same of the model without interventions."""
        first = forward.unembed(self.w, self.base.final[None, :, -1])
        yield first.expand(len(after), -1, -1)
        whole = [(0, 0)] * len(after)
        self.cache, self.memory = self._cache(whole, self.pos), None
        self.cells, self.order = [()] * len(after), range(len(after))
        self.back = torch.arange(len(after), device=after.device)
        yield from self._known(after, whole)

    def _begin(self, entries: Sequence[tuple[int, int]]) -> Logits:
        self.cache = self._cache(entries, self.start)
        read = self.tokens.new_full((len(self.tokens), 1), self.pos - 1)
        final = wave(
            self.w,
            self.base,
            [_within(cell, self.start, self.pos) for cell in self.cells],
            window=self._window(self.start, self.pos),
            start=self.start,
            read=read,
            memory=self.memory,
            cache=self.cache,
            entries=entries,
        ).final
        assert final is not None
        return self._logits(final[:, :, 0])

    def _known(self, after: Tensor, entries: Sequence[tuple[int, int]]) -> Iterator[Logits]:
        tokens = self.tokens.expand(len(after), -1, -1)
        ids = torch.cat([tokens, after[..., :-1]], 2)
        if ids.shape[2] == self.pos:
            return
        first = forward.embed(self.w, ids.flatten(0, 1), self.pos).unflatten(0, ids.shape[:2])
        each = torch.arange(len(after), device=ids.device)[:, None].expand(ids.shape[:2])
        final = self._run(self.pos, ids.shape[2], entries, Entering([first], each))
        yield from (self._logits(one) for one in final.unbind(2))

    def _run(
        self, start: int, stop: int, entries: Sequence[tuple[int, int]], entering: Entering
    ) -> Float[Tensor, "cells batch window d_model"]:
        """The last stream at some positions, of tokens of which each cell has its own."""
        window = self._window(start, stop)
        final = wave(
            self.w,
            self.base,
            [_within(cell, start, stop) for cell in self.cells],
            window=window,
            start=start,
            read=window,
            memory=self.memory,
            cache=self.cache,
            entries=entries,
            entering=entering,
        ).final
        assert final is not None
        return final

    def _window(self, start: int, stop: int) -> Int[Tensor, "batch window"]:
        return torch.arange(start, stop, device=self.tokens.device).expand(len(self.tokens), -1)

    def _cache(self, entries: Sequence[tuple[int, int]], start: int) -> Cache:
        # where the base run's last stream is joined, no layer is run
        n = self.w.facts.n_layers
        layers = [n if entry == _never(n) else entry[0] for entry in entries]
        given = {"start": start, "room": self.room, "turn": self.turn}
        return Cache(self.w, self.base, layers=layers, **given)

    def _logits(self, final: Float[Tensor, "cells batch d_model"]) -> Logits:
        return forward.unembed(self.w, final.index_select(0, self.back))


def _never(n_layers: int) -> tuple[int, int]:
    """Where a cell joins that changes nothing."""
    return n_layers - 1, STEPS["resid_post"]


def _entry(cell: Sequence[Lasting], n_layers: int) -> tuple[int, int]:
    """Where a cell joins, at whatever step: before the first layer that it changes.

    Readers of their own need every write before them.
    """
    if any(one.edit.readers is not None for one in cell):
        return 0, 0
    layers = [entry(one.edit.site, None, n_layers)[0] for one in cell]
    return (min(layers), 0) if layers else _never(n_layers)


def _within(cell: Sequence[Lasting], start: int, stop: int) -> list[Edit]:
    found = (one.within(start, stop) for one in cell)
    return [edit for edit in found if edit is not None]


def _index(order: Sequence[int], like: Tensor) -> Int[Tensor, " cells"]:
    return torch.tensor([*order], device=like.device)


def turns(w: Weights, pos: int, room: int) -> forward.Rotations:
    """The rotations of a prompt and of what follows it.

    Raises:
        Unsupported: those of a prompt depend on how much follows, so that keys that were made
            before are not those of the longer row.
    """
    short, long = forward.rotations(w, pos), forward.rotations(w, room)
    for name, turn in short.items():
        whole = long[name]
        if isinstance(turn, forward.Rotation) and isinstance(whole, forward.Rotation):
            same = torch.equal(turn.cos, whole.cos[:pos]) and torch.equal(turn.sin, whole.sin[:pos])
            if not same:
                raise Unsupported(
                    f"rows of {pos} and of {room} tokens turn their first positions by different "
                    "angles (a rotation that is scaled by the length of its row), so that keys "
                    "made for the prompt are not those of what is said. Take engine='hooks', which "
                    "computes every step anew, or an n that stays within the length that the "
                    "model was trained for."
                )
    return long
