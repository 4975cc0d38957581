"""The plain model along every text that some cell says: once for all that say the same.

Below its first intervention a cell computes what the plain model does that reads the same text. So
it joins there, and what the plain model would have said is known at every step.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.engines.replay.cache import Cache
from interp.engine.engines.replay.stack import Entering
from interp.engine.engines.replay.wave import wave
from interp.engine.network import forward
from interp.engine.network.trace import Trace
from interp.engine.network.weights import Weights


class Companions:
    """Texts of each row in slots; a slot may be of another text in another row.

    Args:
        tokens: the prompts.
        base: their run.
        cells: that say something.
        room: tokens of a prompt and of what is said.

    Attributes:
        of: the slot of the text that each cell has said in each row.
        logits: what the plain model says after the text in each slot.
    """

    def __init__(
        self,
        w: Weights,
        tokens: Int[Tensor, "batch pos"],
        base: Trace,
        *,
        cells: int,
        room: int,
        turn: forward.Rotations,
    ) -> None:
        self.w, self.base, self.pos = w, base, tokens.shape[1]
        self.of = torch.zeros(cells, len(tokens), dtype=torch.long, device=tokens.device)
        self.row = torch.arange(len(tokens), device=tokens.device)
        self.source = self.of * len(tokens) + self.row
        self.ids = tokens[None]
        self.logits = forward.unembed(w, base.final[None, :, -1])
        given = {"start": self.pos, "room": room, "turn": turn}
        self.cache = Cache(w, base, layers=[0], **given)

    def pick(self, rows: Int[Tensor, "cells batch"]) -> None:
        """Each cell goes on from other rows of its own, which share a prompt."""
        self.source = self.of.gather(1, rows) * len(self.row) + rows

    def step(self, said: Int[Tensor, "cells batch"]) -> Entering:
        """Read one more token of every cell; what enters each layer then."""
        batch = len(self.row)
        self.of, to, of = placed(self.source, said, batch)
        self.source = self.of * batch + self.row
        slots = int(self.of.max()) + 1
        if slots > len(self.ids):
            grown = max(slots, min(2 * len(self.ids), len(self.of)))
            self.cache.grow(grown)
            more = self.ids[:1].expand(grown - len(self.ids), -1, -1)
            self.ids = torch.cat([self.ids, more])
        if len(to):
            self.cache.move(to, of)
            flat = self.ids.flatten(0, 1)
            self.ids = flat.index_copy(0, to, flat.index_select(0, of)).view(self.ids.shape)
        last = torch.zeros_like(self.ids[..., 0])
        last[self.of, self.row] = said
        self.ids = torch.cat([self.ids, last[..., None]], 2)
        streams: list[Tensor] = []
        final = self._run(self.ids[:slots], streams)
        self.logits = forward.unembed(self.w, final)
        return Entering(streams, self.of)

    def _run(
        self, ids: Int[Tensor, "slots batch pos"], streams: list[Tensor]
    ) -> Float[Tensor, "slots batch d_model"]:
        slots, batch, pos = ids.shape
        first = forward.embed(self.w, ids.flatten(0, 1), pos - 1).unflatten(0, (slots, batch))
        each = torch.arange(slots, device=ids.device)[:, None].expand(-1, batch)
        window = torch.full((batch, 1), pos - 1, device=ids.device)
        final = wave(
            self.w,
            self.base,
            [()] * slots,
            window=window,
            start=pos - 1,
            read=window,
            cache=self.cache,
            entries=[(0, 0)] * slots,
            entering=Entering([first], each),
            note=streams,
        ).final
        assert final is not None
        return final[:, :, 0]


def placed(
    source: Int[Tensor, "cells batch"], said: Int[Tensor, "cells batch"], batch: int
) -> tuple[Int[Tensor, "cells batch"], Int[Tensor, " moved"], Int[Tensor, " moved"]]:
    """The slot of each cell's text in each row after one more token, and what moves there.

    One of the texts that go on from a slot stays in it; others take slots that are free.

    Args:
        source: the text that each goes on from: its slot times `batch`, plus its row.

    Returns:
        Slots, and of what moves the place that it goes to and the one that it comes from.
    """
    from_, token, found = source.tolist(), said.tolist(), torch.zeros_like(source).tolist()
    to, of = list[int](), list[int]()
    for row in range(batch):
        slots: dict[tuple[int, int], int] = {}
        texts = [(from_[cell][row], token[cell][row]) for cell in range(len(from_))]
        for text in texts:
            slot, at = divmod(text[0], batch)
            if text not in slots and at == row and slot not in slots.values():
                slots[text] = slot
        taken = {*slots.values()}
        free = iter([slot for slot in range(len(texts)) if slot not in taken])
        for text in texts:
            if text not in slots:
                slots[text] = next(free)
                to.append(slots[text] * batch + row)
                of.append(text[0])
        for cell, text in enumerate(texts):
            found[cell][row] = slots[text]
    device = source.device
    moves = (torch.tensor(x, dtype=torch.long, device=device) for x in (to, of))
    return torch.tensor(found, device=device), *moves
