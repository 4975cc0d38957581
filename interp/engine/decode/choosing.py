"""Which token is said next: the likeliest, or one that is drawn, in the words of Hugging Face.

A draw is a race: each token's probability over an exponential number of its own, the largest wins,
as in `torch.multinomial`. Of one prompt all interventions race against the same numbers, so that
two texts part only where the probabilities do.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError


@dataclass(frozen=True)
class How:
    """How a token is chosen.

    Attributes:
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_k: only so many of the likeliest are drawn from; None for all.
        top_p: only the likeliest that have this probability together; None for all.
        beams: texts that are kept side by side; 1 is no search.
        length_penalty: a finished text of a beam is judged by its log-probability over its length
            to this power.
        seed: names the streams of draws.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    beams: int = 1
    length_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        drawn = self.temperature > 0
        if not 0 <= self.temperature < float("inf"):
            raise InterpError(
                f"temperature={self.temperature} is no temperature: it is 0 (the likeliest token, "
                "greedy) or more; 1 draws from the model's own probabilities."
            )
        if not drawn and (self.top_k is not None or self.top_p is not None):
            raise InterpError(
                f"top_k={self.top_k} and top_p={self.top_p} choose what is drawn from, and with "
                "temperature=0 nothing is drawn: the likeliest token is taken (greedy). Give "
                "temperature=1 (the model's own probabilities), or leave them out."
            )
        if self.top_k is not None and self.top_k < 1:
            raise InterpError(f"top_k={self.top_k} leaves no token to draw; give 1 or more.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InterpError(
                f"top_p={self.top_p} is no share of the probability; give more than 0, at most 1."
            )
        if self.beams < 1:
            raise InterpError(f"beams={self.beams} keeps no text; 1 is no search, 4 a usual one.")
        if self.beams > 1 and drawn:
            raise InterpError(
                f"beams={self.beams} looks for likely texts and temperature={self.temperature} "
                "draws; give one of them."
            )


def seeds(seed: int, prompts: Sequence[Sequence[int]]) -> list[int]:
    """The seed of each prompt's stream: that of its tokens, and of which of its like it is.

    What is drawn for a prompt does not depend on the others. `torch.manual_seed` with it and
    `generate(do_sample=True)` of the prompt alone, on a processor, draws the same in Hugging Face.
    """
    seen: Counter[tuple[int, ...]] = Counter()
    found = []
    for ids in map(tuple, prompts):
        name = f"interp.generate {seed} {seen[ids]} {ids}"
        seen[ids] += 1
        found.append(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))
    return found


@dataclass(eq=False)
class Chooser:
    """Chooses the next token of each text.

    Args:
        seeds: of the stream of each row.
    """

    how: How
    seeds: Sequence[int]
    streams: list[torch.Generator] = field(init=False)

    def __post_init__(self) -> None:
        self.streams = [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def __call__(self, logits: Float[Tensor, "cells batch d_vocab"]) -> Int[Tensor, "cells batch"]:
        if not self.how.temperature:
            return logits.float().argmax(-1)
        scores = warped(logits.float(), self.how)
        race = [torch.empty(scores.shape[-1]).exponential_(generator=g) for g in self.streams]
        return (scores.softmax(-1) / torch.stack(race).to(scores.device)).argmax(-1)


def warped(scores: Float[Tensor, "*texts d_vocab"], how: How) -> Float[Tensor, "*texts d_vocab"]:
    """Logits over the temperature, minus infinity where nothing is drawn.

    As transformers' `TemperatureLogitsWarper`, `TopKLogitsWarper` and `TopPLogitsWarper`, in this
    order.
    """
    scores = scores / how.temperature
    if how.top_k is not None and how.top_k < scores.shape[-1]:
        least = scores.topk(how.top_k).values[..., -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if how.top_p is not None and how.top_p < 1:
        ordered, index = scores.sort(descending=False)
        out = ordered.softmax(-1).cumsum(-1) <= 1 - how.top_p
        out[..., -1] = False
        scores = scores.masked_fill(out.scatter(-1, index, out), -torch.inf)
    return scores
