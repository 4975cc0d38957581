"""A folder of safetensors shards, and an index that says what they are.

    index.json                 what the numbers depend on, and the rows of each shard; written first
    shard-00000.safetensors    tensors by name, the rows of the shard along the first axis

A shard appears under its name when it is whole, so what is there is finished, and a run that was
killed goes on with what is not. Each file carries its checksum, and each shard of which folder and
rows it is: a damaged one, or that of another folder, is refused when it is read.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.core.errors import ResultsError
from interp.core.files.sealed import (
    Damaged,
    Tensors,
    open_tensors,
    read_note,
    told,
    write_note,
    write_tensors,
)

INDEX = "index.json"
SHARD = re.compile(r"shard-\d{5,}\.safetensors")
Parts = tuple[tuple[str, tuple[int, ...]], ...]
"""Each shard's file, and its rows."""


@dataclass(frozen=True)
class Content:
    """What a folder holds.

    Attributes:
        name: in messages and in the index.
        maker: the function that writes it.
        version: of the index and the shards.
    """

    name: str
    maker: str
    version: int = 1


@dataclass(frozen=True, eq=False)
class Folder:
    """Shards, finished or being made; a tensor is read when it is asked for.

    Attributes:
        of: fingerprint of what the numbers depend on.
    """

    path: Path
    content: Content
    of: str
    parts: Parts

    def missing(self) -> Parts:
        """The shards that are not there yet."""
        return tuple((file, rows) for file, rows in self.parts if not (self.path / file).exists())

    def write(self, file: str, rows: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        """Write a shard, whole or not at all.

        Raises:
            ResultsError: the folder cannot be written.
        """
        write_tensors(self.path / file, tensors, self._note(rows))

    def shards(self) -> Iterator[tuple[tuple[int, ...], Tensors]]:
        """The rows of each shard, and what is in it.

        Raises:
            ResultsError: a shard cannot be read, is damaged, or is not the one of its name.
        """
        for file, rows in self.parts:
            path = self.path / file
            remedy = (
                f"Delete that file and run the {self.content.name} again with the same folder=; it "
                "makes what is missing."
            )
            try:
                with open_tensors(path, remedy=remedy) as held:
                    if held.note != self._note(rows):
                        raise Damaged(
                            f"{path} holds {len(held.note.get('rows', ()))} rows of "
                            f"{held.note.get('of')}, and {len(rows)} of {self.of} belong there: a "
                            f"file was exchanged. {remedy}"
                        )
                    yield rows, held
            except FileNotFoundError:
                raise Damaged(f"{path} is missing. {remedy}") from None

    def _note(self, rows: Sequence[int]) -> dict[str, Any]:
        return {"of": self.of, "rows": list(rows)}


def prepare(
    path: Path,
    content: Content,
    known: Mapping[str, Any],
    rest: Mapping[str, Any],
    rows: Sequence[Sequence[int]],
) -> Folder:
    """Write the index, or take up the one that is there.

    The shards of an interrupted run keep the rows that it gave them.

    Args:
        known: what the numbers depend on.
        rest: what else the index says.

    Raises:
        ResultsError: the folder holds something else, or cannot be written.
    """
    # looked for first: another process that begins the same folder writes the index before them
    lost = sorted(file.name for file in _listed(path))
    if (path / INDEX).exists():
        return _taken_up(path, content, known)
    if lost:
        raise ResultsError(
            f"{path} has shards ({lost[0]}) but no {INDEX}, so nothing says what they are. "
            "Give another folder=, or delete them."
        )
    parts = [
        {"file": f"shard-{number:05d}.safetensors", "rows": list(members)}
        for number, members in enumerate(rows)
    ]
    found = {"version": content.version, "content": content.name}
    found |= {"fingerprint": _fingerprint(known), "identity": dict(known), **rest, "shards": parts}
    write_note(path / INDEX, found, first=True)
    return _taken_up(path, content, known)


def _taken_up(path: Path, content: Content, known: Mapping[str, Any]) -> Folder:
    """What is there, if it is of the same."""
    found = _index(path, content)
    _refuse_other(path, content, found["identity"], known)
    return _folder(path, content, found)


def opened(path: str | os.PathLike[str], content: Content) -> tuple[Folder, dict[str, Any]]:
    """A finished folder, and its index.

    Raises:
        ResultsError: nothing of that content, another version, or unfinished.
    """
    path = Path(path)
    found = _index(path, content)
    there = _folder(path, content, found)
    if lost := there.missing():
        raise ResultsError(
            f"the {content.name} in {path} is not finished: {len(lost)} of {len(there.parts)} "
            f"shards are missing ({lost[0][0]}). Run it again with the same folder=; it goes on "
            "from there."
        )
    return there, found


def _folder(path: Path, content: Content, index: Mapping[str, Any]) -> Folder:
    parts = tuple((str(part["file"]), tuple(part["rows"])) for part in index["shards"])
    if odd := [file for file, _ in parts if not SHARD.fullmatch(file)]:
        raise Damaged(
            f"{path / INDEX} names a shard {odd[0]!r}, and they are called shard-00000.safetensors "
            "and so on. Remove the folder; interp did not write it."
        )
    return Folder(path, content, index["fingerprint"], parts)


def _index(folder: Path, content: Content) -> dict[str, Any]:
    path = folder / INDEX
    remedy = f"Remove the folder and make it again with {content.maker}."
    try:
        found = read_note(path, remedy=remedy)
    except FileNotFoundError:
        raise ResultsError(
            f"there is no {content.name} in {folder} (no {INDEX}); see the folder= that was given "
            f"to {content.maker}."
        ) from None
    version, there = found.get("version"), found.get("content", "capture")
    if there != content.name:
        raise ResultsError(
            f"{folder} holds a {there}, not a {content.name}. Give another folder=, or delete this "
            "one."
        )
    if version != content.version:
        raise ResultsError(
            f"the {content.name} in {folder} has version {version}; this interp reads version "
            f"{content.version}. Make it again in another folder."
        )
    told(found, path, remedy, {"fingerprint": str, "identity": dict, "shards": list})
    return found


def _refuse_other(
    folder: Path, content: Content, there: Mapping[str, Any], asked: Mapping[str, Any]
) -> None:
    different = [
        f"{name} ({_short(there.get(name))} there, {_short(value)} here)"
        for name, value in asked.items()
        if there.get(name) != value
    ]
    if different:
        raise ResultsError(
            f"{folder} holds another {content.name}. Different: {'; '.join(different)}. Give "
            "another folder=, or delete this one."
        )


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)}: {value[0]}, ..., {value[-1]}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)[:16]


def _fingerprint(known: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _listed(folder: Path) -> list[Path]:
    return list(folder.glob("shard-*.safetensors")) if folder.is_dir() else []
