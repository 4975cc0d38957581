"""The vocabulary on both ends of the residual stream, a block of tokens at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import PairsError, Unsupported
from interp.engine.network import forward
from interp.engine.network.weights import Norm, Weights
from interp.heads.weights.factors import folded, scale, wide
from interp.models.model import Model

TOKENS_AT_ONCE = 4096
"""Rows that are held at a time: the tables themselves are the model's own and not copied."""


Ids = slice | Int[Tensor, " token"]
Blockwise = Callable[[slice], Float[Tensor, "token d_model"]]
Seen = Callable[[Float[Tensor, "token d_model"]], Float[Tensor, "token d_model"]]


class Products(NamedTuple):
    """Tokens' vectors, less their mean, times some vectors; and squared lengths."""

    along: Float[Tensor, "token vector"]
    square: Float[Tensor, " token"]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Embeddings and logit directions of tokens.

    Where tokens are compared they are taken less the mean of the vocabulary: what is added to every
    score or every logit changes no probability. In models with tied embeddings that shared part is
    large (half of the singular values' sum of W_U W_E in SmolLM2), and would hide all else.
    """

    w: Weights

    def __post_init__(self) -> None:
        """Refuse a model that reads images.

        Raises:
            Unsupported: what stands at its positions is made of pixels.
        """
        if self.w.embed.patches is not None:
            raise Unsupported(
                "this is asked of the tokens of a vocabulary, and the model reads images "
                f"({self.w.facts}), whose patches are no vocabulary. Ask what its parts do with "
                "images instead: interp.attention, ablate, patch, or composition of its heads."
            )

    def embedded(self, part: Ids) -> Float[Tensor, "token d_model"]:
        """What tokens are in the residual stream; positions left out."""
        p = self.w.embed
        rows = wide(p.tokens[part])
        return forward.norm(rows if p.scale is None else rows * p.scale, p.norm)

    def read(self, part: Ids, norm: Norm | None) -> Float[Tensor, "token d_model"]:
        """What factors that were folded with a norm act on, each token by itself."""
        rows = self.embedded(part)
        return rows / scale(rows, norm)

    def logit(self, part: Ids) -> Float[Tensor, "token d_model"]:
        """How the residual stream moves tokens' logits, but for the scale of the final norm."""
        p = self.w.unembed
        assert p is not None  # require_logits refuses models without
        return folded(p.linear.weight[part].T, p.norm)[0].T

    def products(
        self,
        rows: Blockwise,
        vectors: Float[Tensor, "d_model vector"],
        *,
        meets: Seen = lambda x: x,
    ) -> Products:
        """Every token's row, of `embedded`, `read` or `logit`, times the vectors.

        `meets`: linear; what a matrix behind the norm sees of a row, whose length is `square`.
        """
        mean = self._mean(rows)
        parts = [
            (x @ vectors, meets(x).square().sum(-1))
            for x in (rows(part) - mean for part in self._blocks())
        ]
        along, square = zip(*parts, strict=True)
        return Products(torch.cat(along), torch.cat(square))

    def gram(self) -> Float[Tensor, "d_model d_model"]:
        """W_U W_E: logit directions times embeddings, summed over the vocabulary.

        One side less its mean is enough: the other's mean then meets a sum of zero.
        """
        mean = self._mean(self.logit)
        found = [(self.logit(part) - mean).T @ self.embedded(part) for part in self._blocks()]
        return torch.stack(found).sum(0)

    def scores(self, layer: int, head: int, query: int) -> Float[Tensor, " token"]:
        """A layer's own scores of a query token and every token as a key, each standing alone.

        With the norms of queries and keys, and without positions; less the mean.
        """
        w, group = self.w, head // self.w.facts.group_size
        ids = torch.arange(w.facts.d_vocab, device=w.embed.tokens.device)
        asked = alone(w, layer, ids[query : query + 1])[0][0, head]
        found = torch.cat(
            [alone(w, layer, ids[part])[1][:, group] @ asked for part in self._blocks()]
        )
        return (found - found.mean()) * w.blocks[layer].attention.scale

    def _mean(self, rows: Blockwise) -> Float[Tensor, " d_model"]:
        sums = torch.stack([rows(part).sum(0) for part in self._blocks()])
        return sums.sum(0) / self.w.facts.d_vocab

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, self.w.facts.d_vocab, TOKENS_AT_ONCE):
            yield slice(start, min(start + TOKENS_AT_ONCE, self.w.facts.d_vocab))


def alone(
    w: Weights, layer: int, ids: Int[Tensor, " token"]
) -> tuple[Float[Tensor, "token head d_head"], Float[Tensor, "token group d_head"]]:
    """Queries and keys of a layer, before a rotation, if nothing stood before each token."""
    p, d_head = w.blocks[layer].attention, w.facts.d_head
    x = forward.norm(forward.embed(w, ids[:, None])[:, 0], p.ends.read)
    q, k = (forward.project(x, part, d_head) for part in (p.q, p.k))
    return wide(forward.head_norm(q, p.q_norm)), wide(forward.head_norm(k, p.k_norm))


def token_of(model: Model, token: int | str) -> int:
    """An id of the vocabulary.

    Raises:
        PairsError: a text that is not exactly one token, or an id outside the vocabulary.
        ModelError: a text, and the model has no tokenizer.
    """
    if isinstance(token, str):
        return model.token_id(token)
    if not 0 <= token < model.facts.d_vocab:
        raise PairsError(
            f"there is no token {token}: the vocabulary of {model.name} has the ids 0 to "
            f"{model.facts.d_vocab - 1}. Was the id made with another model's tokenizer?"
        )
    return token


def texts(model: Model, ids: list[int]) -> list[str]:
    """Readable tokens; "" where there is no tokenizer."""
    return model.show(ids) if model.tokenizer is not None else [""] * len(ids)
