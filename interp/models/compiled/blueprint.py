"""What weights written by hand are written in: a stream of named subspaces, heads that use them.

The models have no norms and no biases but those of MLPs, so that every number of the residual
stream is a sum of what was written into its subspace, and nothing else.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.small.native import Shape

HARD = 40.0
"""By how much the score of a key that is meant exceeds, at least, that of one that is not.

That is a temperature of 1/40 for scores that differ by 1. exp(-40) = 4e-18 is less than the
distance between 1 and the next float64 (2e-16), so attention is 1, or equal shares, to the last
digit, and what must not matter does not matter at all.
"""
CLOCK = {"one": 1, "place": 1, "square": 1}
"""Subspaces of a position p: 1, p and p squared."""


@dataclass(frozen=True)
class Stream:
    """The residual stream, cut into subspaces along the axes, in order.

    Attributes:
        widths: of each subspace by its name, in scalars.
    """

    widths: Mapping[str, int]

    @property
    def width(self) -> int:
        """d_model."""
        return sum(self.widths.values())

    def __getitem__(self, name: str) -> slice:
        """Which coordinates a subspace has."""
        names = list(self.widths)
        start = sum(self.widths[earlier] for earlier in names[: names.index(name)])
        return slice(start, start + self.widths[name])


@dataclass(frozen=True, eq=False)
class Head:
    """One attention head. Its scores are `(x_i q) . (x_j k)`: no division by sqrt(d_head).

    Attributes:
        q, k: what a reader asks for and what a source offers (the QK circuit).
        v, o: what is taken from the source and where it is written (the OV circuit).
    """

    q: Float[Tensor, "d_model d_head"]
    k: Float[Tensor, "d_model d_head"]
    v: Float[Tensor, "d_model d_head"]
    o: Float[Tensor, "d_head d_model"]


@dataclass(frozen=True, eq=False)
class Neurons:
    """`relu(x w_in + b_in) w_out`."""

    w_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, " d_mlp"]
    w_out: Float[Tensor, "d_mlp d_model"]


@dataclass(frozen=True, eq=False)
class Blueprint:
    """All weights of a model, float64.

    Attributes:
        tokens: the embedding.
        places: learned positions, or None without any.
        layers: the heads of each layer.
        mlps: one for each layer, or none.
        n_ctx: the longest row of tokens.
    """

    tokens: Float[Tensor, "d_vocab d_model"]
    places: Float[Tensor, "n_ctx d_model"] | None
    layers: tuple[tuple[Head, ...], ...]
    unembed: Float[Tensor, "d_model d_vocab"]
    n_ctx: int
    mlps: tuple[Neurons, ...] = ()

    @property
    def shape(self) -> Shape:
        """Of the native model that takes them."""
        d_vocab, d_model = self.tokens.shape
        return Shape(
            n_layers=len(self.layers),
            n_heads=len(self.layers[0]),
            d_model=d_model,
            d_head=self.layers[0][0].q.shape[1],
            d_vocab=d_vocab,
            n_ctx=self.n_ctx,
            d_mlp=self.mlps[0].w_in.shape[1] if self.mlps else 0,
            norm="none",
            positions="none" if self.places is None else "learned",
            activation="relu",
        )

    def state(self) -> dict[str, Tensor]:
        """The weights as `interp.models.small.native.build` takes them: matrices as nn.Linear has
        them.

        Queries are multiplied by the sqrt(d_head) that the model divides scores by. The sizes of
        heads are squares of whole numbers, so that this rounds nothing.
        """
        found = {"tok_embed.weight": self.tokens, "head.weight": self.unembed.T}
        if self.places is not None:
            found["pos.weight"] = self.places
        for layer, heads in enumerate(self.layers):
            root, at = math.sqrt(heads[0].q.shape[1]), f"layers.{layer}.attn"
            found[f"{at}.q.weight"] = torch.cat([head.q.T * root for head in heads])
            found[f"{at}.k.weight"] = torch.cat([head.k.T for head in heads])
            found[f"{at}.v.weight"] = torch.cat([head.v.T for head in heads])
            found[f"{at}.o.weight"] = torch.cat([head.o.T for head in heads], 1)
            for part in "qkvo":
                found[f"{at}.{part}.bias"] = zeros(len(found[f"{at}.{part}.weight"]))
        for layer, mlp in enumerate(self.mlps):
            at = f"layers.{layer}.mlp"
            found |= {f"{at}.fc_in.weight": mlp.w_in.T, f"{at}.fc_in.bias": mlp.b_in}
            found |= {f"{at}.fc_out.weight": mlp.w_out.T}
            found[f"{at}.fc_out.bias"] = zeros(mlp.w_out.shape[1])
        return {name: value.contiguous() for name, value in found.items()}


def zeros(*size: int) -> Tensor:
    """A matrix to write into."""
    return torch.zeros(*size, dtype=torch.float64)


def eye(n: int) -> Float[Tensor, "n n"]:
    """Each of n axes to its own."""
    return torch.eye(n, dtype=torch.float64)


def clock(stream: Stream, n_ctx: int) -> Float[Tensor, "n_ctx d_model"]:
    """Positions as (1, p, p squared) in the subspaces of CLOCK: see `heads.at_place`."""
    table, place = zeros(n_ctx, stream.width), torch.arange(n_ctx, dtype=torch.float64)
    for name, power in (("one", 0), ("place", 1), ("square", 2)):
        table[:, stream[name]] = place[:, None] ** power
    return table
