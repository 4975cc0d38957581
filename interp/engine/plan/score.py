"""Metrics for the rows of a block: what they read of a run, and where.

A `Score` is one metric, a `Readout` several of one run: what they read is computed once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.metrics import Answers, Metric
from interp.core.prompts.pairs import Pairs
from interp.engine.limits import Limits
from interp.engine.network.trace import take
from interp.engine.plan.positions import reading
from interp.models.model import Model


@dataclass(frozen=True, eq=False)
class Score:
    """A metric, the answers of some rows, and the positions that it reads in them.

    Attributes:
        following: the token after each read position, where a metric reads all of them.
    """

    metric: Metric
    answers: Answers
    read: Int[Tensor, "batch read"]
    following: Int[Tensor, "batch read"] | None = None

    @classmethod
    def of_rows(cls, model: Model, pairs: Pairs, metric: Metric, rows: Sequence[int]) -> "Score":
        """For rows of one length; `Answers.reference` is still to be filled."""
        index = list(rows)
        read = reading(model.facts, pairs, metric, index).to(model.device)
        correct, wrong, clean = (
            x[index].to(model.device) for x in (pairs.correct, pairs.wrong, pairs.clean)
        )
        if metric.everywhere and model.facts.n_encoder_layers:
            _, written = pairs.ids("clean", index)
            assert written is not None  # who has none is refused: nothing follows a start token
            following = written.to(model.device)
        else:
            following = clean.gather(1, read + 1) if metric.everywhere else None
        return cls(metric, Answers(correct, wrong), read, following)

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
        unembed: Callable[[Tensor, Tensor | None, slice], Tensor],
        wide: int,
    ) -> Float[Tensor, "cells batch"]:
        """The metric of final residual streams at the read positions.

        `unembed` makes the logits of some columns at some of the read positions, flattened into
        the rows; `wide` is how many columns there are in all.
        """
        if self.metric.reads == "embedding":
            return self(final.mean(2))
        if self.following is not None:
            size = wide * final.element_size()
            return self._mean(
                lambda at: unembed(final[:, :, at].flatten(1, 2), None, at), len(final), size
            )
        columns, final = self.columns, final[:, :, 0]
        wide = wide if columns is None else columns.shape[1]
        most = Limits.of(final.device).logits
        size = max(1, most // (final.shape[1] * wide * final.element_size()))
        first = slice(0, 1)
        return torch.cat([self(unembed(part, columns, first)) for part in final.split(size)])

    def of(
        self,
        logits: Float[Tensor, "batch pos d_vocab"] | None,
        final: Float[Tensor, "batch pos d_model"],
    ) -> Float[Tensor, "1 batch"]:
        """The metric of a whole run."""
        if self.following is not None and logits is not None:
            size = logits.shape[-1] * logits.element_size()
            return self._mean(
                lambda at: take(logits, self.read[:, at]).flatten(0, 1)[None], 1, size
            )
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

    def _mean(
        self, logits: Callable[[slice], Tensor], cells: int, size: int
    ) -> Float[Tensor, "cells batch"]:
        """The mean over the read positions, a few of them at a time; one's logits are `size`."""
        assert self.following is not None
        batch, read = self.following.shape
        step = max(1, Limits.of(self.following.device).logits // (cells * batch * size))
        values = []
        for start in range(0, read, step):
            at = slice(start, min(start + step, read))
            ids = self.following[:, at].flatten()
            found = self.metric(logits(at), Answers(ids, torch.full_like(ids, -1)))
            values.append(found.view(cells, batch, -1))
        return torch.cat(values, -1).mean(-1)


@dataclass(frozen=True, eq=False)
class Readout:
    """Several metrics of one run.

    Attributes:
        read: the positions that any of them reads.
        places: where in them each metric's own are.
    """

    scores: tuple[Score, ...]
    read: Int[Tensor, "batch read"]
    places: tuple[slice, ...]

    @classmethod
    def of(cls, *scores: Score) -> "Readout":
        """Positions that several read stand once."""
        parts: dict[str | int, Tensor] = {}
        starts: dict[str | int, int] = {}
        for score in scores:
            if score.metric.position not in parts:
                starts[score.metric.position] = sum(part.shape[1] for part in parts.values())
                parts[score.metric.position] = score.read
        at = [(starts[score.metric.position], score.read.shape[1]) for score in scores]
        places = tuple(slice(start, start + width) for start, width in at)
        return cls(scores, torch.cat([*parts.values()], 1), places)

    @classmethod
    def of_rows(
        cls, model: Model, pairs: Pairs, metrics: Sequence[Metric], rows: Sequence[int]
    ) -> "Readout":
        """For rows of one length; references are still to be filled."""
        return cls.of(*(Score.of_rows(model, pairs, metric, rows) for metric in metrics))

    def referring(self, found: Callable[[Score], Tensor]) -> "Readout":
        """With what the clean run says, where a metric compares with that."""
        scores = tuple(
            replace(score, answers=replace(score.answers, reference=found(score)))
            if score.metric.needs_reference
            else score
            for score in self.scores
        )
        return replace(self, scores=scores)

    def of_final(
        self,
        final: Float[Tensor, "cells batch read d_model"],
        unembed: Callable[[Score, slice, Tensor, Tensor | None, slice], Tensor],
        wide: int,
    ) -> Float[Tensor, "metrics cells batch"]:
        """All metrics of final residual streams at the positions that are read.

        `unembed` is given the metric and where it reads, and what `Score.of_final` gives it.
        """
        return torch.stack(
            [
                score.of_final(final[:, :, place], partial(unembed, score, place), wide)
                for score, place in zip(self.scores, self.places, strict=True)
            ]
        )

    def of_run(
        self,
        logits: Float[Tensor, "batch pos d_vocab"] | None,
        final: Float[Tensor, "batch pos d_model"],
    ) -> Float[Tensor, "metrics 1 batch"]:
        """All metrics of a whole run."""
        return torch.stack([score.of(logits, final) for score in self.scores])
