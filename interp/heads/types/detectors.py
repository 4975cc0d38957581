"""Head detectors: how much of a head's attention goes where one kind of head would look.

A detector says which *sources* each *destination* would attend to, from token ids alone. Its score
is the head's attention on them: summed over the sources of a destination, then the mean over the
destinations that have any. So a head that looks nowhere else scores 1, however often a token was
repeated, and uniform attention scores what `uniform` says.

| detector | sources of destination i |
| --- | --- |
| `PREVIOUS` | i - 1 |
| `DUPLICATE` | j < i with the same token |
| `INDUCTION` | j + 1 for all j < i with the same token (prefix matching, Olsson et al. 2022) |
| `FIRST` | 0, where heads rest that find nothing |
| `offset(k)` | i + k |
| `positional(k)` | i + k; counts whether attention is largest there (Voita et al. 2019) |
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import NotEmpty, shown
from interp.core.errors import Unsupported

Sources = Callable[[Int[Tensor, "row pos"]], Bool[Tensor, "row destination source"]]
Tokens = Int[Tensor, "row pos"]
Null = Literal["rows", "sources"]


@door
@dataclass(frozen=True)
class Detector:
    """What one kind of head attends to.

    Attributes:
        name: the word in the `metric` column.
        sources: True where a destination has a source.
        counts: the attention on the sources, or whether the most-attended position (the first of
            equals) is one of them: the share of destinations where it is.
        null: what the score is compared with, see `interp.heads.detect`. "sources": the mean
            over all ways of permuting each destination's sources among the positions that it
            sees; "rows": the mean over the sources that other rows have. The latter is for
            detectors that depend on the tokens: a head that looks at a fixed distance passes the
            former wherever the repeats stand at that distance.
    """

    name: Annotated[str, NotEmpty()]
    sources: Sources
    counts: Literal["attention", "maximum"] = "attention"
    null: Null = "sources"

    def __post_init__(self) -> None:
        if self.counts == "maximum" and self.null == "rows":
            raise Unsupported(
                f"the detector {self.name!r} counts maxima, and the null 'rows' is of attention; "
                "take null='sources'."
            )

    def find(self, tokens: Tokens) -> Bool[Tensor, "row destination source"]:
        """Its sources in some rows.

        Raises:
            Unsupported: what a function of the user's own gives in their place.
        """
        found, size = self.sources(tokens), (*tokens.shape, tokens.shape[1])
        if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape != size:
            raise Unsupported(
                f"the sources of the detector {self.name!r} are {shown(found)}, where True or "
                f"False is needed for each row, destination and source: a tensor of bool, {size}."
            )
        return found


def _offset(tokens: Tokens, *, by: int) -> Bool[Tensor, "row destination source"]:
    rows, pos = tokens.shape
    place = torch.arange(pos, device=tokens.device)
    return (place == place[:, None] + by).expand(rows, -1, -1)


def _duplicate(tokens: Tokens) -> Bool[Tensor, "row destination source"]:
    return (tokens[:, :, None] == tokens[:, None, :]).tril(-1)


def _induction(tokens: Tokens) -> Bool[Tensor, "row destination source"]:
    found = _duplicate(tokens)
    return torch.cat([torch.zeros_like(found[..., :1]), found[..., :-1]], -1)


def _first(tokens: Tokens) -> Bool[Tensor, "row destination source"]:
    rows, pos = tokens.shape
    place = torch.arange(pos, device=tokens.device)
    return ((place == 0) & (place[:, None] > 0)).expand(rows, -1, -1)


@door
def offset(by: int) -> Detector:
    """Attention on the position so many tokens away; negative is to the left."""
    return Detector(f"offset {by:+d}", partial(_offset, by=by))


@door
def positional(by: int) -> Detector:
    """How often attention is largest so many tokens away.

    Voita et al. (2019, sec. 4) call a head positional where it is at least 0.9.
    """
    return Detector(f"positional {by:+d}", partial(_offset, by=by), counts="maximum")


PREVIOUS = Detector("previous", partial(_offset, by=-1))
DUPLICATE = Detector("duplicate", _duplicate, null="rows")
INDUCTION = Detector("induction", _induction, null="rows")
FIRST = Detector("first", _first)
DETECTORS: tuple[Detector, ...] = (
    PREVIOUS,
    DUPLICATE,
    INDUCTION,
    FIRST,
    offset(0),
    offset(-2),
    positional(-1),
    positional(-2),
)
ENTROPY = "entropy"
"""The metric of how spread attention is, in nats: no detector, since it has no sources."""


def weights(
    detector: Detector, tokens: Tokens, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "row destination source"]:
    """1 / n at each source, where n destinations of the row have any.

    The sum of attention times these is the score. A row without sources has none: all are 0.
    """
    sources = detector.find(tokens)
    n = sources.any(-1).sum(-1).clamp(min=1)
    return sources.to(dtype) / n[:, None, None]


def score(
    detector: Detector, tokens: Tokens, pattern: Float[Tensor, "row destination head source"]
) -> Float[Tensor, "row head"]:
    """The score of each head on each row.

    Args:
        pattern: attention probabilities.

    Returns:
        Numbers from 0 to 1; NaN for a row in which no destination has a source.
    """
    found = weights(detector, tokens, dtype=pattern.dtype)
    if detector.counts == "maximum":
        scores = at_maximum(found[:, None], pattern)[:, 0]
    else:
        scores = torch.einsum("rds,rdhs->rh", found, pattern)
    return scores.masked_fill((found == 0).flatten(1).all(1)[:, None], torch.nan)


def at_maximum(
    weights: Float[Tensor, "row detector destination source"],
    pattern: Float[Tensor, "row destination head source"],
) -> Float[Tensor, "row detector head"]:
    """The weights at the most-attended source of each destination, summed."""
    most = pattern.argmax(-1)  # row destination head
    index = most[:, None].expand(-1, weights.shape[1], -1, -1)
    return weights.gather(-1, index).sum(2)


def entropy(
    pattern: Float[Tensor, "row destination head source"],
) -> Float[Tensor, "row head"]:
    """Mean entropy of attention in nats, over all destinations but the first.

    The first of a causal model has one source, so nothing to choose.
    """
    tiny = torch.finfo(pattern.dtype).tiny  # 0 log 0 is 0
    return -(pattern * pattern.clamp(min=tiny).log()).sum(-1)[:, 1:].mean(1)


def uniform(pos: int, *, causal: bool) -> Float[Tensor, "destination source"]:
    """The pattern that spreads attention evenly over what a destination sees, in float64.

    Its score is the mean of any pattern's over all ways of permuting each destination's sources
    among what it sees, because attention sums to 1: the exact null of `null="sources"`. For
    prefix matching on 25 tokens repeated 4 times after a BOS it is 0.031.
    """
    seen = torch.ones(pos, pos, dtype=torch.float64)
    seen = seen.tril() if causal else seen
    return seen / seen.sum(-1, keepdim=True)


def structure(tokens: Tokens) -> Int[Tensor, "row pos"]:
    """Which positions hold the same token, whatever it is: the place where each was seen first."""
    return (tokens[:, :, None] == tokens[:, None, :]).int().argmax(-1)


def summed_in(dtype: torch.dtype) -> torch.dtype:
    """Scores are summed in float32 at least."""
    return torch.promote_types(dtype, torch.float32)
