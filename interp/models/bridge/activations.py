"""Activation functions by the names that configs have for them."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.activations import ACT2FN

Activation = Callable[[Tensor], Tensor]


def _bloom_gelu(x: Tensor) -> Tensor:
    """BLOOM's own, in which the root of 2 / pi ends after eight digits."""
    return x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))


_KERNELS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "bloom_gelu": _bloom_gelu,
}
"""Those that torch computes in one step; transformers spells some of them out, which is slower."""


def activation(name: str) -> Activation | None:
    """The function of a name; None where it learns something, or nobody knows it."""
    if name in _KERNELS:
        return _KERNELS[name]
    if name not in ACT2FN:
        return None
    module = ACT2FN[name]
    return None if any(True for _ in module.parameters()) else module
