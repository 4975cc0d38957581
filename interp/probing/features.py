"""Features: the activations of words by site, in memory or in a folder."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.door import door
from interp.core.errors import ProbeError
from interp.core.sites import HEAD_KINDS, STATES, Site
from interp.datasets.corpus import Corpus
from interp.engine.collect import folder as folders
from interp.engine.collect.folder import Content, Folder
from interp.engine.collect.taps import Layout, Slab

FEATURES = Content("collection", "interp.probing.collect", version=2)
Words = Int[np.ndarray, " chosen"] | Int[Tensor, " chosen"] | Sequence[int]


@runtime_checkable
class Store(Protocol):
    """Where the activations of words are."""

    layout: Layout
    dtype: torch.dtype

    def read(
        self, sites: Sequence[Site], words: Int[np.ndarray, " chosen"] | None
    ) -> Float[Tensor, "site chosen d"]: ...


def _axis(site: Site) -> str:
    """What the numbers of a word are counted along."""
    if site.neuron is not None:
        return "unit" if site.kind in STATES else "neuron"
    return "d_head" if site.kind in HEAD_KINDS else "d_model"


def _kinds(sites: Sequence[Site]) -> str:
    """How many sites of each kind, with the first and the last."""
    kinds: dict[str, list[Site]] = {}
    for site in sites:
        kinds.setdefault(site.kind, []).append(site)
    shown = []
    for kind, members in kinds.items():
        ends = f"{members[0]}" if len(members) == 1 else f"{members[0]} to {members[-1]}"
        shown.append(f"{len(members)} {kind} ({ends})")
    return ", ".join(shown) or "none"


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


@door
@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """Activations of words: `features["3.resid_post"]`, a row for each word.

    The words are those that have tokens, in the order of the corpus. Iterating gives the sites.
    In memory one site is a view of what is kept; from a folder it is read anew at each call.

    Attributes:
        sites: in order of computation.
        sentence, word: index in `corpus.sentences`, and in the words of that sentence.
        row: the row of tokens that the word stood in: words of other rows could not see it.
        missing: (sentence, word) of the words without tokens.
        pool: which of a word's tokens: "first", "last", or the mean of all.
        provenance: model, weight hash, corpus and the fingerprint of its text, versions.
    """

    sites: tuple[Site, ...]
    sentence: Int[np.ndarray, " word"]
    word: Int[np.ndarray, " word"]
    row: Int[np.ndarray, " word"]
    missing: tuple[tuple[int, int], ...]
    pool: str
    provenance: Mapping[str, Any]
    store: Store = field(repr=False)

    @door
    def __getitem__(self, site: str | Site) -> Float[Tensor, "word d"]:
        """The activations at a site; `d` is `d_head` of q k v z, 1 of a neuron, else `d_model`.

        Raises:
            SiteError: the site was not collected.
        """
        return self.store.read([self._find(site)], None)[0]

    @door
    def stack(
        self, words: Words | None = None, *, sites: Sequence[str | Site] | None = None
    ) -> Float[Tensor, "site word d"]:
        """The activations at sites of one width, by default all, in one tensor.

        Args:
            words: indices of words, in the order wanted; by default all.
            sites: as text or Site; by default all that were collected.

        Raises:
            SiteError: a site was not collected.
            ProbeError: the sites differ in width, or there is no such word.
        """
        asked = self.sites if sites is None else tuple(map(self._find, sites))
        if len({_axis(site) for site in asked}) != 1:
            raise ProbeError(
                f"only sites of one width are one tensor, and these are {_kinds(asked)}. Name some "
                "of them (features.stack(sites=[...])), or take each by itself (features[site])."
            )
        return self.store.read(asked, None if words is None else self._words(words))

    @door
    def require(self, corpus: Corpus) -> None:
        """Refuse a corpus of other text or other words than were collected.

        Raises:
            ProbeError: naming both.
        """
        text = self.provenance.get("corpus text")
        if text != corpus.fingerprint:
            raise ProbeError(
                f"the features are of {self.provenance.get('corpus')} "
                f"({len(self) + len(self.missing)} words, text {text}), and the corpus is "
                f"{corpus.name} ({corpus.n_words} words, text {corpus.fingerprint}), so words "
                "would get the activations of others. Give the corpus that was collected, or "
                "collect this one."
            )

    def _words(self, words: Words) -> Int[np.ndarray, " chosen"]:
        chosen = np.asarray(words)
        if chosen.ndim != 1 or (len(chosen) and chosen.dtype.kind not in "iu"):
            raise ProbeError(
                f"words are integer indices in one axis; got {chosen.dtype} of shape "
                f"{chosen.shape}. Of a mask, take np.flatnonzero(mask)."
            )
        chosen = chosen.astype(np.int64)
        if bad := chosen[(chosen < 0) | (chosen >= len(self))].tolist():
            raise ProbeError(
                f"there is no word {bad[0]} among the {len(self)} that were collected, which are "
                "counted from 0."
            )
        return chosen

    def require_site(self, site: str | Site) -> None:
        """Refuse a site that was not collected.

        Raises:
            SiteError: naming those that were.
        """
        self.store.layout.find(site, "the collection", "Collect it too (sites=[...]).")

    def _find(self, site: str | Site) -> Site:
        self.require_site(site)
        return Site.parse(site)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        """Words."""
        return len(self.word)

    def __contains__(self, site: object) -> bool:
        return isinstance(site, str | Site) and Site.parse(site) in self.store.layout.where

    def __repr__(self) -> str:
        note = f"; {self.provenance['note']}" if self.provenance["note"] else ""
        return (
            f"Features: {len(self)} words of {self.provenance['corpus']}, {_kinds(self.sites)}, "
            f"{self.pool} token, {str(self.store.dtype).removeprefix('torch.')}, "
            f"{self.provenance['bytes'] / 1e6:.1f} MB{note}"
        )

    @classmethod
    @door
    def load(cls, folder: str | os.PathLike[str]) -> "Features":
        """Open what `collect(folder=...)` wrote, without the model.

        Raises:
            ResultsError: no collection, one of another version, or an unfinished one.
        """
        found, index = folders.opened(folder, FEATURES)
        asked, words = index["identity"], index["words"]
        layout = Layout.of(map(Site.parse, asked["sites"]), index["group_size"])
        sentence, word, row = (np.array(words[name]) for name in ("sentence", "word", "row"))
        return cls(
            layout.sites,
            sentence,
            word,
            row,
            tuple((s, w) for s, w in words["missing"]),
            asked["pool"],
            index["provenance"],
            Disk(layout, getattr(torch, asked["kept"]), found, len(word)),
        )
