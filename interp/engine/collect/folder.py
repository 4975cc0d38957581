"""A folder of safetensors shards, and an index that says what they are.

    index.json                 what the numbers depend on, and the rows of each shard; written first
    shard-00000.safetensors    tensors by name, the rows of the shard along the first axis

A shard appears under its name when it is whole, so what is there is finished, and a run that was
killed goes on with what is not.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.core.atomic import whole
from interp.core.errors import ResultsError

INDEX = "index.json"
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
    """The shards of a finished folder; a tensor is read when it is asked for."""

    path: Path
    content: Content
    parts: Parts

    def read(self, names: Sequence[str]) -> Iterator[tuple[tuple[int, ...], list[Any]]]:
        """The rows of each shard, with what reads each tensor there: windows on the file.

        Raises:
            ResultsError: a shard cannot be read.
        """
        for file, rows in self.parts:
            name = names[0]
            try:
                with safe_open(self.path / file, "pt") as opened:
                    slices = []
                    for name in names:
                        slices.append(opened.get_slice(name))
                    yield rows, slices
            except (OSError, SafetensorError) as error:
                raise ResultsError(
                    f"cannot read '{name}' in {self.path / file}: {error}. Delete that file and "
                    f"run the {self.content.name} again with the same folder=; it makes what is "
                    "missing."
                ) from error


def prepare(
    path: Path,
    content: Content,
    known: Mapping[str, Any],
    rest: Mapping[str, Any],
    rows: Sequence[Sequence[int]],
) -> Parts:
    """Write the index, or take up the one that is there; the shards with their rows.

    The shards of an interrupted run keep the rows that it gave them.

    Args:
        known: what the numbers depend on.
        rest: what else the index says.

    Raises:
        ResultsError: the folder holds something else, or cannot be written.
    """
    if (path / INDEX).exists():
        found = _index(path, content)
        _refuse_other(path, content, found["identity"], known)
        return _parts(found)
    if lost := sorted(file.name for file in _listed(path)):
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
    with whole(path / INDEX) as partial:
        partial.write_text(json.dumps(found))
    return _parts(found)


def write(path: Path, file: str, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard, whole or not at all.

    Raises:
        ResultsError: the folder cannot be written.
    """
    with whole(path / file, failures=(SafetensorError,)) as partial:
        save_file(dict(tensors), partial)


def opened(path: str | os.PathLike[str], content: Content) -> tuple[Folder, dict[str, Any]]:
    """A finished folder, and its index.

    Raises:
        ResultsError: nothing of that content, another version, or unfinished.
    """
    path = Path(path)
    found = _index(path, content)
    parts = _parts(found)
    missing = [file for file, _ in parts if not (path / file).exists()]
    if missing:
        raise ResultsError(
            f"the {content.name} in {path} is not finished: {len(missing)} of {len(parts)} shards "
            f"are missing ({missing[0]}). Run it again with the same folder=; it goes on from "
            "there."
        )
    return Folder(path, content, parts), found


def _parts(index: Mapping[str, Any]) -> Parts:
    return tuple((part["file"], tuple(part["rows"])) for part in index["shards"])


def _index(folder: Path, content: Content) -> dict[str, Any]:
    path = folder / INDEX
    try:
        found = json.loads(path.read_text())
        version, there = found["version"], found.get("content", "capture")
    except FileNotFoundError:
        raise ResultsError(
            f"there is no {content.name} in {folder} (no {INDEX}); see the folder= that was given "
            f"to {content.maker}."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(
            f"{path} is no index of a {content.name}: {error!r}. Remove the folder and "
            f"make it again with {content.maker}."
        ) from error
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
