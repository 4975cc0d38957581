"""Where the activations of words are: in memory, or in a folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.parts.sites import Site
from interp.engine.plain.captures.folder import Folder
from interp.engine.plain.taps import Layout, Slab


@runtime_checkable
class Store(Protocol):
    """Where the activations of words are."""

    layout: Layout
    dtype: torch.dtype

    def read(
        self, sites: Sequence[Site], words: Int[np.ndarray, " chosen"] | None
    ) -> Float[Tensor, "site chosen d"]: ...


@dataclass(frozen=True, eq=False)
class Memory:
    """Each slab is one tensor, so that all heads of a layer are."""

    layout: Layout
    dtype: torch.dtype
    tensors: Mapping[Slab, Float[Tensor, "index word d"]]

    def read(
        self, sites: Sequence[Site], words: Int[np.ndarray, " chosen"] | None
    ) -> Float[Tensor, "site chosen d"]:
        """A view, of one site; else a copy."""
        places = [self.layout.where[site] for site in sites]
        parts = [self.tensors[slab][index] for slab, index in places]
        if words is not None:
            at = torch.from_numpy(words)
            parts = [part.index_select(0, at) for part in parts]
        return parts[0][None] if len(parts) == 1 else torch.stack(parts)


@dataclass(frozen=True, eq=False)
class Disk:
    """Shards of words; a site is read when it is asked for, a shard at a time."""

    layout: Layout
    dtype: torch.dtype
    folder: Folder
    n_words: int

    def read(
        self, sites: Sequence[Site], words: Int[np.ndarray, " chosen"] | None
    ) -> Float[Tensor, "site chosen d"]:
        chosen = np.arange(self.n_words) if words is None else words
        once, back = np.unique(chosen, return_inverse=True)
        place = torch.full((self.n_words,), -1)
        place[torch.from_numpy(once)] = torch.arange(len(once))
        names = [self.layout.names[self.layout.where[site]] for site in sites]
        found: Tensor | None = None
        for members, held in self.folder.shards():
            if found is None:
                width = held.shape(names[0])[1]
                found = torch.empty(len(sites), len(once), width, dtype=self.dtype)
            at = place[list(members)]
            wanted = at >= 0
            if not bool(wanted.any()):
                continue
            for n, name in enumerate(names):
                found[n, at[wanted]] = held.read(name)[wanted]
        assert found is not None
        if len(once) == len(chosen) and bool((np.diff(chosen) > 0).all()):
            return found
        return found.index_select(1, torch.from_numpy(back))
