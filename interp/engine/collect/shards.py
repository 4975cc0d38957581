"""Captures on disk: safetensors shards of some rows each, and an index that says what they are.

    index.json                 what was asked for, and the rows of each shard; written first
    shard-00000.safetensors    a tensor for each site, `rows pos *axes`, named by the site's text

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

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.core.atomic import whole
from interp.core.errors import ResultsError
from interp.core.sites import Site
from interp.engine.collect.kept import Kept, Wanted
from interp.engine.collect.taps import Layout
from interp.engine.plan import blocks

VERSION = 1
INDEX = "index.json"
SHARD_BYTES = 64 << 20
SHARD_TOKENS = 1 << 14
"""What a shard holds at most, and computes: as much is lost when a run is killed."""


@dataclass(frozen=True, eq=False)
class Shards:
    """The shards of a folder; a site is read when it is asked for."""

    folder: Path
    layout: Layout
    dtype: torch.dtype
    parts: tuple[tuple[str, tuple[int, ...]], ...]

    def _read(self, site: Site) -> Iterator[tuple[tuple[int, ...], Any]]:
        """The rows of each shard, with what reads the site there."""
        name = self.layout.names[self.layout.where[site]]
        for file, rows in self.parts:
            try:
                with safe_open(self.folder / file, "pt") as opened:
                    yield rows, opened.get_slice(name)
            except (OSError, SafetensorError) as error:
                raise ResultsError(
                    f"cannot read '{name}' in {self.folder / file}: {error}. Delete that file and "
                    "run the capture again with the same folder=; it makes what is missing."
                ) from error

    def shapes(self, site: Site) -> list[tuple[int, ...]]:
        """Of each row: positions and axes."""
        found = {}
        for rows, part in self._read(site):
            found |= dict.fromkeys(rows, tuple(part.get_shape()[1:]))
        return [found[row] for row in sorted(found)]

    def rows(self, site: Site) -> list[Float[Tensor, " pos *axes"]]:
        """Read into memory, one tensor for each row."""
        found = {}
        for rows, part in self._read(site):
            # what safetensors gives is a window on the file
            found |= dict(zip(rows, part[:].clone(), strict=True))
        return [found[row] for row in sorted(found)]

    def whole(self, site: Site) -> Float[Tensor, "batch pos *axes"]:
        """Read into memory; all rows must have one shape."""
        found: Tensor | None = None
        count = sum(len(rows) for _, rows in self.parts)
        for rows, part in self._read(site):
            if found is None:
                found = torch.empty(count, *part.get_shape()[1:], dtype=self.dtype)
            found[list(rows)] = part[:]
        assert found is not None
        return found


def identity(wanted: Wanted, weights: str, model_dtype: str, tokens: str) -> dict[str, Any]:
    """Everything that the numbers in a folder depend on."""
    places = [None if at is None else at.tolist() for at in wanted.places.values()]
    return {
        "weights": weights,
        "model dtype": model_dtype,
        "tokens": tokens,
        "sites": [str(site) for site in wanted.layout.sites],
        "positions": list(wanted.positions),
        "indices of the positions": hashlib.sha256(repr(places).encode()).hexdigest()[:16],
        "dtype": str(wanted.dtype).removeprefix("torch."),
    }


def plan(wanted: Wanted, most: int | None, memory: int) -> list[list[int]]:
    """The rows of each shard; `most` by request, else as many as are worth one."""
    if most is not None:
        return blocks(wanted.pairs.lengths, most)
    room = min(SHARD_BYTES, memory)
    rows: list[list[int]] = []
    for same in blocks(wanted.pairs.lengths, len(wanted.pairs)):
        length = int(wanted.pairs.lengths[same[0]])
        size = max(1, min(room // wanted.bytes(same[:1]), SHARD_TOKENS // length))
        rows += [same[i : i + size] for i in range(0, len(same), size)]
    return rows


def prepare(
    folder: Path, known: Mapping[str, Any], rest: Mapping[str, Any], rows: Sequence[Sequence[int]]
) -> list[tuple[str, tuple[int, ...]]]:
    """Write the index, or take up the one that is there; the shards with their rows.

    The shards of an interrupted run keep the rows that it gave them.

    Args:
        known: what the numbers depend on.
        rest: what else the index says.

    Raises:
        ResultsError: the folder holds something else, or cannot be written.
    """
    path = folder / INDEX
    if path.exists():
        found = _index(folder)
        _refuse_other(folder, found["identity"], known)
    else:
        if lost := sorted(file.name for file in _listed(folder)):
            raise ResultsError(
                f"{folder} has shards ({lost[0]}) but no {INDEX}, so nothing says what they are. "
                "Give another folder=, or delete them."
            )
        parts = [
            {"file": f"shard-{number:05d}.safetensors", "rows": list(members)}
            for number, members in enumerate(rows)
        ]
        found = {"version": VERSION, "fingerprint": _fingerprint(known), "identity": dict(known)}
        found |= {**rest, "shards": parts}
        with whole(path) as partial:
            partial.write_text(json.dumps(found))
    return _parts(found)


def write(folder: Path, file: str, kept: Kept) -> None:
    """Write a shard, whole or not at all.

    Raises:
        ResultsError: the folder cannot be written.
    """
    sites = {name: Site.parse(name) for name in kept.layout.names.values()}
    tensors = {name: kept.whole(site) for name, site in sites.items()}
    with whole(folder / file, failures=(SafetensorError,)) as partial:
        save_file(tensors, partial)


def opened(folder: str | os.PathLike[str]) -> tuple[Shards, dict[str, Any]]:
    """The shards of a finished capture, and its index.

    Raises:
        ResultsError: no capture, one of another version, or an unfinished one.
    """
    folder = Path(folder)
    found = _index(folder)
    parts = _parts(found)
    missing = [file for file, _ in parts if not (folder / file).exists()]
    if missing:
        raise ResultsError(
            f"the capture in {folder} is not finished: {len(missing)} of {len(parts)} shards are "
            f"missing ({missing[0]}). Run it again with the same folder=; it goes on from there."
        )
    layout = Layout.of(map(Site.parse, found["identity"]["sites"]), found["group_size"])
    dtype = getattr(torch, found["identity"]["dtype"])
    return Shards(folder, layout, dtype, tuple(parts)), found


def _parts(index: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    return [(part["file"], tuple(part["rows"])) for part in index["shards"]]


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        found = json.loads(path.read_text())
        version = found["version"]
    except FileNotFoundError:
        raise ResultsError(
            f"there is no capture in {folder} (no {INDEX}); see the folder= that was given to "
            "interp.capture"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path} is no index of a capture: {error!r}") from error
    if version != VERSION:
        raise ResultsError(
            f"the capture in {folder} has version {version}; this interp reads version {VERSION}. "
            "Capture again into another folder."
        )
    return found


def _refuse_other(folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    different = [
        f"{name} ({_short(there.get(name))} there, {_short(value)} here)"
        for name, value in asked.items()
        if there.get(name) != value
    ]
    if different:
        raise ResultsError(
            f"{folder} holds another capture. Different: {'; '.join(different)}. Give another "
            "folder=, or delete this one."
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
