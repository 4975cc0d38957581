"""Float64 that is float64.

Hugging Face and TransformerLens take norms and softmaxes through float32 whatever the weights are,
which leaves a float64 model exact to 1e-7 only. Whoever loads a model in float64 asks for exact
numbers, so there the detour is left out.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _NoDetour(TorchFunctionMode):
    """Conversions of float64 tensors to float32 do nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], Tensor) and args[0].dtype is torch.float64:
            if func is Tensor.float or (func is Tensor.to and args[1:] == (torch.float32,)):
                return args[0]
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def exact(hf: nn.Module) -> None:
    """Let a model compute in float64 from end to end while its weights are float64."""
    forward = hf.forward

    @wraps(forward)
    def in_float64(*args: Any, **kwargs: Any) -> Any:
        if next(hf.parameters()).dtype is not torch.float64:
            return forward(*args, **kwargs)
        with _NoDetour():
            return forward(*args, **kwargs)

    hf.forward = in_float64


STEPS = {torch.float64: 64, torch.float32: 64, torch.bfloat16: 12, torch.float16: 12}
"""Units in the last place of the largest number by which two ways of computing one layer may differ.

Measured on 19 tiny families and two pretrained models: at most 14 in full precision, where sums are
rounded at every step, and 6 in half precision, whose sums are taken in float32 and rounded once."""


def rounding(dtype: torch.dtype) -> float:
    """How far apart two ways of computing one layer may be, relative to the largest number."""
    return STEPS.get(dtype, 12) * torch.finfo(dtype).eps
