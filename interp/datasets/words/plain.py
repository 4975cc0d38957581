"""Words of plain text, and plain text of words.

Some corpora are words without their spaces, others text without words. Either way the spans are
exact: the characters of a word in the sentence's text are its form.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import regex

from interp.datasets.corpus import Span, Word
from interp.datasets.words.quotes import opening

_MARK = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}\p{GCB=SpacingMark}]"  # of what is before it
_IN = rf"[\w\p{{N}}\p{{WB=Numeric}}{_MARK}]"
_CLITIC = rf"(?i:n['’]t|['’](?:s|d|m|ll|re|ve))(?!{_IN})"
_JOINT = (
    r"(?:(?<=\p{Alphabetic}[\p{M}\p{Cf}]*)(?!(?<=\p{L}\p{L}\p{Ll})\.\p{Lu})"
    r"[\p{WB=Single_Quote}\p{WB=MidNumLet}[\p{WB=MidLetter}--[:︓﹕：]]](?=\p{Alphabetic})"
    r"|(?<=\p{N}[\p{M}\p{Cf}]*)[\p{WB=Single_Quote}\p{WB=MidNumLet}\p{WB=MidNum}](?=\p{N}))"
)
_INITIALS = rf"(?<=\.\p{{L}}\p{{M}}*)\.(?!\.|{_MARK})"
_WORD = regex.compile(
    rf"(?:``|''|\.{{2,}})(?!{_MARK})|{_CLITIC}"
    rf"|(?!{_CLITIC}){_IN}(?:(?!{_CLITIC})(?:{_IN}|{_JOINT}))*(?:{_INITIALS})?"
    rf"|(?!\s)\X{_MARK}*",
    regex.V1,
)
_WHOLE = regex.compile(_CLITIC, regex.V1)
_EDGE = regex.compile(r"\b", regex.V1 | regex.WORD)
_BESIDE = regex.compile(r"[\p{WB=Single_Quote}\p{WB=MidNumLet}\p{WB=MidLetter}\p{WB=MidNum}]")
_LEFT = {*",.;:!?)]}%”’…", "...", "''"}  # no space before
_RIGHT = {*"([{$£“‘", "``"}  # no space after


def split(text: str, cuts: Iterable[int] = ()) -> tuple[Word, ...]:
    """Words as in Unicode's default (UAX #29), and marks one by one.

    So combining marks, joiners and what emoji are composed of stay with what they belong to, and
    "3.14", "10,000", "example.com", "rock'n'roll" are words. Otherwise than there, English
    clitics are words of their own ("do" + "n't", "Ann" + "'s"), initials keep their last stop
    ("U.S."), no stop joins two sentences ("said.She") and no colon anything, "``", "''" and dots
    in a row are one mark, and scripts that write no spaces are not cut between their letters.

    Args:
        text: of one sentence or passage.
        cuts: characters where a word must not go on, such as where a mention begins or ends.
    """
    edges = sorted({0, len(text), *cuts})
    return tuple(
        Word(found[0], found.span())
        for start, end in pairwise(edges)
        for found in _WORD.finditer(text, start, end)
    )


def is_edge(text: str, place: int) -> bool:
    """May a word begin or end before this character? Not in "mot|her", but in "Ann|'s"."""
    beside = text[max(place - 1, 0) : place + 1]
    return bool(_EDGE.match(text, place) or len(beside) < 2 or _BESIDE.search(beside))


def join(forms: Sequence[str]) -> tuple[str, tuple[Span, ...]]:
    """The forms as text with the spaces of ordinary English, and the characters of each.

    No space stands before closing marks and clitics ("'s", "n't") nor after opening ones. Straight
    double quotes open and close by turns, and one at the end closes; straight single ones may be
    apostrophes too, and are read as `quotes.opening` says. Each form stays as it is.
    """
    text = ""
    spans: list[Span] = []
    singles = opening(forms)
    inside, glued = False, True
    for i, form in enumerate(forms):
        left, right = form in _LEFT or _WHOLE.fullmatch(form) is not None, form in _RIGHT
        if form in ('"', "'"):
            right = i in singles
            if form == '"':
                right = inside = not inside and i + 1 < len(forms)
            left = not right
        text += "" if glued or left else " "
        spans.append((len(text), len(text) + len(form)))
        text += form
        glued = right
    return text, tuple(spans)
