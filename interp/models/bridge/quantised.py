"""Weights that are kept in few bits: which module has such, what they are, and their numbers.

bitsandbytes keeps bytes in the parameter and their scales beside it (`quant_state`, `SCB`);
torchao's parameter is a tensor made of tensors. Neither package is imported before a model has
brought it.
"""

import copy
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from interp.core.errors import Unsupported

Rounds = Literal["", "row", "batch"]
"""Is what enters rounded too? By each token's own largest number, or by that of all that run."""


def packed(module: nn.Module) -> bool:
    """Is a linear map's weight anything else than a matrix of floating point numbers?"""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return False
    plain = weight.is_floating_point() and weight.ndim == 2 and not hasattr(weight, "quant_state")
    return not plain or is_traceable_wrapper_subclass(weight)


def told(module: nn.Module) -> str:
    """What keeps the weight, and what else is rounded, in words: "bitsandbytes nf4", "torchao
    Int8Tensor, activations by row".
    """
    weight: Any = module.weight
    by = rounds(module)
    enters = f", activations by {by}" if by else ""
    match _kind(module):
        case "bitsandbytes 4":
            return f"bitsandbytes {weight.quant_state.quant_type}"
        case "bitsandbytes 8":
            return f"bitsandbytes int8{enters}"
        case "torchao":
            return f"torchao {type(weight).__name__}{enters}"
    dtype = str(weight.dtype).removeprefix("torch.")
    return f"{type(module).__module__}.{type(module).__name__} ({dtype} {list(weight.shape)})"


def known(module: nn.Module) -> bool:
    """Can `dequantised` read it?"""
    return _kind(module) != "unknown"


def rounds(module: nn.Module) -> Rounds:
    """Whether a module rounds what enters it to few bits as well, and by what."""
    weight: Any = module.weight
    match _kind(module):
        case "bitsandbytes 8":
            # features in which any number is beyond the threshold are left as they are, in all rows
            return "batch" if getattr(module, "state", weight).threshold else "row"
        case "torchao":
            how = getattr(weight, "act_quant_kwargs", None)
            if how is None:
                return ""
            fixed = getattr(weight, "act_quant_scale", None) is not None
            tokens = type(getattr(how, "granularity", None)).__name__ != "PerTensor"
            return "row" if fixed or tokens else "batch"
    return ""


@torch.no_grad()
def dequantised(module: nn.Module, dtype: torch.dtype) -> Float[Tensor, "out in"]:
    """The weight as the module multiplies with it: a new matrix at every call.

    Args:
        dtype: of the matrix, where the module has none of its own to compute in.

    Raises:
        Unsupported: a kind of weight that is not known here.
    """
    weight: Any = module.weight
    match _kind(module):
        case "bitsandbytes 4":
            return _four_bits(module, dtype)
        case "bitsandbytes 8":
            state: Any = module.state
            scales = weight.SCB if getattr(weight, "SCB", None) is not None else state.SCB
            return (weight.data.float() * (scales.float()[:, None] / 127)).to(dtype)
        case "torchao":
            return weight.dequantize().to(dtype)
    raise Unsupported(
        f"the weight of {told(module)} is no matrix that can be read: only bitsandbytes' (4 and 8 "
        "bit) and torchao's are dequantised here. Load the model in float16 or wider, or ask what "
        "needs no weights (engine='hooks')."
    )


@torch.no_grad()
def unevenness(module: nn.Module, dtype: torch.dtype) -> float:
    """How far a module is from the product with its dequantised weight, relative to its size: what
    it does beyond that, such as rounding what enters.
    """
    weight, bias = dequantised(module, dtype), getattr(module, "bias", None)
    x = torch.randn(2, weight.shape[1], generator=torch.Generator().manual_seed(0))
    x = x.to(weight.device, dtype)
    product = x.to(weight.dtype) @ weight.T
    product = product if bias is None else product + bias
    gap = (module(x).double() - product.double()).abs().max().item()
    return gap / max(product.abs().max().item(), torch.finfo(dtype).tiny)


