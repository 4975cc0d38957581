"""Attention between words, from attention between tokens (Clark et al. 2019, §4.1).

Attention *to* a word is the sum over its tokens, attention *from* a word the mean over its tokens.
Special tokens belong to no word, so they drop out; where there is none, a row begins with a word,
and that one is the attention sink (`interp.datasets.words.links.begins_row`). A word attends
neither to itself nor to one that it shares a token with, and under a causal mask only to words that
end before it begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int16
from numpy import ndarray
from torch import Tensor

from interp.core.errors import InterpError
from interp.datasets.words.alignment import Alignment


@dataclass(frozen=True, eq=False)
class Words:
    """The words of some rows of one length, padded to as many in each.

    Attributes:
        ids: the index of each word in the alignment; -1 where a row has no more words.
        sentence: of each word.
        start, end: its tokens in the row, [start, end).
    """

    ids: Int[Tensor, "batch word"]
    sentence: Int[Tensor, "batch word"]
    start: Int[Tensor, "batch word"]
    end: Int[Tensor, "batch word"]

    @classmethod
    def of(cls, alignment: Alignment, rows: Sequence[ndarray], device: torch.device) -> "Words":
        """Of rows that are given by the indices of their words in the alignment."""
        parts = [torch.as_tensor(row) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1)
        known = ids >= 0

        def gathered(values: ndarray) -> Int[Tensor, "batch word"]:
            return torch.where(known, torch.as_tensor(values)[ids], -1).to(device)

        places = map(gathered, (alignment.sentence, alignment.start, alignment.end))
        return cls(ids.to(device), *places)

    @property
    def known(self) -> Bool[Tensor, "batch word"]:
        """Where there is a word."""
        return self.ids >= 0

    def attention(
        self, pattern: Float[Tensor, "batch query head key"]
    ) -> Float[Tensor, "batch head source target"]:
        """Attention from each word to each word: the mean over its tokens, of the sum over theirs.

        Raises:
            InterpError: attention that is not finite.
        """
        inside = self._inside(pattern)
        to = torch.einsum("bqhk,btk->bhqt", _exact(pattern), inside)
        between = torch.einsum("bsq,bhqt->bhst", inside, to)
        between = between / inside.sum(-1)[:, None, :, None].clamp(min=1)
        if not bool(between.isfinite().all()):
            raise InterpError(
                "an attention pattern holds NaN or infinity, so no word is the most attended; look "
                "at the weights, or load the model in float32."
            )
        return between

    def to_first(
        self, pattern: Float[Tensor, "batch query head key"]
    ) -> Float[Tensor, "batch head source"]:
        """Attention from each word to the first token of its row, or to the word that holds it."""
        holds = self.known & (self.start == 0)
        until = torch.where(holds, self.end, 1).amax(-1)
        place = torch.arange(pattern.shape[-1], device=pattern.device)
        sink = (place < until[:, None]).to(_exact(pattern).dtype)
        to = torch.einsum("bqhk,bk->bhq", _exact(pattern), sink)
        inside = self._inside(pattern)
        return torch.einsum("bsq,bhq->bhs", inside, to) / inside.sum(-1)[:, None].clamp(min=1)

    def _inside(
        self, pattern: Float[Tensor, "batch query head key"]
    ) -> Float[Tensor, "batch word pos"]:
        """1 at the tokens of each word."""
        place = torch.arange(pattern.shape[1], device=pattern.device)
        inside = (place >= self.start[..., None]) & (place < self.end[..., None])
        return inside.to(_exact(pattern).dtype)

    def apart(self, *, causal: bool) -> Bool[Tensor, "batch source target"]:
        """Which words may attend to which."""
        start, end = self.start, self.end
        left = end[:, None, :] <= start[:, :, None]
        right = end[:, :, None] <= start[:, None, :]
        both = self.known[:, None, :] & self.known[:, :, None]
        return both & (left if causal else left | right)

    def together(self) -> Bool[Tensor, "batch source target"]:
        """Which words stand in one sentence."""
        return self.sentence[:, None, :] == self.sentence[:, :, None]

    def distance(
        self,
        attention: Float[Tensor, "batch head source target"],
        allowed: Bool[Tensor, "batch source target"],
        *,
        ask: Literal["source", "target"],
    ) -> Int16[ndarray, "head known"]:
        """How many words away is the most-attended target, or the most-attending source.

        Args:
            ask: "target": for each source word the target that it attends to most; "source": for
                each target word the source that attends to it most.

        Returns:
            For each word, row by row without padding; 0 where none is allowed or has attention.
            Of equals the first counts.
        """
        axis = -1 if ask == "target" else -2
        weighed = attention.masked_fill(~allowed[:, None], 0)
        found = weighed.argmax(axis)
        some = weighed.gather(axis, found.unsqueeze(axis)).squeeze(axis) > 0
        ids = self.ids[:, None].expand_as(found)
        away = torch.where(some, ids.gather(-1, found) - ids, 0)
        return away.transpose(0, 1)[:, self.known].cpu().numpy().astype(np.int16)


def _exact(pattern: Tensor) -> Tensor:
    """Sums of half precision would lose digits."""
    return pattern.double() if pattern.dtype == torch.float64 else pattern.float()
