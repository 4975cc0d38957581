"""A recurrent model as frozen weights and pure functions: one layer unrolled, and a plain run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.core.parts.facts import Facts
from interp.core.parts.sites import Kind
from interp.engine.network.linear import Linear
from interp.engine.network.trace import See
from interp.models.model import Model

At = Callable[[Kind, int, Tensor], Tensor]
"""Is given a state and its place in the window, and gives the state that counts."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The gates of a layer, in torch's order: input, forget, candidate, output."""

    into: Linear
    back: Float[Tensor, "gates d_model"]


@dataclass(frozen=True, eq=False)
class Recurrence:
    """A whole recurrent model."""

    facts: Facts
    embed: Float[Tensor, "d_vocab d_model"]
    layers: tuple[Layer, ...]
    unembed: Float[Tensor, "d_vocab d_model"]

    def logits(
        self,
        h: Float[Tensor, "cells batch d_model"],
        columns: Int[Tensor, "batch columns"] | None = None,
    ) -> Float[Tensor, "cells batch columns"]:
        """What is read off a last hidden state; only the given vocabulary columns of each row."""
        if columns is None:
            return F.linear(h, self.unembed)
        return torch.einsum("cbd,bvd->cbv", h, F.embedding(columns, self.unembed))


def recurrence_of(model: Model) -> Recurrence:
    """Views of the model's own parameters; the two biases of a layer are added."""
    module = model.bridge
    lstm = cast(nn.LSTM, module.lstm)

    def part(name: str, layer: int) -> Tensor:
        return getattr(lstm, f"{name}_l{layer}").detach()

    layers = tuple(
        Layer(
            Linear(part("weight_ih", layer), part("bias_ih", layer) + part("bias_hh", layer)),
            part("weight_hh", layer),
        )
        for layer in range(model.facts.n_layers)
    )
    tables = (cast(Tensor, table.weight).detach() for table in (module.embed, module.unembed))
    embed, unembed = tables
    return Recurrence(model.facts, embed, layers, unembed)


def unroll(
    layer: Layer,
    driven: Float[Tensor, "window _ batch gates"],
    c: Float[Tensor, "cells batch d_model"],
    h: Float[Tensor, "cells batch d_model"],
    at: At,
) -> Iterator[tuple[Float[Tensor, "cells batch d_model"], Float[Tensor, "cells batch d_model"]]]:
    """Cell and hidden state after each position, from those before the first.

    `driven`: what the input gives to the gates, of each cell or of all.
    """
    for place, drive in enumerate(driven):
        i, f, g, o = (drive + F.linear(h, layer.back)).chunk(4, -1)
        c = at("c", place, f.sigmoid() * c + i.sigmoid() * g.tanh())
        h = at("h", place, o.sigmoid() * c.tanh())
        yield c, h


def walk(
    w: Recurrence, tokens: Int[Tensor, "batch pos"], see: See, *, layers: int | None = None
) -> Float[Tensor, "batch pos d_model"]:
    """Run the model plainly, show what enters each layer and its states; give the last h."""
    x = F.embedding(tokens, w.embed)
    for index, layer in enumerate(w.layers[:layers]):
        see("resid_pre", index, x)
        zero = torch.zeros_like(x[:, 0])[None]
        driven = layer.into(x).transpose(0, 1)[:, None]
        steps = list(unroll(layer, driven, zero, zero, lambda kind, place, state: state))
        c, x = (torch.cat(states).transpose(0, 1) for states in zip(*steps, strict=True))
        see("c", index, c)
        see("h", index, x)
    return x
