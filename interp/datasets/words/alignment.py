"""Words to tokens: which tokens of which row carry the characters of each word.

A token belongs to a word if they share a character; spaces do not count. So "don't" as `don|'t`
gives "do" the token `don`, and "n't" both. Where several tokens share a character (the bytes of an
emoji), the word has them all.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Int

from interp.core.errors import CorpusError
from interp.datasets.corpus import Corpus, Sentence, Word
from interp.models.bridge.tokens import Bos, Offsets
from interp.models.model import Model

log = logging.getLogger("interp")
SPACES = " ▁Ġ"
"""How vocabularies write a space, which may be a token by itself."""

Encoded = tuple[list[int], Offsets]
Encode = Callable[[str], Encoded]
Ranges = Int[np.ndarray, "word two"]


@dataclass(frozen=True, eq=False, repr=False)
class Alignment:
    """Rows of tokens, and the range of tokens of each word that has some.

    The arrays have one entry for each such word, in the order of the corpus; in a row the words
    stand in that order too.

    Attributes:
        rows: token ids, special tokens among them.
        sentence, word: index in `corpus.sentences`, and in the words of that sentence.
        row, start, end: the row, and the word's tokens in it, [start, end).
        missing: (sentence, word) of the words without tokens.
        cut: sentences that lost their first tokens because they are longer than a row may be.
        note: what is missing, for a reader; empty if nothing is.
    """

    rows: tuple[tuple[int, ...], ...]
    sentence: Int[np.ndarray, " word"]
    word: Int[np.ndarray, " word"]
    row: Int[np.ndarray, " word"]
    start: Int[np.ndarray, " word"]
    end: Int[np.ndarray, " word"]
    missing: tuple[tuple[int, int], ...]
    cut: tuple[int, ...]
    note: str

    def __len__(self) -> int:
        """Words that have tokens."""
        return len(self.word)

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.rows))

    @cached_property
    def fingerprint(self) -> str:
        """Of the token ids, the ranges of the words and what is missing, as 16 hex digits."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(np.array([len(row), *row], dtype=np.int64).tobytes())
        for part in (self.sentence, self.word, self.row, self.start, self.end):
            digest.update(np.ascontiguousarray(part, dtype=np.int64).tobytes())
        digest.update(repr((self.missing, self.cut)).encode())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        text = f"Alignment: {len(self)} words, {self.n_tokens} tokens in {len(self.rows)} rows"
        return f"{text}; {self.note}" if self.note else text


def align(
    model: Model, corpus: Corpus, *, context: int | None = None, bos: Bos = "model"
) -> Alignment:
    """Find the tokens of every word of a corpus.

    A sentence that has more tokens than a row may have loses its first ones, as a context that is
    cut on the left; special tokens stay. Its words that lost a token are missing. What is missing
    is counted in `Alignment.note`, and said through the logger `interp`.

    Args:
        context: None for a row for each sentence; or the tokens that a row may have, special ones
            counted, and then sentences of one document that follow each other share a row, as many
            as fit, joined by a space. Never more than the model's context.
        bos: "model" adds the special tokens that the tokenizer adds by itself, "none" adds none.

    Raises:
        CorpusError: no words, none that has a token, or a context that holds none.
        ModelError: the model has no tokenizer.
        PairsError: the tokenizer cannot tell which characters a token covers.
    """
    if not corpus.n_words:
        raise CorpusError(f"{corpus.name} has no words, so there is nothing to align")
    limit = _limit(model, context)
    specials = frozenset(model.tokenizer.all_special_ids) if model.tokenizer else frozenset()

    def encode(text: str) -> Encoded:
        return model.encode_with_offsets(text, bos=bos)

    rows: list[tuple[int, ...]] = []
    found: list[Ranges] = []
    cut: list[int] = []
    first = 0
    for sentences in _rows(corpus, encode, None if context is None else limit):
        text, spans = _joined(sentences)
        ids, offsets = encode(text)
        ranges = _ranges(text, spans, offsets, _blanks(model, ids, offsets))
        if len(ids) > limit:
            ids, ranges = _left_truncated(ids, offsets, ranges, limit, specials)
            cut.append(first)
        names = [(first + i, n) for i, s in enumerate(sentences) for n in range(len(s))]
        words = np.array(names, dtype=np.int64).reshape(-1, 2)
        place = np.column_stack([words, np.full(len(words), len(rows)), ranges])
        rows.append(tuple(ids))
        found.append(place)
        first += len(sentences)
    return _alignment(corpus, limit, rows, np.concatenate(found), cut)


def _limit(model: Model, context: int | None) -> int:
    most = model.facts.n_ctx
    if context is None:
        return most
    if not 1 <= context <= most:
        raise CorpusError(
            f"context={context} tokens: a row of {model.name} has 1 to {most}. Give one of these, "
            "or leave it out for a row for each sentence."
        )
    return context


