"""Activation functions by the names that configs have for them."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor
from transformers.activations import ACT2FN

Activation = Callable[[Tensor], Tensor]
_KERNELS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
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
