"""Weights of a model on several devices, as what compares layers with each other reads them."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar, cast, overload

import torch
from torch import Tensor

from interp.engine.network.linear import Linear, Packed
from interp.engine.network.weights import Block, Weights

T = TypeVar("T")


class _Gathered(Sequence[Block]):
    """Layers that come to one device when they are asked for, one at a time."""

    def __init__(self, blocks: Sequence[Block], device: torch.device) -> None:
        self.blocks, self.device = blocks, device

    def __len__(self) -> int:
        return len(self.blocks)

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> "_Gathered": ...
    def __getitem__(self, index: int | slice) -> "Block | _Gathered":
        if isinstance(index, slice):
            return _Gathered(self.blocks[index], self.device)
        return _moved(self.blocks[index], self.device)


def gathered(w: Weights) -> Weights:
    """For what compares weights of several layers: each comes to where the embedding is."""
    home = w.embed.tokens.device
    if all(block.device == home for block in w.blocks):
        return w
    return replace(w, blocks=_Gathered(w.blocks, home), unembed=_moved(w.unembed, home))


def _moved(part: T, device: torch.device) -> T:
    """A part with all its tensors on a device."""
    if isinstance(part, Tensor):
        return part.to(device)
    if isinstance(part, Linear | Packed):
        return cast(T, part.on(device))
    if not is_dataclass(part) or isinstance(part, type):
        return part
    held = {field.name: _moved(getattr(part, field.name), device) for field in fields(part)}
    return replace(part, **held)
