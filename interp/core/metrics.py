"""Metrics: logits at the read position, or an embedding -> one float per example.

`"logit_diff@mask"` reads a metric at another named position, `"cosine@mean"` over all tokens,
`"prob@all"` wherever a token follows: what follows is then the answer, and the mean counts.

The reduction over examples is not a metric's business; it belongs to Results, where it gets
its interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Told
from interp.core.errors import InterpError, MetricError, is_short, nearest, said

ALONE = 1_000
"""Units in the last place by which an example by itself may differ from it in a batch."""
ALL = "all"
"""Where a metric of running text reads: at every position that another token follows."""


@dataclass(frozen=True)
class Answers:
    """What a metric may know of the examples beside the logits.

    Attributes:
        correct, wrong: token ids; -1 where the pairs have no answers.
        reference: logits (or the embedding) of the clean run at the read position.
    """

    correct: Int[Tensor, " batch"]
    wrong: Int[Tensor, " batch"]
    reference: Float[Tensor, "batch columns"] | None = None

    def last(self) -> "Answers":
        """Of the last example alone."""
        known = None if self.reference is None else self.reference[-1:]
        return Answers(self.correct[-1:], self.wrong[-1:], known)


Worse = Literal["higher", "lower"]
"""Where a metric goes when a model loses what it can do."""


@door
@dataclass(frozen=True)
class Metric:
    """A function of the logits at one position.

    Attributes:
        name: the word in the `metric` column.
        fn: takes logits and `Answers`, returns one float per example (last axis: batch).
        reads: `"answers"` gets two columns, the correct and the wrong answer's logit, and saves
            the rest of the unembedding; `"vocabulary"` gets every logit; `"embedding"` gets the
            residual stream after the last layer (of an encoder: its last hidden state).
        position: the named position that is read, of an encoder-decoder one of the target's; for
            an embedding `"mean"` averages all tokens. `"all"`: the function is applied at every
            position that a token follows, with the clean row's next token (of an encoder-decoder
            the clean target's) as `Answers.correct`, and the mean is the example's number.
        needs_reference: `Answers.reference` is filled from the clean run.
        needs_answers: pairs without answers are refused.
        version: of a function whose code does not say all that it reads (a file, a generator): then
            this, and not the code, says whether numbers that a `checkpoint=` kept are of the same
            metric. Change it whenever the function gives other numbers.
        worse: where it goes when a model loses what it can do, for searches that cut what is not
            needed; None is not known.
        label: what an axis calls it, with its unit; the name by default.
    """

    name: str
    fn: Callable[[Tensor, Answers], Tensor]
    reads: Literal["answers", "vocabulary", "embedding"] = "vocabulary"
    position: str = "end"
    needs_reference: bool = False
    needs_answers: bool = True
    version: str | None = None
    worse: Worse | None = field(default=None, metadata={"hash": False})
    label: str = field(default="", metadata={"hash": False})

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise MetricError("a metric has a name: it is what tables and figures call it.")
        if self.position == "mean" and self.reads != "embedding":
            raise MetricError(
                f"metric {self.name!r} reads logits, which stand at a position: 'mean' is for "
                "embeddings. Name a position, as in 'logit_diff@end'."
            )
        if self.everywhere and (self.reads != "vocabulary" or self.needs_reference):
            raise MetricError(
                f"metric {self.name!r} is not read at all positions: there the only answer is the "
                "token that follows. Take 'next_token_loss', or name a position, as in "
                "'logit_diff@end'."
            )

    @property
    def everywhere(self) -> bool:
        """Is it the mean over all positions that have a next token?"""
        return self.position == ALL

    def __call__(
        self, logits: Float[Tensor, "cells batch columns"], answers: Answers
    ) -> Float[Tensor, "cells batch"]:
        """Apply, and refuse anything but one float per example.

        Raises:
            MetricError: the function failed, gave no real numbers, reduced over the batch, gave
                NaN or infinity, or another number to an example by itself.
        """
        if logits.dtype != torch.float64:
            logits = logits.float()  # half precision cannot hold a rank or a small difference
        values = self._values(logits, answers)
        if values.shape != logits.shape[:2]:
            raise MetricError(
                f"metric {self.name!r} returned shape {tuple(values.shape)} for logits of shape "
                f"{tuple(logits.shape)} (cells, batch, columns); it must return one value per "
                f"example, {tuple(logits.shape[:2])}. Do not take the mean over the batch in the "
                "metric: Results.summary() does it and gives the interval."
            )
        if not torch.isfinite(values).all():
            cell, example = (~torch.isfinite(values)).nonzero()[0].tolist()
            ids = f"correct token {answers.correct[example]}, wrong token {answers.wrong[example]}"
            one = "token" if self.everywhere else "example"
            raise MetricError(
                f"metric {self.name!r} is {values[cell, example].item()} for {one} {example} of "
                f"a batch of {values.shape[1]} ({ids}); the logits hold NaN or infinity there, or "
                "the metric divides by zero."
            )
        self._require_own(logits, answers, values)
        return values.to(logits.dtype)

    @property
    def _ours(self) -> bool:
        return getattr(self.fn, "__module__", "") == __name__

    def _values(self, logits: Tensor, answers: Answers) -> Tensor:
        """What the function gives, as a tensor of real numbers.

        A function of the user's own gets copies: other metrics read the same logits.
        """
        given = (logits, answers) if self._ours else _copied(logits, answers)
        try:
            found = self.fn(*given)
            exact = None if isinstance(found, Tensor | np.ndarray) else torch.float64
            values = torch.as_tensor(found, dtype=exact)
        except InterpError:
            raise
        except Exception as error:
            if is_short(error):
                raise
            raise MetricError(
                f"metric {self.name!r} failed with {said(error)}. It gets logits of shape "
                f"{tuple(logits.shape)} (cells, batch, columns) and Answers, and gives a tensor "
                f"of shape {tuple(logits.shape[:2])}; for attribution it is made of torch "
                "operations."
            ) from error
        if values.is_complex():
            raise MetricError(
                f"metric {self.name!r} gives {values.dtype}, and a metric is real: take its "
                "`.abs()` or `.real`."
            )
        return values

    @torch.no_grad()
    def _require_own(self, logits: Tensor, answers: Answers, values: Tensor) -> None:
        """Refuse a function whose number of an example depends on what runs beside it."""
        if self._ours or values.numel() < 2:
            return
        with_it, alone = float(values[-1, -1]), math.nan
        found = self._values(logits[-1:, -1:], answers.last())
        if found.numel() == 1:
            alone = float(found.reshape(()))
        near = ALONE * torch.finfo(logits.dtype).eps * max(1.0, float(logits.abs().max()))
        if not abs(alone - with_it) <= near * max(1.0, abs(with_it)):
            raise MetricError(
                f"metric {self.name!r} gives the last example {with_it:.6g} in a batch of "
                f"{tuple(values.shape)} (cells, batch) and {alone:.6g} by itself, so its numbers "
                "would depend on what happens to run together. Reduce over the last axis alone "
                "(dim=-1), and leave chance out."
            )


def _copied(logits: Tensor, answers: Answers) -> tuple[Tensor, Answers]:
    reference = None if answers.reference is None else answers.reference.clone()
    return logits.clone(), Answers(answers.correct.clone(), answers.wrong.clone(), reference)


def _at(logits: Tensor, ids: Tensor) -> Tensor:
    index = ids.to(logits.device).expand(logits.shape[:-1]).unsqueeze(-1)
    return logits.gather(-1, index).squeeze(-1)


def _log_prob(logits: Tensor, answers: Answers) -> Tensor:
    return _at(logits, answers.correct) - logits.logsumexp(-1)


def _rank(logits: Tensor, answers: Answers) -> Tensor:
    return (logits > _at(logits, answers.correct).unsqueeze(-1)).sum(-1)


def _first(logits: Tensor, answers: Answers) -> Tensor:
    return (logits >= _at(logits, answers.correct).unsqueeze(-1)).sum(-1) == 1


def _kl(logits: Tensor, answers: Answers) -> Tensor:
    assert answers.reference is not None  # the engine fills it: needs_reference
    reference = answers.reference.to(logits).log_softmax(-1)
    return (reference.exp() * (reference - logits.log_softmax(-1))).sum(-1)


def _cosine(embedding: Tensor, answers: Answers) -> Tensor:
    assert answers.reference is not None
    return torch.cosine_similarity(embedding, answers.reference.to(embedding), dim=-1)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # logit(correct) - logit(wrong): the IOI logit difference (Wang et al. 2022, sec. 2.1)
        Metric(
            "logit_diff",
            lambda x, a: x[..., 0] - x[..., 1],
            reads="answers",
            worse="lower",
            label="logit difference",
        ),
        # 1 where the correct answer scores above the wrong one; a tie is 0
        Metric("accuracy", lambda x, a: x[..., 0] > x[..., 1], reads="answers", worse="lower"),
        Metric("log_prob", _log_prob, worse="lower", label="log-probability (nats)"),
        # next-token cross-entropy
        Metric("loss", lambda x, a: -_log_prob(x, a), worse="higher", label="loss (nats)"),
        Metric("prob", lambda x, a: _log_prob(x, a).exp(), worse="lower", label="probability"),
        # tokens that score above the correct answer; 0: none does
        Metric("rank", _rank, worse="higher"),
        # of the correct class or token alone: a constant that is added to all logits moves it
        Metric(
            "logit",
            lambda x, a: _at(x, a.correct),
            worse="lower",
            label="logit of the correct answer",
        ),
        # of running text, the mean over its positions: nats, and the share of tokens that score
        # above all others (a tie is 0)
        Metric(
            "next_token_loss",
            lambda x, a: -_log_prob(x, a),
            position=ALL,
            needs_answers=False,
            worse="higher",
            label="next-token loss (nats)",
        ),
        Metric(
            "next_token_accuracy",
            _first,
            position=ALL,
            needs_answers=False,
            worse="lower",
            label="next-token accuracy",
        ),
        # KL(clean run || this run)
        Metric(
            "kl",
            _kl,
            needs_reference=True,
            needs_answers=False,
            worse="higher",
            label="KL divergence (nats)",
        ),
        # cosine of this run's embedding and the clean run's, each averaged over its tokens
        Metric(
            "cosine",
            _cosine,
            reads="embedding",
            position="mean",
            needs_reference=True,
            needs_answers=False,
            worse="lower",
            label="cosine similarity",
        ),
    )
}


def known(name: str) -> Metric | None:
    """The library's metric of a table's column, wherever it was read; None of one's own."""
    return METRICS.get(name.partition("@")[0])


