"""Mixtures of experts as one MLP: the neurons of all experts side by side, and a router.

An expert's neurons are multiplied by the weight that the router gives it for a token, 0 where it is
not chosen; the down projection adds up what they write. So neuron n of expert e is the MLP's neuron
e * width + n, and whatever is asked of an MLP can be asked of a mixture. Where nothing is asked of
neurons, experts run for the tokens alone that chose them.

The choice is a step: two experts that are nearly tied may be exchanged by rounding, which in half
precision may keep replay from serving.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.network.linear import Linear


@dataclass(frozen=True)
class Router:
    """A softmax over the experts, of which each token keeps the largest.

    Attributes:
        top: how many.
        whole: are the kept ones divided by their sum?
    """

    weight: Float[Tensor, "expert d_model"]
    top: int
    whole: bool

    def chosen(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[Float[Tensor, "*batch top"], Int[Tensor, "*batch top"]]:
        """Weights of a token's experts, and which they are. Half precision in float32."""
        logits = F.linear(x.to(self.weight.dtype), self.weight)
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        kept, index = logits.softmax(-1).topk(self.top, -1)
        return kept / kept.sum(-1, keepdim=True) if self.whole else kept, index


@dataclass(frozen=True)
class Each:
    """The same part of every expert on one input; what they write, one after the other."""

    stack: Float[Tensor, "expert out in"]
    bias = None
    additive = True

    def __call__(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch all"]:
        x = x.to(self.stack.dtype)
        return torch.cat([F.linear(x, one) for one in self.stack], -1)

    def pick(self, features: Int[Tensor, " some"]) -> Linear:
        """The part that writes these output features: a copy."""
        width = self.stack.shape[1]
        return Linear(self.stack[features // width, features % width], None)

    def require_additive(self, why: str) -> None:
        """It is."""


@dataclass(frozen=True)
class Joined:
    """The down projections of all experts, which share one output; each reads its own neurons."""

    stack: Float[Tensor, "expert out in"]
    bias = None
    gain = 1.0
    additive = True

    @property
    def inputs(self) -> int:
        """How many features all of them read."""
        return self.stack.shape[0] * self.stack.shape[2]

    @property
    def width(self) -> int:
        """Neurons of an expert."""
        return self.stack.shape[2]

    def __call__(self, x: Float[Tensor, "*batch all"]) -> Float[Tensor, "*batch out"]:
        x = x.to(self.stack.dtype)
        parts = zip(x.split(self.width, -1), self.stack, strict=True)
        return sum((F.linear(part, one) for part, one in parts), start=x.new_zeros(()))

    def summands(self) -> Float[Tensor, "out all"]:
        """One matrix, of which each column is what its neuron adds to the output: a copy."""
        return self.stack.transpose(0, 1).flatten(1)

    def require_additive(self, why: str) -> None:
        """It is."""


@dataclass(frozen=True)
class Mixture:
    """The experts and what chooses among them."""

    router: Router
    gate: Each
    up: Each
    down: Joined
    activation: Callable[[Tensor], Tensor]

    def weights(
        self, x: Float[Tensor, "*batch d_model"], neurons: Int[Tensor, " some"] | None = None
    ) -> Float[Tensor, "*batch some"]:
        """The weight that each neuron's expert has for each normed row; of all neurons, or some."""
        kept, index = self.router.chosen(x)
        every = kept.new_zeros(*x.shape[:-1], len(self.down.stack)).scatter(-1, index, kept)
        if neurons is None:
            return every.repeat_interleave(self.down.width, -1)
        return every.index_select(-1, neurons // self.down.width)

    def __call__(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What they write for normed rows: each expert once, for the tokens that chose it."""
        kept, index = self.router.chosen(x)
        experts, order = index.flatten().sort(stable=True)
        token, weight = order // self.router.top, kept.flatten().index_select(0, order)
        sizes = experts.bincount(minlength=len(self.router.weight)).tolist()
        made = x.new_zeros(x.shape, dtype=self.down.stack.dtype)
        parts = zip(token.split(sizes), weight.split(sizes), strict=True)
        for expert, (mine, by) in enumerate(parts):
            if not sizes[expert]:
                continue
            rows = x.index_select(0, mine).to(made.dtype)
            gate, up = (F.linear(rows, part.stack[expert]) for part in (self.gate, self.up))
            write = F.linear(self.activation(gate) * up, self.down.stack[expert])
            made.index_add_(0, mine, (write * by[:, None]).to(made.dtype))
        return made
