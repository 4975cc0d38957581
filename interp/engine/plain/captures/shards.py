"""Captures on disk: a folder of shards of some rows each, with a tensor for each site.

A tensor is `rows pos *axes`, named by the site's text; the rows of a shard have one length.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.parts.sites import Site
from interp.engine.plain.captures import folder as folders
from interp.engine.plain.captures.folder import Content, Folder
from interp.engine.plain.captures.kept import Kept, Wanted
from interp.engine.plain.taps import Layout
from interp.engine.plan.positions import blocks, longest_in

CAPTURE = Content("capture", "interp.capture")
SHARD_BYTES = 64 << 20
SHARD_TOKENS = 1 << 14
"""What a shard is filled up to, and computes; what runs together is not divided, so one row, or one
forward of a collection, may be more. As much is lost when a run is killed."""


@dataclass(frozen=True, eq=False)
class Shards:
    """A finished capture; a site is read when it is asked for."""

    folder: Folder
    layout: Layout
    dtype: torch.dtype

    def _name(self, site: Site) -> str:
        return self.layout.names[self.layout.where[site]]

    def shapes(self, site: Site) -> list[tuple[int, ...]]:
        """Of each row: positions and axes."""
        found = {}
        for rows, part in self.folder.shards():
            found |= dict.fromkeys(rows, part.shape(self._name(site))[1:])
        return [found[row] for row in sorted(found)]

    def rows(self, site: Site) -> list[Float[Tensor, " pos *axes"]]:
        """Read into memory, one tensor for each row."""
        found = {}
        for rows, part in self.folder.shards():
            # what is read is a window on the file
            found |= dict(zip(rows, part.read(self._name(site)).clone(), strict=True))
        return [found[row] for row in sorted(found)]

    def whole(self, site: Site) -> Float[Tensor, "batch pos *axes"]:
        """Read into memory; all rows must have one shape."""
        found: Tensor | None = None
        count = sum(len(rows) for _, rows in self.folder.parts)
        for rows, part in self.folder.shards():
            here = part.read(self._name(site))
            if found is None:
                found = torch.empty(count, *here.shape[1:], dtype=self.dtype)
            found[list(rows)] = here
        assert found is not None
        return found


def identity(wanted: Wanted, model: Mapping[str, Any], tokens: str) -> dict[str, Any]:
    """Everything that the numbers in a folder depend on; `model`: its own identity."""
    places = [None if at is None else at.tolist() for at in wanted.places.values()]
    return {
        **model,
        "tokens": tokens,
        "sites": [str(site) for site in wanted.layout.sites],
        "positions": list(wanted.positions),
        "indices of the positions": hashlib.sha256(repr(places).encode()).hexdigest()[:16],
        "kept": str(wanted.dtype).removeprefix("torch."),
    }


def plan(wanted: Wanted, most: int | None, memory: int) -> list[list[int]]:
    """The rows of each shard; `most` by request, else as many as are worth one."""
    if most is not None:
        return blocks(wanted.pairs.extents, most)
    room = min(SHARD_BYTES, memory)
    rows: list[list[int]] = []
    for same in blocks(wanted.pairs.extents, len(wanted.pairs)):
        length = longest_in(wanted.facts, wanted.pairs, same)
        size = max(1, min(room // wanted.bytes(same[:1]), SHARD_TOKENS // length))
        rows += [same[i : i + size] for i in range(0, len(same), size)]
    return rows


def prepare(
    folder: Path, known: Mapping[str, Any], rest: Mapping[str, Any], rows: Sequence[Sequence[int]]
) -> Folder:
    """The shards of a capture with their rows; see `folder.prepare`."""
    return folders.prepare(folder, CAPTURE, known, rest, rows)


def named(kept: Kept) -> dict[str, Tensor]:
    """The tensors of a shard, by the text of their site."""
    return {name: kept.whole(Site.parse(name)) for name in kept.layout.names.values()}


def opened(folder: str | os.PathLike[str]) -> tuple[Shards, dict[str, Any]]:
    """The shards of a finished capture, and its index.

    Raises:
        ResultsError: no capture, one of another version, or an unfinished one.
    """
    found, index = folders.opened(folder, CAPTURE)
    layout = Layout.of(map(Site.parse, index["identity"]["sites"]), index["group_size"])
    return Shards(found, layout, getattr(torch, index["identity"]["kept"])), index