def called(name: str) -> str:
    """What a metric is called in words, with where it was read: "logit difference at mid"."""
    _, at, position = name.partition("@")
    metric = known(name)
    return f"{metric.label or metric.name}{f' at {position}' if at else ''}" if metric else name


def resolve_metric(metric: str | Metric) -> Metric:
    """A metric by name, with `@position` to read it elsewhere, or the user's own.

    Raises:
        MetricError: unknown name.
    """
    if isinstance(metric, Metric):
        return metric
    if not isinstance(metric, str):
        raise MetricError(_no_metric(metric))
    name, _, position = metric.partition("@")
    if name not in METRICS:
        raise MetricError(
            f"unknown metric {name!r}; {nearest(name, METRICS)} Your own is interp.Metric(name, "
            "function)."
        )
    found = METRICS[name]
    return replace(found, name=metric, position=position) if position else found


def resolve_metrics(metric: str | Metric | Sequence[str | Metric]) -> tuple[Metric, ...]:
    """One or several metrics; all are read off the same runs.

    Raises:
        MetricError: unknown, none, one twice, or what is no metric.
    """
    given = [metric] if isinstance(metric, str | Metric) else metric
    if not isinstance(given, list | tuple):
        raise MetricError(_no_metric(metric))
    if not given:
        raise MetricError(f"no metric was given; known: {', '.join(METRICS)}.")
    found = tuple(map(resolve_metric, given))
    names = [m.name for m in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise MetricError(
            f"the metric {twice[0]!r} is given twice, and a table has one of a name. Leave one "
            "out, or give your own another name."
        )
    return found


def _no_metric(given: object) -> str:
    if callable(given):
        name = getattr(given, "__name__", "mine")
        return (
            f"the metric is a bare function ({name}), and what it reads is not said. Wrap it: "
            f'interp.Metric("{name}", {name}) gets the logits at the read position, '
            '"... batch d_vocab", and `Answers`, and gives one float per example.'
        )
    return (
        f"{given!r:.60} is no metric: give one of {', '.join(map(repr, METRICS))}, or your own "
        "interp.Metric(name, function), or a list of these."
    )


OneMetric = Annotated[str | Metric, Told(resolve_metric)]
"""A metric by name, or one's own."""
Metrics = Annotated[str | Metric | Sequence[str | Metric], Told(resolve_metrics)]
"""One metric or several, by name or one's own."""
