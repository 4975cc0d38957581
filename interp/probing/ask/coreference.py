"""Coreference as a question that probes can be asked: does this anaphor mean that mention?

An anaphor (`interp.datasets.words.links`, where heads of attention have theirs from) is asked if an
earlier mention of its chain stands in the same row of tokens; the nearest of these is its
antecedent, and the pair is a positive example. A negative one is an anaphor with an
earlier mention of another chain. Within each document, kind of anaphor and distance (the number of
mentions back) there are as many of the one as of the other, drawn at random: so chance is 1/2, and
neither the distance nor the anaphor's kind tells anything.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy import ndarray
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Seed
from interp.core.errors import CorpusError, ProbeError
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.datasets.corpus import Corpus, Document, Mention
from interp.datasets.made.templates import lists
from interp.datasets.words.links import (
    Anaphor,
    First,
    Placed,
    anaphors,
    begins_row,
    numbered,
    placed,
)
from interp.probing.fit.nets.examples import Examples, require_rows_of
from interp.probing.fit.nets.spans import flat
from interp.probing.read.features import Features

Reads = Literal["spans", "heads"]
TASK = "coreference"
PRONOUNS = {
    ("masculine", "singular"): "he him his himself",
    ("feminine", "singular"): "she her hers herself",
    ("neuter", "singular"): "it its itself",
    (None, "singular"): "i me my mine myself this that",
    (None, "plural"): "we us our ours ourselves they them their theirs themselves these those",
}
TITLES = {
    ("masculine", "singular"): "mr mr. sir lord master monsieur gentleman fellow",
    ("feminine", "singular"): "mrs mrs. miss ms ms. lady madam mistress madame maid",
}


@door
@dataclass(frozen=True, eq=False)
class MentionPairs:
    """Pairs of mentions, half of which corefer.

    Attributes:
        spans: of the anaphor and of the candidate, as numbers of collected words: `start, end,
            start, end`, [start, end).
        heads: the head words of both.
        forms: of these words, in lower case.
        y: 1 where they corefer.
        cluster: the document.
        kind: of the anaphor ("pronoun", "proper", "nominal").
        distance: mentions back; 1 is the nearest that ends before the anaphor begins.
        baselines: what methods without a model say, by name: "nearest mention" (yes to distance
            1; right half of the time, by construction), "head match" (the same word, in lower
            case), "gender and number" (yes unless closed lists of words know that they differ).
        skipped: mentions that are in no pair because a word of theirs has no tokens or begins a
            row, or because they are cut by the end of a row.
    """

    spans: Int[Tensor, "pair 4"]
    heads: Int[Tensor, "pair 2"]
    forms: tuple[tuple[str, str], ...]
    y: Int[Tensor, " pair"]
    cluster: tuple[str, ...]
    kind: tuple[str, ...]
    distance: Int[ndarray, " pair"]
    baselines: Mapping[str, Bool[ndarray, " pair"]]
    skipped: int

    def __len__(self) -> int:
        return len(self.y)

    @door
    def select(self, rows: Sequence[int] | Int[ndarray, " row"]) -> "MentionPairs":
        """Some of the pairs, in the given order.

        Args:
            rows: their numbers, counted from 0.

        Raises:
            ProbeError: a pair that there is not.
        """
        at = np.asarray(rows, dtype=np.int64)
        require_rows_of(at, len(self), "pairs")
        return replace(
            self,
            **{name: getattr(self, name)[torch.from_numpy(at)] for name in ("spans", "heads", "y")},
            forms=tuple(self.forms[i] for i in at),
            cluster=tuple(self.cluster[i] for i in at),
            kind=tuple(self.kind[i] for i in at),
            distance=self.distance[at],
            baselines={name: said[at] for name, said in self.baselines.items()},
        )

    @door
    def of(self, documents: Sequence[str]) -> "MentionPairs":
        """The pairs of some documents.

        Raises:
            ProbeError: they have none.
        """
        rows = np.flatnonzero(np.isin(self.cluster, list(documents)))
        if not len(rows):
            raise ProbeError(
                f"none of the {len(self)} pairs is of the {len(documents)} documents asked for; "
                "give ids of documents that were collected, or more text of each."
            )
        return self.select(rows)

    @property
    def types(self) -> tuple[str, ...]:
        """The two head words of each pair in lower case: what a control task draws labels for."""
        return tuple(f"{anaphor} {candidate}" for anaphor, candidate in self.forms)

    @door
    def examples(
        self,
        features: Features,
        y: Int[Tensor, "problem pair"],
        *,
        reads: Reads = "spans",
        sites: Sequence[str | Site] | None = None,
    ) -> Examples:
        """What a probe is asked, with the activations of the words of these pairs alone.

        Args:
            features: those that the pairs were made from, or another model's of the same words.
            y: labels of each problem.
            sites: of the features; all by default.
            reads: "spans" for `SpanClassifier(spans=2)`, "heads" for `Bilinear`.

        """
        inside = torch.cat([flat(*pair)[0] for pair in self.spans.T.split(2)])
        words = torch.cat([inside, self.heads.flatten()]).unique()
        x = features.stack(words, sites=sites).float()
        if reads == "heads":
            return Examples(x, torch.searchsorted(words, self.heads), y)
        last = torch.tensor([0, 1, 0, 1])  # the word before the end is in the span, the end not
        return Examples(x, torch.searchsorted(words, self.spans - last) + last, y)

    @property
    def subsets(self) -> dict[str, Bool[ndarray, " pair"]]:
        """All pairs, and those of each kind of anaphor."""
        kinds = np.asarray(self.kind)
        every = {"all": np.ones(len(self), dtype=bool)}
        return every | {str(kind): kinds == kind for kind in np.unique(kinds)}

    def score_baselines(self) -> Scores:
        """Accuracy of each baseline, by kind of anaphor."""
        y, documents = self.y.numpy() == 1, np.asarray(self.cluster)
        cells = [
            Scores.of(
                (said == y)[kept].astype(float),
                documents[kept],
                task=TASK,
                probe=name,
                subset=subset,
                provenance={"pairs": len(self), "mentions skipped": self.skipped},
            )
            for name, said in self.baselines.items()
            for subset, kept in self.subsets.items()
        ]
        return Scores.concat(cells)


@door
def mention_pairs(
    corpus: Corpus, features: Features, *, first: First = "skip", seed: Seed = 0
) -> MentionPairs:
    """Pairs of mentions that could see each other, balanced at each distance.

    Args:
        features: of the corpus, collected with `context=n` so that sentences share rows; a
            candidate is in the anaphor's row.
        first: "skip" mentions with the first word of a row, as `interp.heads.attended` skips the
            words that are attention sinks: their activation is a hundred times as long as the
            others', and would decide alone by how much all are scaled. Features do not tell whether
            a special token stands before that word; where one does, nothing is lost by "keep".
        seed: of the draws.

    Raises:
        CorpusError: no mentions, or mentions without a head word.
        ProbeError: features of another corpus; or no pair at all.
    """
    corpus.require("mentions")
    features.require(corpus)
    for document in corpus.documents:
        _require_heads(document)
    rng = np.random.default_rng(seed)
    kept: list[_Pair] = []
    asked = skipped = 0
    barred = begins_row(features) if first == "skip" else None
    everything = placed(corpus, features, read="words", without=barred)
    for document, mentions in zip(corpus.documents, everything, strict=True):
        skipped += sum(mention.row < 0 for mention in mentions)
        strata: dict[tuple[str, int], tuple[list[_Pair], list[_Pair]]] = defaultdict(
            lambda: ([], [])
        )
        for anaphor in anaphors(mentions):
            for pair in _candidates(anaphor, document):
                kind = anaphor.placed.mention.kind or ""
                strata[kind, pair.distance][pair.corefer].append(pair)
        for key in sorted(strata):
            different, same = strata[key]
            asked += len(same)
            fewer = min(len(different), len(same))
            for side in (same, different):
                kept += [side[i] for i in sorted(rng.permutation(len(side))[:fewer])]
    if not kept:
        raise ProbeError(
            f"{corpus.name} gives no pairs: {asked} of its mentions have an antecedent in their "
            f"row, and none of these distances has a mention of another chain. Collect with a "
            "larger context=, so that sentences share rows, or take more text."
        )
    return _pairs(kept, skipped, numbered(corpus, features).tolist())


@dataclass(frozen=True, slots=True)
class _Pair:
    anaphor: Placed
    candidate: Placed
    distance: int
    corefer: bool
    document: Document


def _require_heads(document: Document) -> None:
    for mention in document.mentions:
        if mention.head is None:
            raise CorpusError(
                f"{document.text(mention)!r} of document {document.id!r} has no head word; pairs "
                "of mentions need them. Annotate heads (Mention.head), or take a corpus that has "
                "them."
            )


def _candidates(anaphor: Anaphor, document: Document) -> Iterator[_Pair]:
    """Its nearest antecedent, and every earlier mention of another chain."""
    same = anaphor.antecedents
    for i, candidate in enumerate(anaphor.earlier if same else ()):
        if candidate is same[0] or candidate.mention.chain != anaphor.placed.mention.chain:
            yield _Pair(anaphor.placed, candidate, i + 1, candidate is same[0], document)


def _pairs(kept: Sequence[_Pair], skipped: int, at: Sequence[int]) -> MentionPairs:
    """`at`: the collected word of each word of the corpus."""

    def form(document: Document, mention: Mention) -> str:
        return document.sentences[mention.sentence].words[mention.head or 0].form.lower()

    def agree(pair: _Pair) -> bool:
        ends = (pair.anaphor, pair.candidate)
        both = zip(*(agreement(pair.document, end.mention) for end in ends), strict=True)
        return all(a is None or b is None or a == b for a, b in both)

    ends = [(p.anaphor, p.candidate) for p in kept]
    forms = tuple(
        (form(p.document, p.anaphor.mention), form(p.document, p.candidate.mention)) for p in kept
    )
    said = {
        "nearest mention": [p.distance == 1 for p in kept],
        "head match": [one == other for one, other in forms],
        "gender and number": [agree(p) for p in kept],
    }
    spans = [(at[m.start], at[m.end - 1] + 1) for pair in ends for m in pair]
    return MentionPairs(
        spans=torch.tensor(spans).reshape(-1, 4),
        heads=torch.tensor([(at[a.head], at[b.head]) for a, b in ends]),
        forms=forms,
        y=torch.tensor([int(p.corefer) for p in kept]),
        cluster=tuple(p.document.id for p in kept),
        kind=tuple(p.anaphor.mention.kind or "" for p in kept),
        distance=np.array([p.distance for p in kept]),
        baselines={name: np.array(values) for name, values in said.items()},
        skipped=skipped,
    )


def agreement(document: Document, mention: Mention) -> tuple[str | None, str | None]:
    """Gender and number of a mention, as far as closed lists of words know them.

    The head word says it ("his *sister*"), or else a title or first name before it ("*Mr.*
    Darcy").
    """
    start, end = mention.words
    forms = [w.form.lower() for w in document.sentences[mention.sentence].words[start:end]]
    pronouns, names = _known()
    head = end - 1 if mention.head is None else mention.head
    words = pronouns | names
    if (found := words.get(forms[head - start])) is not None:
        return found
    return next((names[form] for form in forms[: head - start] if form in names), (None, None))


Agreement = dict[str, tuple[str | None, str | None]]


@cache
def _known() -> tuple[Agreement, Agreement]:
    """Pronouns; and titles, first names and the nouns of people of the controlled set."""
    pronouns, names = (
        {word: said for said, words in table.items() for word in words.split()}
        for table in (PRONOUNS, TITLES)
    )
    for gender, given in lists("ioi", "words")["names"].items():
        names |= {name.lower(): (gender, "singular") for name in given}
    for man, woman, men, women in lists("pronouns", "words")["couples"]:
        names |= {man: ("masculine", "singular"), woman: ("feminine", "singular")}
        names |= {men: ("masculine", "plural"), women: ("feminine", "plural")}
    return pronouns, names
