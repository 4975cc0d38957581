"""Finished batches on disk, so that a run that was killed goes on where it was."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from interp.core.files.identity import Unreadable, identity, source
from interp.core.files.sealed import Damaged, open_tensors, write_tensors
from interp.core.metrics import Metric
from interp.engine.interventions import Averaged, Cell
from interp.models.model import Model

log = logging.getLogger("interp")


@dataclass(frozen=True)
class Measured:
    """The numbers of one batch.

    Attributes:
        lines: the run that is intervened on, then each cell.
        null: the largest effect of a null control, if the batch had one.
        resolution: what rounding does to each metric (`interp.engine.engines.resolution`), or NaN.
    """

    lines: Float[np.ndarray, "metrics lines batch"]
    null: float
    resolution: Float[np.ndarray, " metrics"]

    def packed(self) -> Float[np.ndarray, "metrics columns"]:
        """In one array, as a `Finished` keeps it."""
        said = np.stack([np.full(len(self.resolution), self.null), self.resolution], 1)
        return np.concatenate([self.lines.reshape(len(self.lines), -1), said], 1)

    @classmethod
    def unpacked(cls, kept: Float[np.ndarray, "metrics columns"], *, batch: int) -> "Measured":
        """From what `packed` gave, of a batch of so many rows."""
        lines = kept[:, :-2].reshape(len(kept), -1, batch)
        return cls(lines, float(kept[0, -2]), kept[:, -1])


class Finished:
    """One finished batch on disk, under a name that says everything its numbers depend on."""

    def __init__(self, folder: Path | None, key: Sequence[object]) -> None:
        self.key = hashlib.sha256(repr(key).encode()).hexdigest()
        self.path = None if folder is None else Path(folder) / f"{self.key[:24]}.safetensors"

    def load(self) -> Float[np.ndarray, "lines batch"] | None:
        """What was kept; None where nothing is, or what is there cannot be trusted."""
        if self.path is None:
            return None
        try:
            with open_tensors(self.path, remedy="It is computed anew.") as held:
                if held.note == {"of": self.key}:
                    return held.read("values").numpy().copy()
                log.warning("%s is of another question. It is computed anew.", self.path)
        except FileNotFoundError:
            pass
        except Damaged as error:
            log.warning("%s", error)
        return None

    def save(self, values: Float[np.ndarray, "lines batch"]) -> Float[np.ndarray, "lines batch"]:
        if self.path is not None:
            held = {"values": torch.from_numpy(np.ascontiguousarray(values))}
            write_tensors(self.path, held, {"of": self.key}, what="the checkpoint ")
        return values


def begin(model: Model) -> list[object]:
    """What every key begins with: this library's own code, and the model as it is."""
    return [source(), model.identity(anew=True)]


def kept_of(model: Model) -> dict[str, Any]:
    """What shards in a folder are compared with: the model as it is, whatever it is called."""
    known = model.identity(anew=True)
    return {name: value for name, value in known.items() if name != "model"}


def metric_identity(metric: Metric) -> tuple[object, ...]:
    """Everything that a metric's numbers depend on.

    Raises:
        Unreadable: it reads what cannot be told apart; says what to do.
    """
    known = (metric.name, metric.position, metric.reads, metric.version)
    if metric.version is not None:
        return known
    try:
        return (*known, identity(metric.fn))
    except Unreadable as error:
        raise Unreadable(
            f"checkpoint= keeps finished numbers for the same question only, and the metric "
            f"{metric.name!r} cannot be told from another: {error} Give the metric a version= that "
            'you change with it (Metric(..., version="1")), or leave checkpoint= out.'
        ) from error


def cell_identity(cell: Cell) -> str:
    """Everything about a cell that can change its number, as text.

    Raises:
        Unreadable: a value of the user's own that reads what cannot be told apart.
    """
    parts = []
    for i in cell.interventions:
        source = i.value.source
        try:
            held = {n: x for n, x in vars(i.value).items() if not isinstance(x, Averaged)}
            value = (identity(type(i.value)), identity(held))
        except Unreadable as error:
            raise Unreadable(
                f"checkpoint= keeps finished numbers for the same question only, and the value at "
                f"'{i.site}' cannot be told from another: {error} Leave checkpoint= out, or make "
                "the value of plain numbers."
            ) from error
        whose = source.fingerprint if isinstance(source, Averaged) else ""
        readers = i.readers and [str(reader) for reader in i.readers]
        parts.append((str(i.site), i.positions, value, whose, readers, i.normalise))
    hops = [(str(hop), hop.through, hop.positions, hop.ln) for hop in cell.hops]
    return repr((parts, hops))