def _rows(corpus: Corpus, encode: Encode, most: int | None) -> Iterator[Sequence[Sentence]]:
    """The sentences of each row; those without words are rows of nothing."""
    for document in corpus.documents:
        sentences = document.sentences
        if most is None:
            yield from ((sentence,) for sentence in sentences)
            continue
        # alone a sentence is about as long as among others, so the first guess is near
        sizes = [len(encode(sentence.text)[0]) for sentence in sentences]
        around = len(encode("")[0])
        first = 0
        while first < len(sentences):
            total, end = around, first
            while end < len(sentences) and total + sizes[end] - around <= most:
                total += sizes[end] - around
                end += 1
            end = max(end, first + 1)
            while end > first + 1 and not _fits(sentences[first:end], encode, most):
                end -= 1
            while end < len(sentences) and _fits(sentences[first : end + 1], encode, most):
                end += 1
            yield sentences[first:end]
            first = end


def _fits(sentences: Sequence[Sentence], encode: Encode, most: int) -> bool:
    return len(encode(_joined(sentences)[0])[0]) <= most


def _joined(sentences: Sequence[Sentence]) -> tuple[str, Ranges]:
    """One text, and the characters of each word in it."""
    spans, at = [], 0
    for sentence in sentences:
        spans += [(at + word.span[0], at + word.span[1]) for word in sentence.words]
        at += len(sentence.text) + 1
    return " ".join(s.text for s in sentences), np.array(spans, dtype=np.int64).reshape(-1, 2)


def _blanks(model: Model, ids: Sequence[int], offsets: Offsets) -> frozenset[int]:
    """Tokens that are a space put before the text, though they claim its first character."""
    shared = [
        i
        for i, (a, b) in enumerate(pairwise(offsets))
        if a[0] == b[0] and a[0] < a[1] and b[0] < b[1]
    ]
    if not shared or model.tokenizer is None:
        return frozenset()
    pieces = model.tokenizer.convert_ids_to_tokens([ids[i] for i in shared])
    return frozenset(i for i, piece in zip(shared, pieces, strict=True) if not piece.strip(SPACES))


def _ranges(text: str, spans: Ranges, offsets: Offsets, blanks: frozenset[int]) -> Ranges:
    """The tokens of each span, [start, end), or (-1, -1)."""
    kept = [i for i, (a, b) in enumerate(offsets) if a < b and i not in blanks]
    ranges = np.full((len(spans), 2), -1, dtype=np.int64)
    if not kept:
        return ranges
    starts, ends = np.array([offsets[i] for i in kept]).T
    # these orders hold but where a tokenizer moves text, and then no token is lost
    starts, ends = np.minimum.accumulate(starts[::-1])[::-1], np.maximum.accumulate(ends)
    words = np.array([_trimmed(text, a, b) for a, b in spans.tolist()], dtype=np.int64)
    words = words.reshape(-1, 2)
    first = np.searchsorted(ends, words[:, 0], side="right")
    last = np.searchsorted(starts, words[:, 1], side="left") - 1
    has = (first <= last) & (words[:, 0] < words[:, 1])
    place = np.array(kept)
    ranges[has] = np.column_stack([place[first[has]], place[last[has]] + 1])
    return ranges


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the spaces around it."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _left_truncated(
    ids: list[int], offsets: Offsets, ranges: Ranges, limit: int, specials: frozenset[int]
) -> tuple[list[int], Ranges]:
    """The last tokens that fit between the special ones; a word that lost a token has none."""
    added = [i in specials and a == b for i, (a, b) in zip(ids, offsets, strict=True)]
    before = [*added, False].index(False)
    after = [*added[::-1], False].index(False)
    if (room := limit - before - after) < 1:
        raise CorpusError(
            f"a row of {limit} tokens has no room for a word: the tokenizer adds {before + after} "
            "special tokens. Give a larger context=, or bos='none'."
        )
    lost = len(ids) - before - after - room
    whole = ranges[:, :1] >= before + lost
    return ids[:before] + ids[before + lost :], np.where(whole, ranges - lost, -1)


def _alignment(
    corpus: Corpus, limit: int, rows: list[tuple[int, ...]], found: Ranges, cut: list[int]
) -> Alignment:
    has = found[:, 3] >= 0
    missing = [(s, w) for s, w in found[~has, :2].tolist()]
    note = _note(corpus, limit, missing, cut)
    if not has.any():
        raise CorpusError(f"no word of {corpus.name} has a token: {note}")
    if note:
        log.warning("%s: %s", corpus.name, note)
    sentence, word, row, start, end = found[has].T
    return Alignment(tuple(rows), sentence, word, row, start, end, tuple(missing), tuple(cut), note)


def _note(
    corpus: Corpus, limit: int, missing: Sequence[tuple[int, int]], cut: Sequence[int]
) -> str:
    parts = []
    if missing:
        words: list[tuple[Sentence, Word]] = [
            (corpus.sentences[s], corpus.sentences[s].words[w]) for s, w in missing[:3]
        ]
        shown = ", ".join(f"{word.form!r} of {sentence.id}" for sentence, word in words)
        more = ", ..." if len(missing) > 3 else ""
        inside = sum(s in set(cut) for s, _ in missing)
        parts.append(
            f"{len(missing)} of {corpus.n_words} words have no tokens ({shown}{more}): {inside} "
            f"were cut off, {len(missing) - inside} the tokenizer drops"
        )
    if cut:
        parts.append(
            f"{len(cut)} sentences are longer than {limit} tokens and lost their first ones "
            f"(the first is {corpus.sentences[cut[0]].id})"
        )
    return "; ".join(parts)
