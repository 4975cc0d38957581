"""A metric for the rows of a block: what it reads of a run, and where."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.metrics import Answers, Metric
from interp.engine.edits import take

LOGITS_AT_ONCE = 1 << 28
"""Bytes of logits that are held at a time when a metric reads the whole vocabulary."""


@dataclass(frozen=True, eq=False)
class Score:
    """A metric, the answers of some rows, and the positions that it reads in them."""

    metric: Metric
    answers: Answers
    read: Int[Tensor, "batch read"]

    @property
    def columns(self) -> Int[Tensor, "batch columns"] | None:
        """Vocabulary columns that are read; None for all."""
        if self.metric.reads == "vocabulary":
            return None
        return torch.stack([self.answers.correct, self.answers.wrong], 1)

    def __call__(self, found: Float[Tensor, "cells batch columns"]) -> Float[Tensor, "cells batch"]:
        return self.metric(found, self.answers)

    def of_final(
        self,
        final: Float[Tensor, "cells batch read d_model"],
        unembed: Callable[[Tensor, Tensor | None], Tensor],
        wide: int,
    ) -> Float[Tensor, "cells batch"]:
        """The metric of final residual streams at the read positions.

        `unembed` makes the logits of some columns, `wide` is how many there are in all.
        """
        if self.metric.reads == "embedding":
            return self(final.mean(2))
        columns, final = self.columns, final[:, :, 0]
        wide = wide if columns is None else columns.shape[1]
        size = max(1, LOGITS_AT_ONCE // (final.shape[1] * wide * final.element_size()))
        return torch.cat([self(unembed(part, columns)) for part in final.split(size)])

    def of(
        self,
        logits: Float[Tensor, "batch pos d_vocab"] | None,
        final: Float[Tensor, "batch pos d_model"],
    ) -> Float[Tensor, "1 batch"]:
        """The metric of a whole run."""
        found, columns = self.found(logits, final), self.columns
        if self.metric.reads == "answers" and columns is not None:
            found = found.gather(1, columns)
        return self(found[None])

    def found(
        self,
        logits: Float[Tensor, "batch pos d_vocab"] | None,
        final: Float[Tensor, "batch pos d_model"],
    ) -> Float[Tensor, "batch columns"]:
        """What the metric reads: every logit at the read position, or the embedding."""
        if self.metric.reads == "embedding":
            return take(final, self.read).mean(1)
        assert logits is not None
        return take(logits, self.read)[:, 0]
