"""Adam over a stack of independent problems, each with a learning rate of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

Parameters = Mapping[str, Tensor]
"""By name, each with a leading `problem` axis."""


@dataclass(frozen=True, eq=False)
class StackedAdam:
    """Parameters of the problems that are still trained, and what steps them.

    Attributes:
        live: the stacks, of which gradients are taken.
        optimizer: torch's AdamW over windows on the stacks: one group, so one learning rate, a
            problem.
    """

    live: dict[str, Tensor]
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(
        cls, live: dict[str, Tensor], learning_rate: float, weight_decay: float
    ) -> "StackedAdam":
        groups = [{"params": list(views)} for views in _views(live)]
        adam = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay, fused=True)
        return cls({name: tensor.requires_grad_() for name, tensor in live.items()}, adam)

    def step(self, objective: Callable[[Parameters], Tensor]) -> None:
        """One step down a sum of the problems' objectives."""
        objective(self.live).backward()
        gradients = [tensor.grad for tensor in self.live.values()]
        groups = self.optimizer.param_groups
        for group, found in zip(groups, zip(*gradients, strict=True), strict=True):
            for view, gradient in zip(group["params"], found, strict=True):
                view.grad = gradient
        self.optimizer.step()
        for tensor in self.live.values():
            tensor.grad = None

    def halve(self, problems: Bool[Tensor, " active"]) -> None:
        """Halve the learning rates of some."""
        for i in problems.nonzero().flatten().tolist():
            self.optimizer.param_groups[i]["lr"] /= 2

    def without(self, ended: Bool[Tensor, " active"]) -> "StackedAdam":
        """The stack of those that go on, with their moments."""
        live = {name: tensor.detach()[~ended] for name, tensor in self.live.items()}
        going = (~ended).nonzero().flatten().tolist()
        old = [self.optimizer.param_groups[i] for i in going]
        new = [
            group | {"params": list(views)} for group, views in zip(old, _views(live), strict=True)
        ]
        adam = torch.optim.AdamW(new, fused=True)
        for before, after in zip(old, new, strict=True):
            for was, view in zip(before["params"], after["params"], strict=True):
                adam.state[view] = self.optimizer.state[was]
        return StackedAdam({name: tensor.requires_grad_() for name, tensor in live.items()}, adam)


def _views(live: Parameters) -> list[tuple[Tensor, ...]]:
    """The parameters of each problem, as windows on the stacks."""
    return list(zip(*(tensor.detach().unbind() for tensor in live.values()), strict=True))
