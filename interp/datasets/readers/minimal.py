"""Minimal pairs: a grammatical sentence and one that differs in the point of grammar alone.

BLiMP (Warstadt et al. 2020) and the templates of Marvin & Linzen (2018), one JSON object a line.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed, shown
from interp.core.errors import CorpusError, said
from interp.datasets.corpus import Span

Method = Literal["one_prefix", "two_prefix", "whole"]
_BLIMP = ("sentence_good", "sentence_bad", "UID", "linguistics_term", "pairID")
_TEMPLATES = ("template", "condition", "good", "bad")


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """Two sentences.

    Attributes:
        id: within its set.
        good, bad: the sentences.
        paradigm: BLiMP's UID, or the template.
        condition: BLiMP's term of linguistics, or the template's condition.
        method: how a model may be asked. "one_prefix": the sentences are the same up to one
            critical word; "two_prefix": the critical word is the same after different prefixes;
            "whole": by the probability of the sentences.
        bad2: a second ungrammatical sentence, where there is one.
    """

    id: str
    good: str
    bad: str
    paradigm: str
    condition: str
    method: Method
    bad2: str | None = None

    def __post_init__(self) -> None:  # no door: sets have 70,000 of them
        for name in ("good", "bad"):
            if not isinstance(text := getattr(self, name), str):
                raise CorpusError(f"the {name} sentence of a pair is text, not {shown(text)}.")

    @property
    def differs(self) -> tuple[Span, Span]:
        """Characters of the words in which good and bad differ, [start, end) in each."""
        good, bad = _words(self.good), _words(self.bad)
        shorter = min(len(good), len(bad))
        first = 0
        while first < shorter and _form(self.good, good, first) == _form(self.bad, bad, first):
            first += 1
        last = 0
        while last < shorter - first and (
            _form(self.good, good, -1 - last) == _form(self.bad, bad, -1 - last)
        ):
            last += 1
        return _between(good, first, last), _between(bad, first, last)

    def continuations(self) -> tuple[str, str, str]:
        """The shared prefix, and the word that goes on in the good and in the bad sentence.

        A causal model answers by the logits of the two words after the prefix, each with the space
        between. The words have no punctuation after them.

        Raises:
            CorpusError: the pair is not of the method "one_prefix", or begins with the difference.
        """
        if self.method != "one_prefix":
            raise CorpusError(
                f"the pair {self.id} ({self.good!r} / {self.bad!r}) does not hinge on one word "
                f"after one prefix: its method is {self.method!r}. Compare the probabilities of "
                "the sentences, or keep the pairs whose method is 'one_prefix'."
            )
        (start, good), (_, bad) = self.differs
        if not start:
            raise CorpusError(
                f"the pair {self.id} ({self.good!r} / {self.bad!r}) differs in its first word: "
                "there is no prefix to go on from."
            )
        words = (self.good[start:good].split(" ")[0], self.bad[start:bad].split(" ")[0])
        return self.good[:start].rstrip(), *(word.rstrip(".,;:!?") for word in words)


@door
@dataclass(frozen=True)
class MinimalPairs:
    """Minimal pairs of one or more paradigms, in the order of the files."""

    name: str
    pairs: tuple[MinimalPair, ...]
    source: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[MinimalPair]:
        return iter(self.pairs)

    @property
    def paradigms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(pair.paradigm for pair in self.pairs))

    @door
    def where(self, keep: Callable[[MinimalPair], bool]) -> "MinimalPairs":
        """The pairs for which `keep` holds.

        Raises:
            CorpusError: none is left.
        """
        kept = tuple(pair for pair in self.pairs if keep(pair))
        if not kept:
            raise CorpusError(
                f"no pair of {self.name} is left by the condition; look at what it asks for."
            )
        return replace(self, pairs=kept)

    @door
    def sample(self, n: Count, *, seed: Seed) -> "MinimalPairs":
        """At most `n` pairs of each paradigm and condition, in order.

        Templates repeat few words many times: more pairs of a condition tell little more.
        """
        cells: dict[tuple[str, str], list[int]] = {}
        for i, pair in enumerate(self.pairs):
            cells.setdefault((pair.paradigm, pair.condition), []).append(i)
        random = np.random.default_rng(seed)
        kept: list[int] = []
        for cell in cells.values():
            kept += random.permutation(cell)[:n].tolist()
        return replace(self, pairs=tuple(self.pairs[i] for i in sorted(kept)))

    def __repr__(self) -> str:
        return f"MinimalPairs {self.name}: {len(self)} pairs of {len(self.paradigms)} paradigms"


def read_pairs(
    text: str, *, name: str, file: str | None = None, source: Mapping[str, str] | None = None
) -> MinimalPairs:
    """The pairs of a file with one JSON object a line, as BLiMP or {template, condition, ...}.

    A template's pair is of the method "one_prefix" if exactly one word differs and it has no second
    bad sentence; else "whole".

    Args:
        text: the file's contents.
        name: of the set.
        file: what errors call the file; the name where None.
        source: where the text comes from.

    Raises:
        CorpusError: file, line, what was expected, what stood there.
    """
    where = file or name
    pairs: list[MinimalPair] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _error(where, number, "a JSON object", f"{line[:60]!r} ({said(error)})") from None
        if not isinstance(row, dict):
            raise _error(where, number, "a JSON object", repr(line[:60]))
        read = _blimp if "sentence_good" in row else _template
        wanted = _BLIMP if "sentence_good" in row else _TEMPLATES
        missing = [key for key in wanted if not isinstance(row.get(key), str)]
        if missing:
            expected = f"text for {', '.join(wanted)}"
            raise _error(where, number, expected, f"none for {', '.join(missing)}")
        pair = read(row, number)
        if pair.good == pair.bad:
            raise _error(where, number, "two sentences that differ", repr(pair.good))
        if pair.method == "one_prefix":
            _check(row, pair, where, number)
        pairs.append(pair)
    if not pairs:
        raise CorpusError(f"{where}: expected pairs, one JSON object a line; found none")
    return MinimalPairs(name, tuple(pairs), dict(source or {}))


def _blimp(row: Mapping[str, str], number: int) -> MinimalPair:
    method: Method = "whole"
    if row.get("one_prefix_method"):
        method = "one_prefix"
    elif row.get("two_prefix_method"):
        method = "two_prefix"
    id = f"{row['UID']}-{row['pairID']}"
    good, bad = row["sentence_good"], row["sentence_bad"]
    return MinimalPair(id, good, bad, row["UID"], row["linguistics_term"], method)


def _template(row: Mapping[str, str], number: int) -> MinimalPair:
    good, bad = row["good"].split(" "), row["bad"].split(" ")
    changed = sum(a != b for a, b in zip(good, bad, strict=False))
    one = len(good) == len(bad) and changed == 1 and row.get("bad2") is None
    return MinimalPair(
        f"{row['template']}-{number}",
        row["good"],
        row["bad"],
        row["template"],
        row["condition"],
        "one_prefix" if one else "whole",
        row.get("bad2"),
    )


def _check(row: Mapping[str, str], pair: MinimalPair, file: str, number: int) -> None:
    """What BLiMP itself says of the prefix must be so."""
    if "one_prefix_prefix" in row:
        for word, sentence in (("good", pair.good), ("bad", pair.bad)):
            start = f"{row['one_prefix_prefix']} {row[f'one_prefix_word_{word}']}"
            if not sentence.startswith(start):
                raise _error(file, number, f"a {word} sentence that begins {start!r}", sentence)


def _words(sentence: str) -> list[Span]:
    """Characters of the words between spaces, without the marks at the sentence's end."""
    spans: list[Span] = []
    start = 0
    for word in sentence.rstrip(".!? ").split(" "):
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return spans


def _form(sentence: str, spans: list[Span], i: int) -> str:
    return sentence[slice(*spans[i])]


def _between(spans: list[Span], first: int, last: int) -> Span:
    inside = spans[first : len(spans) - last]
    return (inside[0][0], inside[-1][1]) if inside else (spans[first - 1][1],) * 2


def _error(file: str, line: int, expected: str, found: str) -> CorpusError:
    return CorpusError(f"{file}, line {line}: expected {expected}; found {found}")