def _four_bits(module: Any, dtype: torch.dtype) -> Tensor:
    functional = import_module("bitsandbytes.functional")
    data, state = module.weight.data, copy.copy(module.weight.quant_state)
    if getattr(state, "packing_format_for_cpu", False):  # reordered for the processor's own product
        data, state = functional._convert_weight_packed_for_cpu_inverse(data, state)
    state.dtype = module.compute_dtype or dtype
    return functional.dequantize_4bit(data, state)


def multiply_as_asked(module: nn.Module) -> None:
    """Let 4 bit maps compute in the dtype that the model has, on every processor.

    On those with bfloat16 products bitsandbytes takes bfloat16 whatever was asked for, and only
    widths that its blocks divide: one folder would be another model there.
    """
    for part in module.modules():
        if getattr(part, "support_avx512bf16_for_cpu", False):
            part.support_avx512bf16_for_cpu = False


def apart(module: nn.Module) -> bool:
    """Has a module numbers that its parameters, looked at as plain tensors, do not show?"""
    own = module._parameters.values()
    wraps = any(t is not None and is_traceable_wrapper_subclass(t) for t in own)
    return wraps or any(True for _ in shared(module))


def beside(module: nn.Module) -> Mapping[str, Tensor]:
    """The numbers of a packed weight that are in no parameter, by name."""
    weight: Any = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return {}
    found: dict[str, Any] = {}
    if (state := getattr(weight, "quant_state", None)) is not None:
        second = getattr(state, "state2", None)
        for name, held in (("", state), ("nested_", second)):
            found |= {f"{name}{part}": getattr(held, part, None) for part in ("absmax", "code")}
        found["offset"] = getattr(state, "offset", None)
    elif (state := getattr(module, "state", None)) is not None and hasattr(state, "SCB"):
        scales = getattr(weight, "SCB", None)
        found["SCB"] = state.SCB if scales is None else scales
    return {name: held for name, held in found.items() if isinstance(held, Tensor)}


def settings(module: nn.Module) -> tuple[str, ...]:
    """What a packed module computes by beside its numbers, in words."""
    weight: Any = getattr(module, "weight", None)
    found: dict[str, Any] = {"as": type(weight).__name__}
    if (state := getattr(weight, "quant_state", None)) is not None:
        found |= {k: getattr(state, k, None) for k in ("quant_type", "blocksize", "shape")}
        found["compute_dtype"] = getattr(module, "compute_dtype", None)
    elif (state := getattr(module, "state", None)) is not None:
        found["threshold"] = getattr(state, "threshold", None)
    if isinstance(weight, Tensor) and is_traceable_wrapper_subclass(weight):
        found["made of"] = weight.__tensor_flatten__()[1]
    return tuple(f"{name}={value}" for name, value in found.items())


def inside(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors that a tensor is made of, by name; a plain one is itself."""
    if not is_traceable_wrapper_subclass(tensor):
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:
        yield from inside(f"{name}.{part}", getattr(tensor, part))


def shared(module: nn.Module) -> Iterator[object]:
    """What of a packed module holds numbers, and is to be one for all copies of its model."""
    for holder in (module, getattr(module, "weight", None)):
        for name in ("state", "quant_state"):
            held = getattr(holder, "__dict__", {}).get(name)
            if held is not None and type(held).__module__.startswith("bitsandbytes"):
                yield held


def _kind(module: nn.Module) -> Literal["bitsandbytes 4", "bitsandbytes 8", "torchao", "unknown"]:
    weight: Any = module.weight
    if getattr(weight, "quant_state", None) is not None and hasattr(module, "compute_dtype"):
        return "bitsandbytes 4"
    if type(module).__module__.startswith("bitsandbytes") and weight.dtype == torch.int8:
        return "bitsandbytes 8"
    if type(weight).__module__.startswith("torchao") and hasattr(weight, "dequantize"):
        return "torchao"
    return "unknown"
