"""Features: the activations of words by site, in memory or in a folder."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import NotEmpty
from interp.core.errors import ProbeError, Unsupported
from interp.core.parts.sites import HEAD_KINDS, STATES, Site
from interp.datasets.corpus import Corpus
from interp.engine.plain.captures import folder as folders
from interp.engine.plain.captures.folder import Content
from interp.engine.plain.taps import Layout, Slab, refuse_logits
from interp.models.now.versions import versions
from interp.probing.read.stores import Disk, Memory, Store

FEATURES = Content("collection", "interp.probing.collect", version=2)
GIVEN = "as given"
"""The pooling of activations that another tool computed."""
Words = Int[np.ndarray, " chosen"] | Int[Tensor, " chosen"] | Sequence[int]
Array = Float[np.ndarray, "_word _d"] | Float[Tensor, "_word _d"]


def _axis(site: Site) -> str:
    """What the numbers of a word are counted along."""
    if site.neuron is not None:
        return "unit" if site.kind in STATES else "neuron"
    if site.kind == "router":
        return "expert"
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
        pool: which of a word's tokens: "first", "last", or the mean of all; or "as given".
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
        """The activations at a site; `d` is `d_head` of q k v z, 1 of a neuron, the experts of a
        router, else `d_model`.

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
        if text is None:
            raise ProbeError(
                f"the features are of {len(self)} words of no corpus, so nothing says which words "
                f"of {corpus.name} they are. Give Features.from_arrays its corpus=, or label them "
                "by Split.of_words."
            )
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
        pool = self.pool if self.pool == GIVEN else f"{self.pool} token"
        return (
            f"Features: {len(self)} words of {self.provenance['corpus']}, {_kinds(self.sites)}, "
            f"{pool}, {str(self.store.dtype).removeprefix('torch.')}, "
            f"{self.provenance['bytes'] / 1e6:.1f} MB{note}"
        )

    @classmethod
    @door
    def from_arrays(
        cls,
        arrays: Annotated[Mapping[str | Site, Array], NotEmpty()],
        *,
        model: Annotated[str, NotEmpty()],
        corpus: Corpus | None = None,
        sentence: Words | None = None,
        word: Words | None = None,
        row: Words | None = None,
    ) -> "Features":
        """Activations that another tool computed.

        Without `sentence` and `word`, the rows of an array are all words of the corpus in order;
        and without a corpus, words that have nothing to do with one another.

        Args:
            arrays: by site ("3.resid_post"), each `word d`, floating, of one dtype.
            model: what computed them; a `Tagger` refuses those of another.
            corpus: whose words they are.
            sentence, word: of each row of an array the index of its sentence, and of the word in
                that sentence, in the order of the text. Give both where some words have no
                activation, or where there is no corpus and words have neighbours.
            row: which rows the model read together; by default each sentence by itself.

        Raises:
            ProbeError: arrays that differ in words or dtype, or in width where there can be but
                one, or are not finite; another number of words than the corpus has; words that
                there are not, or that are out of order.
            Unsupported: attention patterns or logits.
        """
        parsed = [(Site.parse(site), _held(array, site)) for site, array in arrays.items()]
        tensors = dict(sorted(parsed, key=lambda item: item[0].order))
        words = len(next(iter(tensors.values())))
        refuse_logits(tensors, "a word has")
        layout = Layout.of(tensors, 1)
        _require_alike(tensors, layout)
        place, missing = _places(words, corpus, sentence, word)
        rows = place[0] if row is None else _numbers(row, words, "row")
        if (np.diff(rows) < 0).any():
            raise ProbeError("row goes back to a row before; number the rows from the first on.")
        slabs = {
            slab: torch.stack([x for site, x in tensors.items() if layout.where[site][0] == slab])
            for slab in layout.slabs
        }
        held = Memory(layout, next(iter(tensors.values())).dtype, slabs)
        note = {
            **{"model": model, "versions": versions(), "words": words, "note": ""},
            "corpus": "no corpus" if corpus is None else corpus.name,
            **({} if corpus is None else {"corpus text": corpus.fingerprint}),
            "bytes": sum(x.nbytes for x in slabs.values()),
        }
        return cls(layout.sites, *place, rows, missing, GIVEN, note, held)

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


