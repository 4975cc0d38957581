"""Linear maps of a model: matrices, and modules whose weights are kept in few bits.

Replay multiplies with a matrix. Of a quantised module it runs the module itself, so that it
computes what the model does; the matrix is made anew where a method asks for it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.core.errors import Unsupported
from interp.models.bridge import quantised
from interp.models.bridge.precision import rounding


@dataclass(frozen=True)
class Linear:
    """x -> gain * weight @ x + bias, in the precision of the weights.

    Of a part whose output a model multiplies before it adds it to the stream (Granite), `gain` is
    the factor, and the bias has it already.
    """

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None
    gain: float = 1.0
    additive = True

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, gain: float) -> "Linear":
        """gain * (weight @ x + bias)"""
        return cls(weight, bias if bias is None or gain == 1 else gain * bias, gain)

    @property
    def inputs(self) -> int:
        """How many features it reads."""
        return self.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.weight.device

    def on(self, device: torch.device) -> "Linear":
        """The same on a device."""
        bias = None if self.bias is None else self.bias.to(device)
        return Linear(self.weight.to(device), bias, self.gain)

    def __call__(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        if self.gain == 1:
            return F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        made = self.gain * F.linear(x.to(self.weight.dtype), self.weight)
        return made if self.bias is None else made + self.bias

    def by_head(self, d_head: int) -> Float[Tensor, "head d_head in"]:
        """The weight of each head that it writes: a view."""
        return self.summands().unflatten(0, (-1, d_head))

    def rows(self, start: int, stop: int) -> "Linear":
        """The part that writes output features start to stop: a view."""
        bias = None if self.bias is None else self.bias[start:stop]
        return Linear(self.weight[start:stop], bias, self.gain)

    def pick(self, features: Tensor) -> "Linear":
        """The part that writes these output features: a copy."""
        bias = None if self.bias is None else self.bias.index_select(0, features)
        return Linear(self.weight.index_select(0, features), bias, self.gain)

    def summands(self) -> Float[Tensor, "out in"]:
        """The weight times the gain: each column is what its input feature adds to the output."""
        return self.weight if self.gain == 1 else self.gain * self.weight

    def require_additive(self, why: str) -> None:
        """It is."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A module that keeps its weight in few bits, run as it is; all or some of what it writes.

    Attributes:
        name: the module's own, for messages.
        dtype: the model's: of what enters, and of `weight` where the module computes in no other.
        off: how far the module is from the product with `weight`, relative to its size; it runs.
        features: of its output, those that are kept; None: all.
        gain: what its output is multiplied by.
    """

    module: nn.Module
    name: str
    dtype: torch.dtype
    off: Callable[[], float]
    features: Int[Tensor, " some"] | None = None
    gain: float = 1.0

    @property
    def additive(self) -> bool:
        """Is it, within rounding, the product with its weight? Not where what enters is rounded to
        few bits as well: then the parts of a sum do not write the parts of what the sum writes.
        """
        return not quantised.rounds(self.module) and self.off() <= rounding(self.dtype)

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """Dequantised, anew at every call.

        Raises:
            Unsupported: a kind of weight that nothing here can read.
        """
        weight = quantised.dequantised(self.module, self.dtype)
        return weight if self.features is None else weight.index_select(0, self.features)

    @property
    def bias(self) -> Float[Tensor, " out"] | None:
        held = getattr(self.module, "bias", None)
        if held is None:
            return None
        held = held if self.gain == 1 else self.gain * held
        return held if self.features is None else held.index_select(0, self.features)

    @property
    def inputs(self) -> int:
        """How many features it reads."""
        return int(self.module.in_features)  # pyright: ignore[reportArgumentType]

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.module.parameters()).device

    def on(self, device: torch.device) -> "Linear | Packed":
        """The same on a device; elsewhere than the module, the matrix that it stands for."""
        if device == self.device:
            return self
        return Linear(self.weight, self.bias, self.gain).on(device)

    def __call__(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        # some kernels know of no further axes, some of no empty ones
        flat = x.to(self.dtype).reshape(-1, x.shape[-1])
        made = self.module(flat) if len(flat) else flat.new_empty(0, self._outputs())
        if self.features is not None:
            made = made.index_select(-1, self.features)
        made = made if self.gain == 1 else self.gain * made
        return made.view(*x.shape[:-1], made.shape[-1])

    def by_head(self, d_head: int) -> Float[Tensor, "head d_head in"]:
        """The weight of each head that it writes: a copy."""
        return self.summands().unflatten(0, (-1, d_head))

    def rows(self, start: int, stop: int) -> "Packed":
        """The part that writes output features start to stop; the others are computed as well."""
        return self.pick(torch.arange(start, stop, device=self.device))

    def pick(self, features: Tensor) -> "Packed":
        """The part that writes these output features; the others are computed as well."""
        own = features if self.features is None else self.features.index_select(0, features)
        return replace(self, features=own)

    def summands(self) -> Float[Tensor, "out in"]:
        """The weight, of which each column is what its input feature adds to the output: a copy.

        Raises:
            Unsupported: the module is not additive.
        """
        self.require_additive("no head or neuron adds a part of its own to the output")
        weight = self.weight.to(self.dtype)
        return weight if self.gain == 1 else self.gain * weight

    def require_additive(self, why: str) -> None:
        """Refuse what cannot be, since the module rounds what enters it.

        Raises:
            Unsupported: the module is not additive.
        """
        if not self.additive:
            raise Unsupported(
                f"{self.name} ({quantised.told(self.module)}) rounds what enters it to few bits: "
                f"{why}. Ablate or patch instead, which run the module, or load the model with "
                "weights that alone are quantised (bitsandbytes' 4 bit, torchao's "
                "Int8WeightOnlyConfig), or not at all."
            )

    def _outputs(self) -> int:
        return int(self.module.out_features)  # pyright: ignore[reportArgumentType]


Map = Linear | Packed
"""Whichever way its numbers are kept."""
