"""Projections that Hugging Face keeps in one matrix and TransformerLens in several.

TransformerLens computes with parts (the q, k and v of GPT-2 and NeoX), Hugging Face with the whole.
They are one set of numbers: whichever side was changed since they last agreed counts, and the other
takes its numbers.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.door.alone import undone
from interp.core.errors import ModelError
from interp.models.now.watch import glimpse, versions

SPLITS = {"split_qkv_matrix": ("q", "k", "v"), "split_gate_up_matrix": ("gate", "in")}
"""What splits a matrix, of a part of the bridge, and the names of what it makes."""
State = list[tuple[int, int, int | None, int | None]]


@dataclass(eq=False)
class Fused:
    """One matrix (and its bias) and the parts of it.

    Attributes:
        name: of the module that holds them, as Hugging Face calls it.
        owner: the bridge's component.
        parts: names of the parts in the component.
        whole: names of the parameters that they are split from, in the original module.
        split: makes the parts anew.
    """

    name: str
    owner: Any
    parts: tuple[str, ...]
    whole: tuple[str, ...]
    split: Callable[[nn.Module], Sequence[nn.Module]]
    agreed: tuple[State, State] = field(init=False)
    sums: tuple[list[int], list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self._agree()

    @torch.no_grad()
    def settle(self) -> None:
        """Let the side that was not changed take the numbers of the other.

        Where one side is no plain parameters any more (an adapter, a parametrisation) there is
        nothing to take: whether the engines are right is found out by running them.

        Raises:
            ModelError: both were changed, and do not agree.
        """
        states = self._states()
        if states == self.agreed or not all(states):
            return
        whole, parts = (now != before for now, before in zip(states, self.agreed, strict=True))
        pairs = list(zip(self._parts(), self._made(), strict=True))
        if any(own.dtype != made.dtype or not torch.equal(own, made) for own, made in pairs):
            if whole and parts:  # one may have been written to without being changed
                whole, parts = (a != b for a, b in zip(self._sums(), self.sums, strict=True))
            if whole == parts:
                raise ModelError(
                    f"the weights {', '.join(self.whole)} of {self.name}, with which Hugging Face "
                    f"computes, and its parts {', '.join(self.parts)} in the bridge, with which "
                    "TransformerLens does, were both changed and no longer agree. Change one of "
                    "the two, and the other follows."
                )
            if whole:
                for own, made in pairs:
                    own.copy_(made)
            else:
                self._merge()
        self._agree()

    def _agree(self) -> None:
        self.agreed, self.sums = self._states(), self._sums()

    def _sums(self) -> tuple[list[int], list[int]]:
        return [*map(_sum, self._held())], [*map(_sum, self._parts())]

    def tensors(self) -> list[Tensor]:
        """The matrix and its parts."""
        return [*self._held(), *self._parts()]

    def _merge(self) -> None:
        """Write the parts into the whole, to the places that they are split from."""
        held = self._held()
        # the split of the numbers 0, 1, 2, ... says where each of them goes
        counted = [torch.arange(p.numel(), dtype=torch.float64, device=p.device) for p in held]
        with _lent(held, [c.view(p.shape) for c, p in zip(counted, held, strict=True)]):
            places = [made.long().flatten() for made in self._made()]
        for p in held:
            flat = p.detach().reshape(-1).clone()
            for own, place in zip(self._parts(), places, strict=True):
                if own.ndim == p.ndim:
                    flat[place] = own.detach().reshape(-1)
            p.copy_(flat.view(p.shape))

    def _held(self) -> list[Tensor]:
        """The whole, if it is parameters."""
        try:
            return [self.owner.original_component.get_parameter(name) for name in self.whole]
        except AttributeError:
            return []

    def _parts(self) -> list[Tensor]:
        """The parts, if they are."""
        try:
            found = _weights([getattr(self.owner, part) for part in self.parts])
        except AttributeError:
            return []
        return found if all(isinstance(p, nn.Parameter) for p in found) else []

    def _made(self) -> list[Tensor]:
        return _weights(self.split(self.owner.original_component))

    def _states(self) -> tuple[State, State]:
        sides = (self._held(), self._parts())
        # a change through `.data` raises no version, and shows in the numbers alone
        whole, parts = (
            [
                *zip(
                    map(id, side),
                    map(Tensor.data_ptr, side),
                    versions(side),
                    map(glimpse, side),
                    strict=True,
                )
            ]
            for side in sides
        )
        return whole, parts


def _sum(tensor: Tensor) -> int:
    """A sum of the bits of a tensor's numbers, which shows that some are others."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return int(tensor.detach().contiguous().view(bits).sum())


def fused_in(wrapped: nn.Module) -> list[Fused]:
    """The split matrices of a wrapped model."""
    found, known = list[Fused](), dict[str, tuple[str, ...]]()
    for name, module in wrapped.named_modules():
        for method, parts in SPLITS.items():
            split: Any = getattr(module, method, None)
            if not callable(split) or not all(hasattr(module, part) for part in parts):
                continue
            if method not in known:
                known[method] = _read(module, split)
            short = name.replace("_original_component.", "")
            found.append(Fused(short, module, parts, known[method], split))
    return found


@torch.no_grad()
def _read(owner: Any, split: Callable[[nn.Module], Sequence[nn.Module]]) -> tuple[str, ...]:
    """The parameters that a split reads: it shows that one is not a number."""
    original, found = owner.original_component, []
    for name, p in original.named_parameters():
        with _lent([p], [torch.full_like(p, torch.nan)]):
            if any(bool(made.isnan().any()) for made in _weights(split(original))):
                found.append(name)
    return tuple(found)


@contextmanager
def _lent(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> Any:
    """Tensors with other values, inside of the block."""
    before = [t.data for t in tensors]

    def give(data: Sequence[Tensor]) -> None:
        for t, held in zip(tensors, data, strict=True):
            t.data = held

    with undone(lambda: give(before)):
        give(values)
        yield


def _weights(modules: Sequence[nn.Module]) -> list[Tensor]:
    found = []
    for module in modules:
        inner: Any = getattr(module, "original_component", None) or module
        found += [t for t in (inner.weight, inner.bias) if t is not None]
    return found
