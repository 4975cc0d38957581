"""Beam search as transformers has it: the K likeliest texts side by side, step by step.

Of each text the 2 K likeliest continuations are looked at (more where there are several end
tokens), the finished ones among the first K are kept by their log-probability over their length to
the power of `length_penalty`, and a prompt is done when none that runs can become better than the
worst that is kept (`early_stopping=False`).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.decode.choosing import How
from interp.engine.decode.stopping import Stop

NEVER = -1e9
"""What transformers adds to what must not be chosen; sums of log-probabilities are float32."""


@runtime_checkable
class Session(Protocol):
    """Texts of some cells and rows that are said token by token."""

    def begin(self) -> Tensor: ...
    def step(self, said: Tensor) -> Tensor: ...
    def pick(self, rows: Tensor) -> None: ...


@dataclass(eq=False)
class _Kept:
    """Finished texts of each prompt, the best first."""

    said: Int[Tensor, "prompts beams n"]
    length: Int[Tensor, "prompts beams"]
    score: Float[Tensor, "prompts beams"]
    done: Tensor

    def merge(self, other: "_Kept") -> "_Kept":
        score = torch.cat([self.score, other.score], 1)
        best = score.topk(self.score.shape[1]).indices
        parts = zip(
            (self.said, self.length, self.done), (other.said, other.length, other.done), strict=True
        )
        said, length, done = (_take(torch.cat(both, 1), best) for both in parts)
        return _Kept(said, length, score.gather(1, best), done)


def search(
    session: Session, how: How, stop: Stop, n: int
) -> tuple[Int[Tensor, "cells batch n"], Int[Tensor, "cells batch"]]:
    """The best text of each prompt of each cell, and its length.

    Args:
        session: each prompt stands in `how.beams` rows that follow one another.
    """
    logits = session.begin()
    cells, k = len(logits), how.beams
    prompts, device = logits.shape[1] // k, logits.device
    many = cells * prompts
    wide = max(2, 1 + len(stop.ids)) * k
    said = torch.zeros(many, k, 0, dtype=torch.long, device=device)
    running = torch.zeros(many, k, device=device)
    running[:, 1:] = NEVER
    nothing = torch.zeros(many, k, n, dtype=torch.long, device=device)
    kept = _Kept(nothing, nothing[..., 0], torch.full_like(running, NEVER), nothing[..., 0].bool())
    open_ = torch.ones(many, 1, dtype=torch.bool, device=device)
    first = torch.arange(wide, device=device) < k
    for step in range(1, n + 1):
        log_probs = logits.float().log_softmax(-1).view(many, k, -1) + running[..., None]
        vocab = log_probs.shape[-1]
        score, index = log_probs.flatten(1).topk(wide)
        beam = index // vocab
        found = torch.cat([_take(said, beam), (index % vocab)[..., None]], 2)
        ends = torch.ones_like(index, dtype=torch.bool) if step == n else stop(found)
        go = (score + ends.float() * NEVER).topk(k).indices
        final = score / step**how.length_penalty
        final = final + (~open_).float() * NEVER + (~(ends & first)).float() * NEVER
        padded = torch.nn.functional.pad(found, (0, n - step))
        kept = kept.merge(_Kept(padded, torch.full_like(index, step), final, ends & first))
        said, running = _take(found, go), score.gather(1, go)
        running = running + ends.gather(1, go).float() * NEVER
        worst = torch.where(kept.done, kept.score.min(1, keepdim=True).values, NEVER)
        best = running[:, :1] / step**how.length_penalty
        open_ = open_ & (best > worst).any(1, keepdim=True)
        if step == n or not bool(open_.any()) or bool(ends.all()):
            break
        rows = beam.gather(1, go) + k * torch.arange(many, device=device)[:, None] % (prompts * k)
        session.pick(rows.view(cells, prompts * k))
        logits = session.step(said[..., -1].view(cells, prompts * k))
    shape = cells, prompts
    return kept.said[:, 0].view(*shape, n), kept.length[:, 0].view(shape)


def _take(x: Tensor, index: Int[Tensor, "prompts chosen"]) -> Tensor:
    """Of each prompt the texts with these numbers."""
    if x.ndim == 2:
        return x.gather(1, index)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
