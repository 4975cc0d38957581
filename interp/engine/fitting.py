"""Batches that do not fit into the memory: halved and tried again."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float

from interp.core.errors import InterpError
from interp.engine.plan import Batch

T = TypeVar("T")


def fitting(call: Callable[[], T], batch: Batch, budget: int) -> T | None:
    """Run something; None where the memory does not last and fewer cells could help.

    Raises:
        InterpError: not even one cell fits.
    """
    try:
        return call()
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and "allocate memory" not in str(error):
            raise
        if len(batch.cells) > 1:
            return None
        raise InterpError(
            f"out of memory with a single cell of {len(batch.rows)} prompts (estimated "
            f"{batch.bytes / 1e6:.0f} MB beside the weights and the traces; the budget was "
            f"{budget / 1e6:.0f} MB). Fewer prompts run together in a smaller budget: give "
            f"memory={budget // 2}, or free memory."
        ) from error


def halving(
    run: Callable[[Batch], Float[np.ndarray, "cells batch"]], batch: Batch, budget: int
) -> Float[np.ndarray, "cells batch"]:
    """Run a batch, in halves where the memory does not last."""
    found = fitting(partial(run, batch), batch, budget)
    if found is not None:
        return found
    half = len(batch.cells) // 2
    parts = (replace(batch, cells=c) for c in (batch.cells[:half], batch.cells[half:]))
    return np.concatenate([halving(run, part, budget) for part in parts])
