"""How attention can be asked for the links that a corpus annotates (`interp.datasets.words.links`).

Each word has one syntactic head. Attention answers in one of two directions: "dependent -> head"
is the word that the dependent attends to most, "head -> dependent" the word that attends to the
dependent most. Under a causal mask a direction can be asked of the pairs in its order only. Where
a word holds the first token of a row and is skipped, no link with it can be asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Integer
from numpy import ndarray

from interp.datasets.corpus import Corpus
from interp.datasets.words import links as annotated_links
from interp.datasets.words.links import anaphors, begins_row, clusters, numbered, placed
from interp.heads.looking.attended import Attended, reach_of_mentions

ALL = "all"
ANTECEDENT = "antecedent"
FIRST_WORD = "first word"
"""The baseline that answers with the word that holds the first token of the row."""
NOWHERE = 1
"""A distance that no antecedent has: it stands to the left."""


@dataclass(frozen=True, eq=False)
class Links:
    """The links of one kind, as far as attention can be asked for them.

    Attributes:
        task: relation and direction, "amod: dependent -> head".
        asks: the distances of `Attended` that answer.
        place: of each link in these.
        looks: the word that looks, in the alignment: the dependent, the head where it is asked
            what attends to the dependent, the anaphor.
        right: the distances that are right.
        baselines: whether the link is found without attention, by name of the method.
        cluster: the document of each link, as its place in `clusters`.
        annotated: links in each document, with those that cannot be asked.
        skipped: of these, those that only the skipped first words of rows keep from being asked.
    """

    task: str
    asks: Literal["to", "by", "antecedent"]
    place: Integer[ndarray, " link"]
    looks: Integer[ndarray, " link"]
    right: Integer[ndarray, "link right"]
    baselines: Mapping[str, Bool[ndarray, " link"]]
    cluster: Integer[ndarray, " link"]
    annotated: Integer[ndarray, " cluster"]
    skipped: Integer[ndarray, " cluster"]

    def __len__(self) -> int:
        return len(self.place)


def dependencies(attended: Attended, corpus: Corpus, offsets: Sequence[int]) -> Iterator[Links]:
    """The relations, most frequent first, each in both directions; before them all together."""
    found, (names, of) = annotated_links.dependencies(corpus), clusters(corpus)
    cluster, alignment = of[found.document], attended.alignment
    at, offset = numbered(corpus, alignment), found.head - found.dependent
    source, target = at[found.dependent], at[found.head]
    tokens, sinks = (source >= 0) & (target >= 0), begins_row(alignment)
    first = tokens & (sinks[source] | sinks[target]) & (attended.first == "skip")
    start, end = alignment.start, alignment.end
    left, right = tokens & (end[target] <= start[source]), tokens & (end[source] <= start[target])
    directions: dict[str, tuple[Literal["to", "by"], ndarray]] = {
        "dependent -> head": ("to", left if attended.causal else left | right),
        "head -> dependent": ("by", right if attended.causal else left | right),
    }
    kinds, counts = np.unique(found.relation, return_counts=True)
    for kind in [ALL, *kinds[np.argsort(-counts, kind="stable")]]:
        member = np.ones(len(found), dtype=bool) if kind == ALL else found.relation == kind
        for direction, (asks, possible) in directions.items():
            asked = np.flatnonzero(member & possible & ~first)
            baselines = {f"offset {o:+d}": offset[asked] == o for o in offsets}
            if attended.first == "keep":
                baselines[FIRST_WORD] = sinks[target[asked]]
            yield Links(
                f"{kind}: {direction}",
                asks,
                source[asked],
                (source if asks == "to" else target)[asked],
                (target - source)[asked, None],
                baselines,
                cluster[asked],
                _count(cluster[member], names),
                _count(cluster[member & possible & first], names),
            )


def antecedents(attended: Attended, corpus: Corpus) -> Iterator[Links]:
    """Anaphors, all together and by kind: the mentions that are not the first of their chain.

    Candidates are the head words of the mentions of the row that end before the anaphor begins.
    Asked are the anaphors that have a right and a wrong one.
    """
    found, names = list(_anaphors(attended, corpus)), clusters(corpus)[0]
    kinds = sorted({anaphor.kind for anaphor in found if anaphor.kind})
    for kind in [None, *kinds]:
        members = [a for a in found if kind is None or a.kind == kind]
        asked = [a for a in members if a.asked]
        words = np.array([a.word for a in asked], dtype=int)
        right = np.full((len(asked), max((len(a.right) for a in asked), default=1)), NOWHERE)
        for row, anaphor in zip(right, asked, strict=True):
            row[: len(anaphor.right)] = sorted(anaphor.right)
        said = {"nearest mention": [a.nearest in a.right for a in asked]}
        said["head match"] = [a.alike in a.right for a in asked]
        if attended.first == "keep":
            said[FIRST_WORD] = [a.begins in a.right for a in asked]
        yield Links(
            ANTECEDENT if kind is None else f"{ANTECEDENT} of {kind}",
            "antecedent",
            np.searchsorted(attended.mentions, words).astype(int),
            words,
            right,
            {name: np.array(values, dtype=bool) for name, values in said.items()},
            np.array([a.cluster for a in asked], dtype=int),
            _count([a.cluster for a in members], names),
            _count([a.cluster for a in members if a.skipped], names),
        )


@dataclass(frozen=True)
class _Anaphor:
    """A mention that is not the first of its chain.

    Attributes:
        word: its head, in the alignment; -1 where it has no tokens.
        right, wrong: distances to the heads of earlier mentions of its row, of its chain or not.
        nearest, alike: distance to the nearest of these, and to the nearest with the same form
            (the nearest of all where there is none); 0 where there are no mentions.
        begins: distance to the one that holds the row's first token; 0 where there is none.
        skipped: it could be asked if that one were kept.
    """

    kind: str | None
    cluster: int
    word: int
    right: frozenset[int]
    wrong: frozenset[int]
    nearest: int
    alike: int
    begins: int
    skipped: bool

    @property
    def asked(self) -> bool:
        return bool(self.right and self.wrong)


def _anaphors(attended: Attended, corpus: Corpus) -> Iterator[_Anaphor]:
    at, numbers = attended.alignment, numbered(corpus, attended.alignment).tolist()
    begins, sinks = reach_of_mentions(corpus, at)[0], begins_row(at)

    def form(word: int) -> str:
        return corpus.sentences[at.sentence[word]].words[at.word[word]].form.lower()

    for cluster, mentions in zip(
        clusters(corpus)[1].tolist(), placed(corpus, at, read="head"), strict=True
    ):
        # attention is asked from word to word: of what a word heads, where the first begins
        asking = [
            replace(m, start=int(begins[numbers[m.head]])) if m.row >= 0 else m for m in mentions
        ]
        for anaphor in anaphors(asking):
            word = numbers[anaphor.placed.head]
            there = [numbers[m.head] for m in anaphor.earlier]
            same = {numbers[m.head] for m in anaphor.antecedents}
            apart = {w for w in there if at.end[w] <= at.start[word]}
            earlier = {w for w in apart if not sinks[w]} if attended.first == "skip" else apart
            nearest = max(earlier, default=word)
            alike = max((w for w in earlier if form(w) == form(word)), default=nearest)
            kept = bool(same & earlier) and bool(earlier - same)
            yield _Anaphor(
                anaphor.placed.mention.kind,
                cluster,
                word,
                frozenset(w - word for w in same & earlier),
                frozenset(w - word for w in earlier - same),
                nearest - word,
                alike - word,
                next((w - word for w in earlier if sinks[w]), 0),
                bool(same & apart) and bool(apart - same) and not kept,
            )


def _count(cluster: Sequence[int] | ndarray, names: Sequence[str]) -> Integer[ndarray, " cluster"]:
    """How many in each."""
    return np.bincount(np.asarray(cluster, dtype=int), minlength=len(names))
