"""Objects that hold tables, arrays and numbers, each kept in one file.

The file is of safetensors, sealed (`interp.core.files.sealed`). Arrays and tensors are in it as
they are, tables as the bytes of parquet files (`pandas.read_parquet(io.BytesIO(...))` reads them),
and all else in its note.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_type_hints

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import fits
from interp.core.errors import InterpError, ResultsError, said
from interp.core.files.sealed import Damaged, Tensors, held_in, open_content, write_tensors
from interp.core.parts.circuit import Circuit
from interp.core.tables import parquet
from interp.core.tables.table import Table, kind_of, kinds, noted

S = TypeVar("S", bound="Saved")


class Saved:
    """A dataclass that can be kept in a file: its fields are what the file holds."""

    file_version: ClassVar[int] = 1

    @door
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file, whole or not at all.

        Raises:
            ResultsError: the folder cannot be written, or a field holds what a file cannot.
        """
        path, tensors = Path(path), dict[str, Tensor]()
        try:
            held = _packed(self, "", tensors, path)
        except TypeError as error:  # an array of what are no numbers
            raise parquet.unwritable(path, error) from error
        note = {"content": type(self).__name__, "version": self.file_version, **held}
        parquet.as_json(path, note)
        write_tensors(path, tensors, note)
        return path

    @classmethod
    @door
    def load(cls: type[S], path: str | os.PathLike[str]) -> S:
        """Read what `save` wrote.

        Raises:
            ResultsError: absent, of another kind or version, or not as it was written.
        """
        path, mine, remedy = Path(path), cls.__name__, parquet.REMEDY
        if other := _elsewhere(path):
            raise ResultsError(
                f"{path} holds {other}, and {mine}.load reads {mine}. Read it with {other}.load."
            )
        with open_content(path, mine, cls.file_version, remedy=remedy) as held:
            return _unpacked(held.note, cls, "", held)


def _elsewhere(path: Path) -> str:
    """What of interp's that writes files of its own a file holds; "" if nothing."""
    if not held_in(path):
        with suppress(ResultsError, KeyError, TypeError):
            return kinds()[noted(path).get("kind", "results")].__name__
        with suppress(ResultsError):
            return type(Circuit.load(path)).__name__
    return ""


def _packed(value: object, name: str, tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """A value as JSON has it; what JSON has not goes among the tensors, by its name."""
    match value:
        case Saved():
            of = {f.name: getattr(value, f.name) for f in fields(value)}  # pyright: ignore
            parts = {
                k: _packed(v, f"{name}.{k}" if name else k, tensors, path) for k, v in of.items()
            }
            return {"is": "object", "fields": parts}
        case Table():
            known = {"of": kind_of(type(value)), "provenance": dict(value.provenance)}
            return {**_packed(value.frame, name, tensors, path), "is": "table", **known}
        case pd.DataFrame():
            page = parquet.packed(path, value)
            tensors[name] = torch.frombuffer(bytearray(page), dtype=torch.uint8)
            return {"is": "frame"}
        case Tensor():
            tensors[name] = value.clone()  # one that stands in two fields is written twice
            return {"is": "tensor"}
        case np.ndarray():
            tensors[name] = torch.from_numpy(np.array(value))
            return {"is": "array"}
        case Circuit():
            return {"is": "circuit", "circuit": value.as_note()}
        case _:
            return {"is": "value", "value": value}


def _unpacked(note: Mapping[str, Any], hint: Any, name: str, held: Tensors) -> Any:
    """What `_packed` had.

    Raises:
        Damaged: it is not of its annotation.
    """
    try:
        found = _as_was(note, hint, name, held)
        if not fits(found, Real if hint is float else hint):
            raise Damaged(
                f"{held.path} cannot be read: under {name!r} it has a {type(found).__name__} where "
                f"another belongs. {parquet.REMEDY}"
            )
        return found
    except Damaged:
        raise
    except (InterpError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{held.path} cannot be read: {said(error)}. {parquet.REMEDY}") from error


def _as_was(note: Mapping[str, Any], hint: Any, name: str, held: Tensors) -> Any:
    match note["is"]:
        case "object":
            hints, given = get_type_hints(hint, include_extras=True), note["fields"]
            return hint(
                **{
                    f.name: _unpacked(
                        given[f.name], hints[f.name], f"{name}.{f.name}" if name else f.name, held
                    )
                    for f in fields(hint)
                }
            )
        case "table":
            return kinds()[note["of"]](_frame(name, held), note["provenance"])
        case "frame":
            return _frame(name, held)
        case "tensor":
            return held.read(name).clone()  # what is read is a window on the file
        case "array":
            return held.read(name).clone().numpy()
        case "circuit":
            return Circuit.of_note(note["circuit"])
        case _:
            return note["value"]


def _frame(name: str, held: Tensors) -> pd.DataFrame:
    return parquet.unpacked(held.path, held.read(name).numpy().tobytes()).read().to_pandas()
