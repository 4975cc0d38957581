"""A call alone: no other thread and no interrupted call disturbs it.

Models are asked by one thread at a time. A Ctrl-C may fall into the very lines that put something
back. What is to be put back is noted before it is changed, and what an interrupted call did not put
back the thread's next call does. A lock of C is let go by a `with` whatever happens, so it tells
whether a call is running.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

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
        unwind(noted, mark)


def put_back() -> None:
    """What an interrupted call of this thread, or of one that has ended, left to be put back."""
    if not _NOTED:
        return
    living = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    for thread in [thread for thread in list(_NOTED) if thread not in living]:
        unwind(_NOTED.get(thread, []))
        _NOTED.pop(thread, None)


def unwind(noted: list[Undo], mark: int = 0) -> None:
    """Put back what was noted since, the last first."""
    while len(noted) > mark:
        noted[-1]()
        noted.pop()