def _held(array: np.ndarray | Tensor, site: str | Site) -> Float[Tensor, "word d"]:
    """A copy of an array.

    Raises:
        ProbeError: it is of no word, or not finite.
    """
    if isinstance(array, Tensor):
        found = array.detach().cpu().clone()
    else:
        found = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
    if not found.numel():
        raise ProbeError(
            f"the array of '{site}' has shape {tuple(found.shape)}, so there is nothing to read; "
            "give a row for each word."
        )
    bad = (~found.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise ProbeError(
            f"the array of '{site}' holds NaN or infinity at {len(bad)} of {len(found)} words, "
            f"the first {bad[0]}; likely it was computed in float16. Compute it in float32."
        )
    return found


def _require_alike(tensors: Mapping[Site, Tensor], layout: Layout) -> None:
    """Refuse arrays that are not of the same words, or not of one model.

    Raises:
        ProbeError: naming two that differ.
        Unsupported: a site where no word has a vector.
    """
    widths: dict[str, tuple[Site, int]] = {}
    places: dict[tuple[Slab, int], Site] = {}
    first, like = next(iter(tensors.items()))
    for site, x in tensors.items():
        if site.kind == "pattern":
            raise Unsupported("attention patterns are of two words each, so no word has a vector.")
        if len(x) != len(like) or x.dtype != like.dtype:
            raise ProbeError(
                f"'{first}' has {len(like)} words of {like.dtype}, and '{site}' {len(x)} of "
                f"{x.dtype}; give a row for each word at every site, of one dtype."
            )
        other, width = widths.setdefault(_axis(site), (site, x.shape[1]))
        if x.shape[1] != width or (_axis(site) in ("unit", "neuron") and width != 1):
            raise ProbeError(
                f"'{other}' has {width} dimensions and '{site}' {x.shape[1]}; in a model there is "
                "one width of the residual stream and one of heads, and of a neuron 1."
            )
        if (same := places.setdefault(layout.where[site], site)) != site:
            raise ProbeError(f"'{same}' and '{site}' are the same activation; give one of them.")


def _places(
    words: int, corpus: Corpus | None, sentence: Words | None, word: Words | None
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[tuple[int, int], ...]]:
    """Sentence and word of each row of an array, and the words of the corpus that have none.

    Raises:
        ProbeError: as `Features.from_arrays`.
    """
    if (sentence is None) != (word is None):
        raise ProbeError("give both, sentence and word: one does not say which word it is.")
    lengths = None if corpus is None else list(map(len, corpus.sentences))
    every = [] if lengths is None else [(s, w) for s, n in enumerate(lengths) for w in range(n)]
    if sentence is not None and word is not None:
        s, w = _numbers(sentence, words, "sentence"), _numbers(word, words, "word")
        found = list(zip(s.tolist(), w.tolist(), strict=True))
        late = next((i for i in range(1, words) if found[i] <= found[i - 1]), None)
        if late is not None:
            raise ProbeError(
                f"word {found[late][1]} of sentence {found[late][0]} comes after word "
                f"{found[late - 1][1]} of sentence {found[late - 1][0]}; give the words in the "
                "order of the text, each once."
            )
        if corpus is not None and (lost := sorted(set(found) - set(every))):
            raise ProbeError(
                f"{corpus.name} has no word {lost[0][1]} in sentence {lost[0][0]}; it has "
                f"{len(corpus.sentences)} sentences, and words are counted in each from 0."
            )
        return (s, w), tuple(sorted(set(every) - set(found)))
    if corpus is None:
        return (np.arange(words), np.zeros(words, dtype=np.int64)), ()
    if len(every) != words:
        raise ProbeError(
            f"the arrays have {words} rows, and {corpus.name} has {len(every)} words in "
            f"{len(corpus.sentences)} sentences. Give a row for each word (not for each token), or "
            "sentence= and word=, which say whose the rows are."
        )
    s, w = np.array(every, dtype=np.int64).T
    return (s, w), ()


def _numbers(given: Words, words: int, name: str) -> Int[np.ndarray, " word"]:
    """Indices, one for each word.

    Raises:
        ProbeError: they are not.
    """
    found = np.asarray(given)
    if found.shape != (words,) or found.dtype.kind not in "iu" or (found < 0).any():
        raise ProbeError(
            f"{name} is {found.dtype} of shape {found.shape}; give an index, counted from 0, for "
            f"each of the {words} words."
        )
    return found.astype(np.int64)
