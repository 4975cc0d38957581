"""Mixtures of experts as one MLP: the neurons of all experts side by side, and a router.

An expert's neurons are multiplied by the weight that the router gives it for a token, 0 where it is
not chosen; the down projection adds up what they write. So neuron n of expert e is the MLP's neuron
e * width + n, and whatever is asked of an MLP can be asked of a mixture. What an expert adds to the
output is the sum of what its neurons write (and its bias, weighted too), so that experts add up to
the MLP. Where nothing is asked of neurons, experts run for the tokens alone that chose them.

A shared expert (Qwen2-MoE) runs for every token, weighted by a gate of its own. Its neurons come
after those of the others; the router does not choose it, so it is none of the experts by number.

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
        late: is the softmax over the kept ones alone?
    """

    weight: Float[Tensor, "expert d_model"]
    top: int
    whole: bool
    bias: Float[Tensor, " expert"] | None = None
    late: bool = False

    def chosen(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[Float[Tensor, "*batch top"], Int[Tensor, "*batch top"]]:
        """Weights of a token's experts, and which they are. Half precision in float32."""
        logits = F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        if self.late:
            kept, index = logits.topk(self.top, -1)
            return kept.softmax(-1), index
        kept, index = logits.softmax(-1).topk(self.top, -1)
        return kept / kept.sum(-1, keepdim=True) if self.whole else kept, index


@dataclass(frozen=True)
class Each:
    """The same part of every expert on one input; what they write, one after the other.

    Attributes:
        shared: of the shared expert, which comes last.
    """

    stack: Float[Tensor, "expert out in"]
    biases: Float[Tensor, "expert out"] | None = None
    shared: Linear | None = None
    bias = None
    additive = True

    def __call__(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch all"]:
        each = [self.one(x, expert) for expert in range(len(self.stack))]
        return torch.cat(each if self.shared is None else [*each, self.shared(x)], -1)

    def one(self, x: Float[Tensor, "*batch in"], expert: int) -> Float[Tensor, "*batch out"]:
        """What one expert's part writes."""
        bias = None if self.biases is None else self.biases[expert]
        return F.linear(x.to(self.stack.dtype), self.stack[expert], bias)

    def pick(self, features: Int[Tensor, " some"]) -> Linear:
        """The part that writes these output features: a copy."""
        count, width = self.stack.shape[:2]
        last = features - count * width
        at = (features // width).clamp(max=count - 1), features % width
        weight = self.stack[at]
        if self.shared is not None:  # which has no biases where it is there
            own = self.shared.weight[last.clamp(min=0)]
            weight = torch.where(last[:, None] < 0, weight, own)
        return Linear(weight, None if self.biases is None else self.biases[at])

    def require_additive(self, why: str) -> None:
        """It is."""


@dataclass(frozen=True)
class Joined:
    """The down projections of all experts, which share one output; each reads its own neurons.

    Attributes:
        biases: what an expert writes beside its neurons. It is weighted as they are, so it is no
            part of the sum over neurons; `Mixture` adds it.
        shared: of the shared expert.
    """

    stack: Float[Tensor, "expert out in"]
    biases: Float[Tensor, "expert out"] | None = None
    shared: Linear | None = None
    bias = None
    gain = 1.0
    additive = True

    @property
    def inputs(self) -> int:
        """How many features all of them read."""
        shared = 0 if self.shared is None else self.shared.inputs
        return self.stack.shape[0] * self.stack.shape[2] + shared

    @property
    def width(self) -> int:
        """Neurons of an expert."""
        return self.stack.shape[2]

    def __call__(self, x: Float[Tensor, "*batch all"]) -> Float[Tensor, "*batch out"]:
        x = x.to(self.stack.dtype)
        start = x.new_zeros(())
        if self.shared is not None:
            x, last = x.split([x.shape[-1] - self.shared.inputs, self.shared.inputs], -1)
            start = self.shared(last)
        parts = zip(x.split(self.width, -1), self.stack, strict=True)
        return sum((F.linear(part, one) for part, one in parts), start=start)

    def summands(self) -> Float[Tensor, "out all"]:
        """One matrix, of which each column is what its neuron adds to the output: a copy."""
        each = self.stack.transpose(0, 1).flatten(1)
        return each if self.shared is None else torch.cat([each, self.shared.weight], 1)

    def require_additive(self, why: str) -> None:
        """It is."""


@dataclass(frozen=True)
class Mixture:
    """The experts and what chooses among them.

    Attributes:
        lift: of what the gate is multiplied by; None takes it as it comes.
        opens: of the shared expert, the gate whose sigmoid is its weight.
    """

    router: Router
    gate: Each
    up: Each
    down: Joined
    activation: Callable[[Tensor], Tensor]
    lift: Callable[[Tensor], Tensor] | None = None
    opens: Linear | None = None

    def weights(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch expert"]:
        """The weight that each expert has for each normed row, 0 if it is not chosen."""
        kept, index = self.router.chosen(x)
        return kept.new_zeros(*x.shape[:-1], len(self.down.stack)).scatter(-1, index, kept)

    def spread(
        self,
        x: Float[Tensor, "*batch d_model"],
        weights: Float[Tensor, "*batch expert"],
        neurons: Int[Tensor, " some"] | None = None,
    ) -> Float[Tensor, "*batch some"]:
        """The weight of each neuron's expert, for normed rows; of all neurons, or some."""
        count, width = len(self.down.stack), self.down.width
        own = None if self.opens is None else self.opens(x).sigmoid().to(weights.dtype)
        if neurons is None:
            found = weights.repeat_interleave(width, -1)
            if own is None or self.down.shared is None:
                return found
            return torch.cat([found, own.expand(*x.shape[:-1], self.down.shared.inputs)], -1)
        weights = weights if own is None else torch.cat([weights, own], -1)
        return weights.index_select(-1, (neurons // width).clamp(max=count))

    def one(
        self,
        x: Float[Tensor, "*batch d_model"],
        expert: int,
        weights: Float[Tensor, "*batch expert"],
    ) -> Float[Tensor, "*batch d_model"]:
        """What one expert adds to the output for normed rows."""
        return self._weighted(x, expert, weights[..., expert])

    def __call__(
        self,
        x: Float[Tensor, "token d_model"],
        weights: Float[Tensor, "token expert"] | None = None,
    ) -> Float[Tensor, "token d_model"]:
        """What they write for normed rows: each expert once, for the tokens that chose it.

        Args:
            weights: those to use in place of the router's.
        """
        if weights is None:
            kept, index = self.router.chosen(x)
            experts, order = index.flatten().sort(stable=True)
            token, weight = order // self.router.top, kept.flatten().index_select(0, order)
        else:
            experts, token = weights.T.nonzero().unbind(1)
            weight = weights[token, experts]
        sizes = experts.bincount(minlength=len(self.router.weight)).tolist()
        made = x.new_zeros(x.shape, dtype=self.down.stack.dtype)
        parts = zip(token.split(sizes), weight.split(sizes), strict=True)
        for expert, (mine, by) in enumerate(parts):
            if sizes[expert]:
                made.index_add_(0, mine, self._weighted(x.index_select(0, mine), expert, by))
        if self.opens is not None and self.gate.shared and self.up.shared and self.down.shared:
            act = self.activation(self.gate.shared(x)) * self.up.shared(x)
            made = made + self.opens(x).sigmoid() * self.down.shared(act)
        return made

    def _weighted(
        self, x: Float[Tensor, "*batch d_model"], expert: int, by: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch d_model"]:
        gate, up = (part.one(x, expert) for part in (self.gate, self.up))
        up = up if self.lift is None else self.lift(up)
        bias = None if self.down.biases is None else self.down.biases[expert]
        write = F.linear(self.activation(gate) * up, self.down.stack[expert], bias)
        return (write * by[..., None]).to(write.dtype)
