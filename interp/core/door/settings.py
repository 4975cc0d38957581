"""Torch's settings that change what a number is, set aside while a call runs.

Autocast, a default device or dtype, float32 products in fewer digits.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from interp.core.door.alone import Undo, unwind

_PRODUCTS = (
    *((torch.backends.cuda, "matmul"), (torch.backends.cudnn, "conv")),
    *((torch.backends.mkldnn, "matmul"), (torch.backends.mkldnn, "conv")),
)
"""Where torch keeps in how many digits float32 is multiplied."""
_EXACT = ("none", "ieee")
_CALLS: set[int] = set()
_BEFORE: list[Undo] = []
"""Threads in a call for which settings of the whole process were set aside, and how they return."""
_EXCHANGE = threading.Lock()


def unsettled() -> bool:
    """Is any setting of torch other than numbers need it, or has another call set it aside?"""
    elsewhere = torch.get_default_device().type != "cpu"
    return bool(_CALLS) or elsewhere or _of_process() or bool(_autocast())


@contextmanager
def settled() -> Iterator[None]:
    """Torch's settings as they are in a new process, inside of the block."""
    with ExitStack() as stack:
        for kind in _autocast():
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        # the others are of all threads: the first call sets them aside, the last puts them back
        thread = threading.get_ident()
        with _EXCHANGE:
            _CALLS.add(thread)
            _set_aside()
        try:
            yield
        finally:
            with _EXCHANGE:
                _CALLS.discard(thread)
                if not _CALLS:
                    unwind(_BEFORE)


def _autocast() -> list[str]:
    return [kind for kind in ("cpu", "cuda", "mps") if torch.is_autocast_enabled(kind)]


def _of_process() -> bool:
    other = (getattr(place, name).fp32_precision not in _EXACT for place, name in _PRODUCTS)
    return torch.get_default_dtype() != torch.float32 or any(other)


def _set_aside() -> None:
    if (dtype := torch.get_default_dtype()) != torch.float32:
        _BEFORE.append(lambda: torch.set_default_dtype(dtype))
        torch.set_default_dtype(torch.float32)
    for place, name in _PRODUCTS:
        setting = getattr(place, name)
        if (before := setting.fp32_precision) not in _EXACT:
            _BEFORE.append(lambda s=setting, b=before: _restore(s, b))
            setting.fp32_precision = "ieee"


def _restore(setting: Any, before: str) -> None:
    """What was said of all products at once is again said there, not of this one."""
    setting.fp32_precision = "none"
    if setting.fp32_precision != before:
        setting.fp32_precision = before
