"""Every step is computed anew from the first token, by the bridge with hooks: slow, and simple."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.decode.edits import Lasting
from interp.engine.engines.hooked.run import run
from interp.engine.network.trace import Trace
from interp.engine.plan.edits import Edit
from interp.models.model import Model

Logits = Float[Tensor, "cells batch d_vocab"]


class Recomputed:
    """Decoding through hooks; see `interp.engine.decode.cached.Cached`.

    Args:
        prompts: of an encoder-decoder; its `tokens` are what the decoder begins with.
    """

    def __init__(
        self,
        model: Model,
        tokens: Int[Tensor, "batch pos"],
        base: Trace,
        cells: Sequence[Sequence[Lasting]],
        prompts: Int[Tensor, "batch key"] | None = None,
    ) -> None:
        self.model, self.tokens, self.base, self.cells = model, tokens, base, cells
        self.prompts = prompts

    def begin(self) -> Logits:
        self.ids = self.tokens.expand(len(self.cells), -1, -1)
        return self._logits(self.ids, self.cells)[:, :, -1]

    def step(self, said: Int[Tensor, "cells batch"]) -> Logits:
        self.ids = torch.cat([self.ids, said[..., None]], 2)
        return self._logits(self.ids, self.cells)[:, :, -1]

    def pick(self, rows: Int[Tensor, "cells batch"]) -> None:
        self.ids = self.ids.gather(1, rows[..., None].expand(-1, -1, self.ids.shape[2]))

    def said(self, after: Int[Tensor, "cells batch n"]) -> Iterator[Logits]:
        return self._known(after, self.cells)

    def plain(self, after: Int[Tensor, "texts batch n"]) -> Iterator[Logits]:
        return self._known(after, [()] * len(after))

    def _known(self, after: Tensor, cells: Sequence[Sequence[Lasting]]) -> Iterator[Logits]:
        tokens = self.tokens.expand(len(after), -1, -1)
        logits = self._logits(torch.cat([tokens, after[..., :-1]], 2), cells)
        yield from logits[:, :, self.tokens.shape[1] - 1 :].unbind(2)

    def _logits(
        self, ids: Int[Tensor, "cells batch pos"], cells: Sequence[Sequence[Lasting]]
    ) -> Float[Tensor, "cells batch pos d_vocab"]:
        found, stop = [], ids.shape[2]
        for tokens, cell in zip(ids, cells, strict=True):
            edits = [edit for one in cell if (edit := one.within(0, stop)) is not None]
            found.append(self._run(tokens, edits))
        return torch.stack(found)

    def _run(
        self, tokens: Int[Tensor, "batch pos"], edits: Sequence[Edit]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        read, written = tokens, None
        if self.prompts is not None:  # what is said stands in the decoder
            read, written = self.prompts, tokens[:, 1:]
        output = run(self.model, self.base, read, edits, (), (), written)
        assert output.logits is not None  # require_speech refuses models without
        return output.logits.to(tokens.device)
