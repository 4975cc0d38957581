"""Links between words that a corpus annotates, for whoever asks about them: heads and probes.

A word and its syntactic head; an anaphor and the earlier mentions that it may mean. Words are
counted over the corpus, and a *place* is the number of a word among those that have tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Integer
from numpy import ndarray

from interp.datasets.corpus import Corpus, Mention
from interp.datasets.words.alignment import Alignment

First = Literal["skip", "keep"]
"""What becomes of the word that begins a row of tokens: see `begins_row`."""
SKIPPED = ("punct", "root")
"""Relations that are no question (Clark et al. 2019)."""


@runtime_checkable
class Rows(Protocol):
    """Words in rows of tokens, in the order of the corpus: an `Alignment`, or `Features`.

    Attributes:
        sentence, word: index in `corpus.sentences`, and in the words of that sentence.
        row: the row of tokens that the word stands in.
    """

    @property
    def sentence(self) -> Int[ndarray, " place"]: ...
    @property
    def word(self) -> Int[ndarray, " place"]: ...
    @property
    def row(self) -> Int[ndarray, " place"]: ...


def begins_row(rows: Rows) -> Bool[ndarray, " place"]:
    """Words that hold the first token of their row: there heads rest that find nothing.

    Where the tokenizer puts a special token before them (BOS, [CLS]) no word does, for that token
    is the sink and belongs to no word. `Features` do not say where the tokens of a word are: of
    them it is the first word of each row.
    """
    if isinstance(rows, Alignment):
        return rows.start == 0
    return np.r_[True, rows.row[1:] != rows.row[:-1]][: len(rows.row)]


def numbered(corpus: Corpus, rows: Rows) -> Integer[ndarray, " corpus_word"]:
    """The place of every word of the corpus; -1 where it has no tokens."""
    at = np.full(corpus.n_words, -1)
    at[_before(corpus)[rows.sentence] + rows.word] = np.arange(len(rows.word))
    return at


def clusters(corpus: Corpus) -> tuple[tuple[str, ...], Integer[ndarray, " document"]]:
    """The ids of the documents, and the place of each document's among them.

    Documents of one id are one cluster: sentences of a controlled set that share a noun.
    """
    names, places = np.unique([document.id for document in corpus.documents], return_inverse=True)
    return tuple(names.tolist()), places


@dataclass(frozen=True, eq=False)
class Dependencies:
    """Words and their syntactic heads, punctuation and roots left out.

    Attributes:
        dependent, head: counted over the corpus; of one sentence.
        relation: as annotated: "nmod" and "nmod:poss" are two.
        document: its index in the corpus.
    """

    dependent: Integer[ndarray, " link"]
    head: Integer[ndarray, " link"]
    relation: ndarray
    document: Integer[ndarray, " link"]

    def __len__(self) -> int:
        return len(self.dependent)


def dependencies(corpus: Corpus) -> Dependencies:
    """Those of a corpus, in the order of the dependents.

    Raises:
        CorpusError: no heads or no relations are annotated.
    """
    corpus.require("head", "relation")
    found: list[tuple[int, int, int]] = []
    names: list[str] = []
    first = 0
    for number, document in enumerate(corpus.documents):
        for sentence in document.sentences:
            for i, word in enumerate(sentence.words):
                if word.head is None or word.head < 0 or not word.relation:
                    continue
                if word.relation not in SKIPPED:
                    found.append((first + i, first + word.head, number))
                    names.append(word.relation)
            first += len(sentence)
    dependent, head, of = np.array(found, dtype=int).reshape(-1, 3).T
    return Dependencies(dependent, head, np.array(names, dtype=str), of)


@dataclass(frozen=True, slots=True)
class Placed:
    """A mention and where it stands.

    Attributes:
        start, end: its words, counted over the corpus, [start, end).
        head: of these; the last one where the corpus does not tell.
        row: the row of tokens; -1 where it can be neither asked about nor meant.
    """

    mention: Mention
    start: int
    end: int
    head: int
    row: int


@dataclass(frozen=True, slots=True)
class Anaphor:
    """A mention that is not the first of its chain in its document.

    Attributes:
        earlier: the mentions of its row that end before it begins, the nearest first.
    """

    placed: Placed
    earlier: tuple[Placed, ...]

    @property
    def antecedents(self) -> tuple[Placed, ...]:
        """The earlier ones of its chain, the nearest first."""
        return tuple(m for m in self.earlier if m.mention.chain == self.placed.mention.chain)


def placed(
    corpus: Corpus,
    rows: Rows,
    *,
    read: Literal["head", "words"],
    without: Bool[ndarray, " place"] | None = None,
) -> tuple[tuple[Placed, ...], ...]:
    """The mentions of each document, in its order.

    Args:
        read: what must have tokens for the mention to be placed: its head, or all its words, and
            these in one row.
        without: places of words that no mention may have there: what `begins_row` says.
    """
    at, first = numbered(corpus, rows).tolist(), _before(corpus).tolist()
    row = rows.row.tolist()
    barred = set() if without is None else set(np.flatnonzero(without).tolist())
    found, before = [], 0
    for document in corpus.documents:
        mentions = []
        for mention in document.mentions:
            start, end = (first[before + mention.sentence] + word for word in mention.words)
            head = end - 1 if mention.head is None else start + mention.head - mention.words[0]
            places = at[start:end] if read == "words" else [at[head]]
            there = min(places) >= 0 and row[places[0]] == row[places[-1]]
            there = there and barred.isdisjoint(places)
            mentions.append(Placed(mention, start, end, head, row[places[0]] if there else -1))
        found.append(tuple(mentions))
        before += len(document.sentences)
    return tuple(found)


def anaphors(mentions: Sequence[Placed]) -> Iterator[Anaphor]:
    """The anaphors of a document, in the order of its mentions."""
    rows: dict[int, list[Placed]] = {}
    for mention in mentions:
        rows.setdefault(mention.row, []).append(mention)
    for members in rows.values():
        members.sort(key=lambda m: (m.end, m.start), reverse=True)
    begun: set[str] = set()
    for mention in mentions:
        if mention.mention.chain in begun:
            others = rows[mention.row] if mention.row >= 0 else []
            yield Anaphor(mention, tuple(m for m in others if m.end <= mention.start))
        begun.add(mention.mention.chain)


def _before(corpus: Corpus) -> Integer[ndarray, " sentence"]:
    """How many words stand before each sentence."""
    return np.cumsum([0, *map(len, corpus.sentences)])[:-1]
