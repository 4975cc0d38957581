"""Annotated text: a corpus of documents, their sentences and words, and mentions with chains.

Readers make these nouns from files; alignment finds the tokens of a word; probes and heads are
asked about them. What a corpus does not annotate is None, never a guess.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed, is_row, shown
from interp.core.errors import CorpusError

Layer = Literal["upos", "xpos", "lemma", "head", "relation", "mentions"]
Repeated = Literal["refuse", "join"]
"""What becomes of a document whose id an earlier one of the file has."""
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Word:
    """A syntactic word of a sentence.

    Attributes:
        form: as written in the sentence.
        span: its characters in the sentence's text, [start, end); the words of a multiword token
            that cannot be told apart there ("du" = "de" + "le") have the same span.
        upos, xpos, lemma, relation: annotations, or None.
        head: index of its syntactic head in the sentence, -1 for the root, or None.
    """

    form: str
    span: Span
    upos: str | None = None
    xpos: str | None = None
    lemma: str | None = None
    head: int | None = None
    relation: str | None = None


@dataclass(frozen=True)
class Sentence:
    """Words and the text that they stand in."""

    id: str
    text: str
    words: tuple[Word, ...]

    def __post_init__(self) -> None:  # no door: corpora have 10,000 of them and of words 200,000
        if not isinstance(self.text, str) or not isinstance(self.words, tuple):
            raise CorpusError(
                f"a sentence is made of its text and a tuple of words, not of {shown(self.text)} "
                f"and {shown(self.words)}."
            )
        length, count = len(self.text), len(self.words)
        for i, word in enumerate(self.words):
            if not isinstance(word, Word) or not isinstance(word.form, str):
                raise CorpusError(f"word {i} of sentence {self.id!r} is none: {shown(word)}.")
            if not _inside(word.span, length):
                raise CorpusError(
                    f"the span of word {i} ({word.form!r}) of sentence {self.id!r} is "
                    f"{shown(word.span)}; give its characters [start, end) among the "
                    f"{length} of the text."
                )
            if word.head is not None and not _is_head(word.head, count):
                raise CorpusError(
                    f"the head of word {i} ({word.form!r}) of sentence {self.id!r} is "
                    f"{shown(word.head)}; give the index of one of the {count} words, "
                    "or -1 for the root."
                )

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True, slots=True)
class Mention:
    """A span of words that refers.

    Attributes:
        sentence: index in the document.
        words: indices in the sentence, [start, end).
        chain: what it refers to; mentions of one chain corefer.
        head: index in the sentence of its head word, or None.
        kind: "pronoun", "proper", "nominal", or what the corpus calls it; None where unknown.
    """

    sentence: int
    words: Span
    chain: str
    head: int | None = None
    kind: str | None = None


@door
@dataclass(frozen=True)
class Document:
    """Sentences of one text: the unit of resampling.

    Attributes:
        mentions: in the order of the text.
        facts: what else the corpus says of it, by name.
    """

    id: str
    sentences: tuple[Sentence, ...]
    mentions: tuple[Mention, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for mention in self.mentions:
            self._require(mention)

    def _require(self, mention: Mention) -> None:
        """Refuse what is no mention of this document."""
        at, words, head = mention.sentence, mention.words, mention.head
        if not is_row(at, len(self.sentences)):
            raise CorpusError(
                f"a mention of document {self.id!r} is in sentence {shown(at)}, and there are "
                f"{len(self.sentences)}, counted from 0."
            )
        length = len(self.sentences[at])
        if not _inside(words, length) or words[0] == words[1]:
            raise CorpusError(
                f"a mention in sentence {at} of document {self.id!r} has the words {shown(words)}; "
                f"give indices [start, end) of at least one of the {length} words."
            )
        if head is not None and not (is_row(head, length) and words[0] <= head < words[1]):
            raise CorpusError(
                f"a mention in sentence {at} of document {self.id!r} has the words {words} and the "
                f"head {shown(head)}; its head is one of them, counted in the sentence, or None."
            )

    @cached_property
    def chains(self) -> dict[str, tuple[Mention, ...]]:
        """Mentions by chain, in the order of the text."""
        found: dict[str, list[Mention]] = {}
        for mention in self.mentions:
            found.setdefault(mention.chain, []).append(mention)
        return {chain: tuple(members) for chain, members in found.items()}

    @door
    def text(self, mention: Mention) -> str:
        """The characters of a mention.

        Raises:
            CorpusError: it is of another document.
        """
        self._require(mention)
        sentence = self.sentences[mention.sentence]
        first, last = sentence.words[mention.words[0]], sentence.words[mention.words[1] - 1]
        return sentence.text[first.span[0] : last.span[1]]


@door
@dataclass(frozen=True)
class Corpus:
    """Documents with their annotation.

    Attributes:
        name: of the corpus and split, or the file's name.
        layers: what is annotated.
        source: path or address, and what identifies the version (commit, sha256).
    """

    name: str
    documents: tuple[Document, ...]
    layers: frozenset[Layer]
    source: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def sentences(self) -> tuple[Sentence, ...]:
        """All sentences in order."""
        return tuple(s for document in self.documents for s in document.sentences)

    @cached_property
    def clusters(self) -> tuple[str, ...]:
        """The document of each sentence."""
        return tuple(d.id for d in self.documents for _ in d.sentences)

    @property
    def n_words(self) -> int:
        return sum(map(len, self.sentences))

    @cached_property
    def fingerprint(self) -> str:
        """Of the sentences and their words, not of what is annotated, as 16 hex digits."""
        digest = hashlib.sha256()
        for sentence in self.sentences:
            words = [(word.form, word.span) for word in sentence.words]
            digest.update(repr((sentence.text, words)).encode())
        return digest.hexdigest()[:16]

    def __identity__(self) -> str:
        """All that is annotated; walking through each word by itself would take a minute."""
        known = repr((self.name, sorted(self.layers), self.documents))
        return hashlib.sha256(known.encode()).hexdigest()

    @door
    def require(self, *layers: Layer) -> None:
        """Refuse a question about what is not annotated.

        Raises:
            CorpusError: naming what there is.
        """
        missing = [layer for layer in layers if layer not in self.layers]
        if missing:
            known = ", ".join(sorted(self.layers)) or "nothing"
            raise CorpusError(
                f"{self.name} is not annotated with {', '.join(missing)}; it has {known}. Take "
                "another corpus: interp.datasets.corpus() names those that there are."
            )

    @door
    def head(self, words: Count) -> "Corpus":
        """The first documents, the last one cut, with at least this many words (all if fewer)."""
        kept: list[Document] = []
        count = 0
        for document in self.documents:
            sentences: list[Sentence] = []
            for sentence in document.sentences:
                if count >= words:
                    break
                sentences.append(sentence)
                count += len(sentence)
            if sentences:
                inside = tuple(m for m in document.mentions if m.sentence < len(sentences))
                kept.append(replace(document, sentences=tuple(sentences), mentions=inside))
            if count >= words:
                break
        return replace(self, documents=tuple(kept))

    @door
    def sample(self, words: Count, *, seed: Seed = 0) -> "Corpus":
        """Documents in random order, cut like `head`: corpora are often sorted by genre."""
        order = np.random.default_rng([seed, len(self.documents)]).permutation(len(self.documents))
        return replace(self, documents=tuple(self.documents[i] for i in order)).head(words)

    @door
    def where(self, keep: Callable[[Document], bool]) -> "Corpus":
        """The documents for which `keep` holds.

        Raises:
            CorpusError: none is left.
        """
        kept = tuple(document for document in self.documents if keep(document))
        if not kept:
            raise CorpusError(
                f"no document of {self.name} is left by the condition; look at what it asks for."
            )
        return replace(self, documents=kept)

    def __repr__(self) -> str:
        mentions = sum(len(d.mentions) for d in self.documents)
        return (
            f"Corpus {self.name}: {len(self.documents)} documents, {len(self.sentences)} "
            f"sentences, {self.n_words} words, {mentions} mentions; "
            f"annotated with {', '.join(sorted(self.layers)) or 'nothing'}"
        )


def annotated(documents: tuple[Document, ...]) -> frozenset[Layer]:
    """The layers that at least one word or document has."""
    found: set[Layer] = {"mentions"} if any(d.mentions for d in documents) else set()
    for layer in ("upos", "xpos", "lemma", "head", "relation"):
        words = (w for d in documents for s in d.sentences for w in s.words)
        if any(getattr(word, layer) is not None for word in words):
            found.add(layer)
    return frozenset(found)


def stem(name: str, text: str) -> str:
    """What the ids of documents that have none begin with: of one name and one file's contents.

    So `train/en.tsv` and `test/en.tsv` share none, unless they are the same.
    """
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _inside(span: object, length: int) -> bool:
    """Is it [start, end) of so many?"""
    if not isinstance(span, tuple) or len(span) != 2:
        return False
    start, end = span
    if type(start) is type(end) is int:  # as readers make them: a quarter of the time
        return 0 <= start <= end <= length
    return is_row(start, length + 1) and is_row(end, length + 1) and start <= end


def _is_head(head: object, words: int) -> bool:
    return -1 <= head < words if type(head) is int else is_row(head, words)


@door
def require_disjoint(corpora: Mapping[str, Corpus]) -> None:
    """Refuse splits that share a document, over 1 % of their longer sentences, or half the others.

    Texts of at most six words ("Thank you!") and a formula now and then ("Let me know if you have
    any questions.") occur everywhere by themselves, in the published splits of treebanks too; but
    not over half of all that the smaller split has of them, unless these are three or fewer.

    Raises:
        CorpusError: naming what is shared, and how much.
    """
    for (one, first), (other, second) in combinations(corpora.items(), 2):
        for kind, keys, share, few in (
            ("document", _ids, 0.0, 0),
            ("sentence", _longer, 0.01, 0),
            ("short sentence", _shorter, 0.5, 3),
        ):
            here, there = keys(first), keys(second)
            shared = [key for key in here if key in there]
            fewer = min(len(here), len(there))
            if len(shared) > max(share * fewer, few):
                raise CorpusError(
                    f"{len(shared)} of {fewer} {kind}s are in both {one!r} and {other!r}, such as "
                    f"{shared[0][:60]!r}; a score on text that was trained on says nothing. Split "
                    "by document."
                )


def _ids(corpus: Corpus) -> dict[str, None]:
    return dict.fromkeys(document.id for document in corpus.documents)


def _longer(corpus: Corpus) -> dict[str, None]:
    return dict.fromkeys(s.text for s in corpus.sentences if len(s) > 6)


def _shorter(corpus: Corpus) -> dict[str, None]:
    return dict.fromkeys(s.text for s in corpus.sentences if len(s) <= 6)
