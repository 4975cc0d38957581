"""Float64 that is float64.

Hugging Face and TransformerLens take norms and softmaxes through float32 whatever the weights are,
which leaves a float64 model exact to 1e-7 only. Whoever loads a model in float64 asks for exact
numbers, so there the detour is left out.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from types import MethodType
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode


class _NoDetour(TorchFunctionMode):
    """Conversions of float64 tensors to float32 do nothing."""

    @no_type_check  # it sees every operation: types that are checked at run time cost seconds
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        detour = func is Tensor.float or (func is Tensor.to and args[1:] == (torch.float32,))
        if detour and args[0].dtype is torch.float64:
            return args[0]
        if not kwargs:
            return func(*args)
        if kwargs.get("dtype") is torch.float32 and _in_float64(args):
            kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)


def _in_float64(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].dtype is torch.float64


def exact(hf: nn.Module) -> None:
    """Let a model, and its body alone, compute in float64 from end to end while it is float64."""
    body = getattr(hf, "base_model", hf)
    for module in (hf,) if body is hf else (hf, body):
        # bound, so that a copy of the model runs itself
        module.forward = MethodType(_undetoured(type(module).forward), module)


def undetoured(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Inside of the block a part of a model of this dtype computes in it from end to end."""
    there = isinstance(_get_current_function_mode(), _NoDetour)  # a model's body inside of it
    return nullcontext() if there or dtype is not torch.float64 else _NoDetour()


def _undetoured(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def in_float64(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with undetoured(next(self.parameters()).dtype):
            return forward(self, *args, **kwargs)

    return in_float64


STEPS = {torch.float64: 64, torch.float32: 64, torch.bfloat16: 12, torch.float16: 12}
"""Units in the last place of the largest number by which two ways of computing a layer may differ.

Measured on 19 tiny families and two pretrained models: at most 14 in full precision, where sums are
rounded at every step, and 6 in half precision, whose sums are taken in float32 and rounded once."""


def rounding(dtype: torch.dtype) -> float:
    """How far apart two ways of computing one layer may be, relative to the largest number."""
    return STEPS.get(dtype, 12) * torch.finfo(dtype).eps
