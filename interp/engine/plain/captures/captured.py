"""Captured: what a capture gives back, in memory or on disk."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.door.door import door
from interp.core.errors import PairsError
from interp.core.parts.sites import STATES, Site
from interp.engine.plain.captures import shards
from interp.engine.plain.taps import Layout


@runtime_checkable
class Held(Protocol):
    """Activations in memory or on disk."""

    layout: Layout
    dtype: torch.dtype

    def shapes(self, site: Site) -> list[tuple[int, ...]]: ...
    def rows(self, site: Site) -> list[Float[Tensor, " pos *axes"]]: ...
    def whole(self, site: Site) -> Float[Tensor, "batch pos *axes"]: ...


@dataclass(frozen=True, eq=False, repr=False)
class Captured:
    """Activations by site: `captured["3.1"]`, or `captured.rows("3.1")` row by row.

    Iterating gives the sites. In memory what is given is a view of what is kept; from a folder it
    is read anew at each call.

    Attributes:
        sites: in order of computation.
        positions: what is along the second axis: names and indices, or `("all",)`.
        bytes: of all activations.
        provenance: model, weight hash, tokens, versions.
    """

    sites: tuple[Site, ...]
    positions: tuple[str | int, ...]
    bytes: int
    provenance: Mapping[str, Any]
    held: Held

    @door
    def __getitem__(self, site: str | Site) -> Float[Tensor, "batch pos *axes"]:
        """The activations of all rows, in the order in which they were given.

        Axes: `d_head` of q k v z, `key` of a pattern, `expert` of a router, none of a neuron, else
        `d_model`.

        Raises:
            SiteError: the site was not captured.
            PairsError: the rows differ in length.
        """
        found = self._find(site)
        shapes = set(self.held.shapes(found))
        if len(shapes) > 1:
            raise PairsError(
                f"the rows of '{found}' have shapes {_range(shapes)}, so they are no one tensor, "
                "and padding would be numbers that no model computed. Take "
                f"captured.rows('{found}'), a list with a tensor for each row, or capture named "
                "positions (positions='end')."
            )
        return self.held.whole(found)

    @door
    def rows(self, site: str | Site) -> list[Float[Tensor, " pos *axes"]]:
        """The activations of each row, whatever its length.

        Raises:
            SiteError: the site was not captured.
        """
        return self.held.rows(self._find(site))

    def _find(self, site: str | Site) -> Site:
        self.held.layout.find(site, "the capture", "Capture it too (sites=[...]).")
        return Site.parse(site)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __contains__(self, site: object) -> bool:
        return isinstance(site, str | Site) and Site.parse(site) in self.held.layout.where

    def __repr__(self) -> str:
        kinds: dict[str, list[Site]] = {}
        for site in self.sites:
            unit = " of a unit" if site.kind in STATES and site.neuron is not None else ""
            kinds.setdefault(f"{site.kind}{unit}", []).append(site)
        dtype = str(self.held.dtype).removeprefix("torch.")
        at = ", ".join(map(str, self.positions))
        prompts = self.provenance["prompts"]
        lines = [
            f"Captured: {len(self.sites)} sites, {prompts} prompts, positions {at}, {dtype}, "
            f"{self.bytes / 1e6:.1f} MB"
        ]
        for kind, sites in kinds.items():
            ends = f"{sites[0]}" if len(sites) == 1 else f"{sites[0]} to {sites[-1]}"
            shapes = _range(set(self.held.shapes(sites[0])))
            lines.append(f"  {kind}: {len(sites)} sites ({ends}), {prompts} x {shapes}")
        return "\n".join(lines)

    @classmethod
    @door
    def load(cls, folder: str | os.PathLike[str]) -> "Captured":
        """Open what `capture(folder=...)` wrote; activations are read when they are asked for.

        Raises:
            ResultsError: no capture, one of another version, or an unfinished one.
        """
        held, index = shards.opened(folder)
        return cls(
            held.layout.sites,
            tuple(index["identity"]["positions"]),
            index["bytes"],
            index["provenance"],
            held,
        )


def _range(shapes: set[tuple[int, ...]]) -> str:
    """`7 x 64`, or `7 to 9 x 64`."""
    axes = [sorted(set(axis)) for axis in zip(*cast(Any, shapes), strict=True)]
    return " x ".join(str(a[0]) if len(a) == 1 else f"{a[0]} to {a[-1]}" for a in axes)
