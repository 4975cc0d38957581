"""Cells decode together: each step is a wave over one position, with what was before in a cache."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import Unsupported
from interp.engine.decode.edits import Lasting
from interp.engine.engines.replay.cache import Cache
from interp.engine.engines.replay.stack import Memory
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
        self.turn = turns(w, self.pos, room)
        never = (w.facts.n_layers - 1, STEPS["resid_post"])
        prompt = [_within(cell, 0, self.pos) for cell in cells]
        entries = [
            min((entry(e.site, e.readers, w.facts.n_layers) for e in cell), default=never)
            for cell in prompt
        ]
        if memory is not None:
            reads = 0, STEPS["cross.k"]
            entries = [min(at, reads) if i in memory.rows else at for i, at in enumerate(entries)]
        # as the wave of the prompt sorts them, so that its cache is that of every step
        self.order = sorted(range(len(cells)), key=lambda i: entries[i])
        self.back = torch.tensor(self.order, device=tokens.device).argsort()
        self.cells = [cells[i] for i in self.order]
        self.entry = min(entries, default=never)
        self.memory = None
        if memory is not None:
            rows = {at: memory.rows[i] for at, i in enumerate(self.order) if i in memory.rows}
            self.memory = Memory(rows, memory.streams)
        firsts = [one.first for cell in cells for one in cell if one.first < self.pos]
        self.start = 0 if memory is not None else min([*firsts, self.pos - 1])

    def begin(self) -> Logits:
        """Run the prompts; what is said after them."""
        self.ids = self.tokens.expand(len(self.cells), -1, -1)
        self.cache = self._cache(len(self.cells), self.start, self.entry)
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
        ).final
        assert final is not None
        return self._logits(final[:, :, 0])

    def step(self, said: Int[Tensor, "cells batch"]) -> Logits:
        """What is said after one more token."""
        said = said.index_select(0, _index(self.order, said))
        self.ids = torch.cat([self.ids, said[..., None]], 2)
        return self._logits(self._run(self.ids.shape[2] - 1)[:, :, 0])

    def pick(self, rows: Int[Tensor, "cells batch"]) -> None:
        """Each cell goes on from other rows of its own, which share a prompt."""
        rows = rows.index_select(0, _index(self.order, rows))
        self.cache.pick(rows)
        self.ids = self.ids.gather(1, rows[..., None].expand(-1, -1, self.ids.shape[2]))

    def said(self, after: Int[Tensor, "cells batch n"]) -> Iterator[Logits]:
        """The logits at each step of texts that are known, all of them computed in one wave."""
        yield self.begin()
        yield from self._known(after.index_select(0, _index(self.order, after)), self.cells)

    def plain(self, after: Int[Tensor, "texts batch n"]) -> Iterator[Logits]:
        """The same of the model without interventions."""
        first = forward.unembed(self.w, self.base.final[None, :, -1])
        yield first.expand(len(after), -1, -1)
        never = (self.w.facts.n_layers, 0)
        self.cache, self.memory = self._cache(len(after), self.pos, never), None
        self.order, self.back = range(len(after)), torch.arange(len(after), device=after.device)
        yield from self._known(after, [()] * len(after))

    def _known(self, after: Tensor, cells: Sequence[Sequence[Lasting]]) -> Iterator[Logits]:
        tokens = self.tokens.expand(len(after), -1, -1)
        self.ids, self.cells = torch.cat([tokens, after[..., :-1]], 2), cells
        if self.ids.shape[2] == self.pos:
            return
        final = self._run(self.pos)
        yield from (self._logits(one) for one in final.unbind(2))

    def _run(self, start: int) -> Float[Tensor, "cells batch window d_model"]:
        """The last stream from a position on, of tokens of which each cell has its own."""
        window = self._window(start, self.ids.shape[2])
        entering = forward.embed(self.w, self.ids.flatten(0, 1), start)
        final = wave(
            self.w,
            self.base,
            [_within(cell, start, self.ids.shape[2]) for cell in self.cells],
            window=window,
            start=start,
            read=window,
            memory=self.memory,
            cache=self.cache,
            entering=entering.unflatten(0, self.ids.shape[:2]),
        ).final
        assert final is not None
        return final

    def _window(self, start: int, stop: int) -> Int[Tensor, "batch window"]:
        return torch.arange(start, stop, device=self.tokens.device).expand(len(self.tokens), -1)

    def _cache(self, cells: int, start: int, first: tuple[int, int]) -> Cache:
        given = {"cells": cells, "start": start, "first": first}
        return Cache(self.w, self.base, **given, room=self.room, turn=self.turn)

    def _logits(self, final: Float[Tensor, "cells batch d_model"]) -> Logits:
        return forward.unembed(self.w, final.index_select(0, self.back))


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
