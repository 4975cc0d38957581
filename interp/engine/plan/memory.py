"""How much a call may hold beside the weights, and what happens where that does not last."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, TypeVar

import numpy as np
import psutil
import torch
from jaxtyping import Float

from interp.core.door.taken import Told as By
from interp.core.errors import InterpError, is_short
from interp.engine.limits import Limits
from interp.engine.plan.plan import Batch
from interp.models.model import Model

T = TypeVar("T")
SWEEP = 1 << 30
"""Bytes of a sweep by default on a processor, where more makes none faster."""
KEEP = 2 << 30
"""Bytes of activations that a call gives back, by default."""
HOST = torch.device("cpu")
"""Where activations are kept, wherever the model is."""
SHARE = 4
"""By default no more than this fraction of what a device has, where that is less: what happens to
be free would change the plan, and with it the last digits."""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
UNITS |= {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def parsed(memory: int | str | None, name: str = "memory") -> int | None:
    """Bytes of a size in words; None where none is given. `name`: of the argument.

    Raises:
        InterpError: nothing at all, or no size.
    """
    if memory is None:
        return None
    found = re.fullmatch(r"\s*(-?[\d_.]+)\s*([kmgt]?i?)b?\s*", str(memory), re.IGNORECASE)
    try:
        if found is None or isinstance(memory, bool):
            raise ValueError
        given = int(float(found[1]) * UNITS[found[2].lower()])
    except (ValueError, KeyError):
        raise InterpError(
            f"{name}={memory!r:.40} is no size: give bytes (8_000_000_000), or text ('8GB', "
            "'512 MiB')."
        ) from None
    if given < 1:
        raise InterpError(
            f"{name}={memory!r} bytes holds nothing; leave it out, or give more than 0 ('8GB')."
        )
    return given


Memory = Annotated[int | str | None, By(parsed)]
"""Bytes, or text such as "8GB" or "512 MiB"; None takes a default, or a share of what there is."""


def budget(memory: Memory, device: torch.device, default: int) -> int:
    """The bytes that may be held on a device.

    Raises:
        InterpError: nothing at all, or no size.
    """
    given = parsed(memory)
    if given is not None:
        return given
    share = total(device) // SHARE
    return share if Limits.of(device).share else min(default, share)


@dataclass(frozen=True)
class Told:
    """What whoever asks says of a device.

    Attributes:
        total: bytes that it has.
        weights: bytes of them that the model takes.
    """

    device: torch.device
    total: int
    weights: int


_TOLD: ContextVar[Told | None] = ContextVar("told", default=None)


@contextmanager
def elsewhere(model: Model | None, there: int | None) -> Iterator[None]:
    """Inside of the block the model's device has so many bytes, whatever it has here."""
    if model is None or there is None:
        yield
        return
    token = _TOLD.set(Told(model.device, there, model.weight_bytes[str(model.device)]))
    try:
        yield
    finally:
        _TOLD.reset(token)


def total(device: torch.device) -> int:
    """Bytes that there are where the model is.

    Raises:
        InterpError: it is not here, and nobody said.
    """
    if (told := _TOLD.get()) is not None and told.device == device:
        return told.total
    _require_here(device)
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[1]
    return psutil.virtual_memory().total


def free(device: torch.device) -> int:
    """Bytes that are free there.

    Raises:
        InterpError: it is not here, and nobody said how many it has.
    """
    if (told := _TOLD.get()) is not None and told.device == device:
        return max(0, told.total - told.weights)
    _require_here(device)
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _require_here(device: torch.device) -> None:
    here = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if not here.get(device.type, lambda: True)():
        raise InterpError(
            f"there is no {device} here, so how much memory it has is not known. Say what the call "
            "may take (memory='20GB'), or what the device has: interp.explain(..., total='80GB')."
        )


def require(least: int, room: int, memory: Memory, device: torch.device, what: str) -> int:
    """The budget, or what is needed at least where nobody asked for less and there is as much.

    Args:
        what: is held at least, in words.

    Raises:
        InterpError: less was asked for, or is free.
    """
    if least <= room:
        return room
    if memory is not None:
        raise InterpError(
            f"memory={memory!r} is less than the least that this takes: {what} holds about "
            f"{least / 1e6:.1f} MB beside the weights. Give memory={least} or more, fewer tokens "
            "in a prompt, or named positions."
        )
    if least > free(device):
        raise InterpError(
            f"{what} holds about {least / 1e6:.0f} MB beside the weights, and "
            f"{free(device) / 1e6:.0f} MB are free on {device}. Shorten the prompts, take named "
            "positions, load the model in a narrower dtype, or free memory."
        )
    return least


def fitting(call: Callable[[], T], batch: Batch, room: int) -> T | None:
    """Run something; None where the memory does not last and fewer cells could help.

    Raises:
        InterpError: not even one cell fits.
    """
    try:
        return call()
    except (MemoryError, RuntimeError) as error:
        if not is_short(error):
            raise
        if len(batch.cells) > 1:
            return None
        raise InterpError(
            f"out of memory with a single cell of {len(batch.rows)} prompts (estimated "
            f"{batch.bytes / 1e6:.0f} MB beside the weights and the traces; the budget was "
            f"{room / 1e6:.0f} MB). Fewer prompts run together in a smaller budget: give "
            f"memory={room // 2}, or free memory."
        ) from error


def halving(
    run: Callable[[Batch], Float[np.ndarray, "metrics cells batch"]], batch: Batch, room: int
) -> Float[np.ndarray, "metrics cells batch"]:
    """Run a batch, in halves where the memory does not last."""
    found = fitting(partial(run, batch), batch, room)
    if found is not None:
        return found
    half = len(batch.cells) // 2
    parts = (replace(batch, cells=c) for c in (batch.cells[:half], batch.cells[half:]))
    return np.concatenate([halving(run, part, room) for part in parts], axis=1)


def by_rows(call: Callable[[list[int]], T], rows: Sequence[int], what: str) -> list[T]:
    """Run something for some rows, in halves of them where the memory does not last.

    Raises:
        InterpError: not even one row fits.
    """
    try:
        return [call(list(rows))]
    except (MemoryError, RuntimeError) as error:
        if not is_short(error):
            raise
        if len(rows) == 1:
            raise InterpError(
                f"out of memory in {what} of a single prompt (row {rows[0]}). Shorten it, load the "
                "model in a narrower dtype, or free memory."
            ) from error
    half = len(rows) // 2
    return [*by_rows(call, rows[:half], what), *by_rows(call, rows[half:], what)]
