"""Finished batches on disk, so that a run that was killed goes on where it was."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FunctionType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.atomic import whole
from interp.engine.interventions import Averaged, Cell


class Store:
    """One finished batch on disk, under a name that says everything its numbers depend on."""

    def __init__(self, folder: Path | None, key: Sequence[object]) -> None:
        self.path: Path | None = None
        if folder is not None:
            digest = hashlib.sha256(repr(key).encode()).hexdigest()[:24]
            self.path = Path(folder) / f"{digest}.npy"

    def load(self) -> Float[np.ndarray, "lines batch"] | None:
        if self.path is None or not self.path.exists():
            return None
        return np.load(self.path, allow_pickle=False)

    def save(self, values: Float[np.ndarray, "lines batch"]) -> Float[np.ndarray, "lines batch"]:
        if self.path is None:
            return values
        with whole(self.path, what="the checkpoint ") as partial, partial.open("wb") as file:
            np.save(file, values)  # the file is closed before it takes its place
        return values


def cell_identity(cell: Cell) -> str:
    """Everything about a cell that can change its number, as text."""

    def source(value: object) -> str:
        if isinstance(value, Averaged):
            return value.fingerprint
        return _digest(value) if isinstance(value, Tensor) else repr(value)

    parts = [
        (
            str(i.site),
            i.positions,
            type(i.value).__name__,
            source(i.value.source),
            [(n, function_identity(x)) for n, x in vars(i.value).items() if n != "source"],
            i.readers and [str(reader) for reader in i.readers],
            i.normalise,
        )
        for i in cell.interventions
    ]
    hops = [(str(hop), hop.through, hop.positions, hop.ln) for hop in cell.hops]
    return repr((parts, hops))


def function_identity(value: object) -> str:
    """What a function computes, as text: its code, constants and the values that it closes over."""
    if isinstance(value, Tensor):
        return _digest(value)
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        inner = [value.__code__, value.__defaults__, value.__kwdefaults__, *held]
    elif isinstance(value, CodeType):
        inner = [value.co_code.hex(), value.co_names, *value.co_consts]
    else:
        return repr(value)
    return f"({', '.join(map(function_identity, inner))})"


def _digest(value: Tensor) -> str:
    raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(raw.tobytes()).hexdigest()
