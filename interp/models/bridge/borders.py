"""A model that lies on several devices: what a part is given comes to where the part is."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


def devices_of(module: nn.Module) -> list[torch.device]:
    """Where its parameters are, in their order."""
    return list(dict.fromkeys(p.device for p in module.parameters()))


def bordered(module: nn.Module) -> None:
    """Let each part that lies on one device fetch what it is given, where there are several."""
    if len(devices_of(module)) > 1:
        for part in _on_one(module):
            part.register_forward_pre_hook(fetched, with_kwargs=True)


def _on_one(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts that lie on one device and are called: lists of parts are not."""
    for part in module.children():
        if len(devices_of(part)) > 1 or isinstance(part, nn.ModuleList | nn.ModuleDict):
            yield from _on_one(part)
        else:
            yield part


def fetched(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a module is given, where its numbers are now."""
    own = next((t for t in (*module.parameters(), *module.buffers()) if not t.is_meta), None)
    if own is None:
        return args, kwargs
    return tree_map_only(Tensor, lambda tensor: tensor.to(own.device), (args, kwargs))
