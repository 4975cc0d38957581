"""Edge probing: what is the label of a span, or of two (Tenney et al. 2019, arXiv:1905.06316)?

A span's words are projected, pooled to one vector whatever their number, and classified; for two
spans (an arc, two mentions) their vectors are concatenated. One softmax over the classes, where
the paper has a sigmoid for each: every example here has one label.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Count
from interp.probing.fit.nets.adam import Parameters
from interp.probing.fit.nets.nets import Read, apply, layer

Pooling = Literal["attention", "endpoints"]


@door
@dataclass(frozen=True)
class SpanClassifier:
    """Classifier of one span or of two. A row is `start, end` of each: word numbers, [start, end).

    Attributes:
        spans: in an example; each has a projection and attention of its own.
        pooling: `"attention"`: mean of the projected words under a learned softmax over the words
            of the span (Lee et al. 2017, sec. 4); `"endpoints"`: first and last word, concatenated.
        project: dimensions that words are projected to.
        hidden: width of the classifier's hidden layer.
    """

    spans: Literal[1, 2] = 2
    pooling: Pooling = "attention"
    project: Count = 256
    hidden: Count = 256

    name: ClassVar[str] = "span"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("start", "end") if self.spans == 1 else ("start", "end", "start 2", "end 2")

    def start(self, d: int, classes: int, generator: torch.Generator) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for span in range(self.spans):
            found |= layer(f"project{span}", d, self.project, generator)
            if self.pooling == "attention":
                # a bias would cancel in the softmax
                found |= layer(f"attend{span}", self.project, 1, generator, bias=False)
        wide = self.spans * self.project * (1 if self.pooling == "attention" else 2)
        found |= layer("in", wide, self.hidden, generator)
        return found | layer("out", self.hidden, classes, generator)

    def words(self, rows: Int[Tensor, "example column"]) -> Int[Tensor, " word"]:
        return torch.cat([flat(*pair)[0] for pair in self._pairs(rows)])

    def logits(
        self, parameters: Parameters, read: Read, rows: Int[Tensor, "example column"]
    ) -> Float[Tensor, "problem example class"]:
        pooled = [
            self._pool(span, parameters, read, *pair) for span, pair in enumerate(self._pairs(rows))
        ]
        return apply("out", parameters, apply("in", parameters, torch.cat(pooled, -1)).relu())

    def _pairs(self, rows: Int[Tensor, "example column"]) -> list[tuple[Tensor, Tensor]]:
        return [(rows[:, 2 * span], rows[:, 2 * span + 1]) for span in range(self.spans)]

    def _pool(
        self,
        span: int,
        parameters: Parameters,
        read: Read,
        start: Int[Tensor, " example"],
        end: Int[Tensor, " example"],
    ) -> Float[Tensor, "problem example d_pooled"]:
        def project(words: Int[Tensor, " word"]) -> Float[Tensor, "problem word d_project"]:
            return apply(f"project{span}", parameters, read(words))

        if self.pooling == "endpoints":
            return torch.cat([project(start), project(end - 1)], -1)
        words, example = flat(start, end)
        projected = project(words)
        scores = apply(f"attend{span}", parameters, projected)[..., 0]
        return attend(projected, scores, example, len(start))


def flat(
    start: Int[Tensor, " example"], end: Int[Tensor, " example"]
) -> tuple[Int[Tensor, " word"], Int[Tensor, " word"]]:
    """The words of all spans one after the other, and the example that each belongs to."""
    lengths = end - start
    example = torch.arange(len(start), device=start.device).repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    return torch.arange(len(example), device=start.device) + (start - before)[example], example


def attend(
    values: Float[Tensor, "problem word d"],
    scores: Float[Tensor, "problem word"],
    example: Int[Tensor, " word"],
    examples: int,
) -> Float[Tensor, "problem example d"]:
    """Mean of the words of each example under the softmax of their scores: no padding."""
    with torch.no_grad():  # the shift cancels
        top = scores.new_full((len(scores), examples), -torch.inf)
        top.scatter_reduce_(1, example.expand_as(scores), scores, "amax")
    weights = (scores - top[:, example]).exp()
    total = weights.new_zeros(len(weights), examples).index_add(1, example, weights)
    pooled = values.new_zeros(len(values), examples, values.shape[-1])
    return pooled.index_add(1, example, weights[..., None] * values) / total[..., None]
