"""A call alone: no other thread, no setting of the user's and no interrupted call disturbs it.

Models are asked by one thread at a time. Settings of torch that change what a number is (autocast,
a default device or dtype, float32 products in fewer digits) are set aside while a call runs.

A Ctrl-C may fall into the very lines that put something back. What is to be put back is noted
before it is changed, and what an interrupted call did not put back the thread's next call does. A
lock of C is let go by a `with` whatever happens, so it tells whether a call is running.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Undo = Callable[[], object]


class _Thread(threading.local):
    """Of each thread: held while a call runs."""

    def __init__(self) -> None:
        self.lock = threading.RLock()


_THREAD = _Thread()
_NOTED: dict[int, list[Undo]] = {}
"""By thread, what is to be put back, the last first."""


def running() -> Any:
    """The lock that this thread holds while it is in a call."""
    return _THREAD.lock


def locks(asked: Iterable[object]) -> list[Any]:
    """Those of what a call asks (`__alone__` of a model), each once and always in one order."""
    found = (getattr(one, "__alone__", None) for one in asked if hasattr(type(one), "__alone__"))
    return sorted({id(lock): lock for lock in found if lock is not None}.values(), key=id)


def alone(call: Callable[[], T], held: list[Any]) -> T:
    """Make a call while holding locks."""
    if not held:
        return call()
    with held[0]:
        return alone(call, held[1:])


@contextmanager
def undone(undo: Undo) -> Iterator[None]:
    """Put something back after the block. `undo` is noted before anything is changed, and may be
    called more than once.
    """
    noted = _NOTED.setdefault(threading.current_thread().ident or 0, [])
    mark = len(noted)
    noted.append(undo)
    try:
        yield
    finally:
        _put_back(noted, mark)


def put_back() -> None:
    """What an interrupted call of this thread, or of one that has ended, left to be put back."""
    if not _NOTED:
        return
    living = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    for thread in [thread for thread in list(_NOTED) if thread not in living]:
        _put_back(_NOTED.get(thread, []), 0)
        _NOTED.pop(thread, None)


def _put_back(noted: list[Undo], mark: int) -> None:
    while len(noted) > mark:
        noted[-1]()
        noted.pop()


# settings of torch


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
                    _put_back(_BEFORE, 0)


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
