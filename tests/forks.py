"""Processes that begin where this one is, with all that it has imported."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def started(call: Callable[[], Any]) -> int:
    """A process that makes a call and ends."""
    if child := os.fork():
        return child
    signal.alarm(60)  # a child that waits for ever fails
    try:
        call()
    except BaseException as error:  # the child must not go on as the parent
        sys.stderr.write(f"{error!r}\n")
        os._exit(1)
    os._exit(0)


def ended(child: int) -> int:
    """Its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked(call: Callable[[], Any]) -> int:
    return ended(started(call))
