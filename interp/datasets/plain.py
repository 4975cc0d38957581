"""Words of plain text, and plain text of words.

Some corpora are words without their spaces, others text without words. Either way the spans are
exact: the characters of a word in the sentence's text are its form.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from interp.datasets.corpus import Span, Word

_WORD = re.compile(r"``|''|\.{2,}|['’]\w+|\w+|[^\w\s]")
_CLITIC = re.compile(r"(?i)['’](s|d|m|ll|re|ve)|n['’]t")
_LEFT = {*",.;:!?)]}%”’…", "...", "''"}  # no space before
_RIGHT = {*"([{$£“‘", "``"}  # no space after
_STRAIGHT = {*"\"'"}  # either, by turns


def split(text: str, cuts: Iterable[int] = ()) -> tuple[Word, ...]:
    """Runs of letters and digits, clitics after an apostrophe, and single marks.

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


def join(forms: Sequence[str]) -> tuple[str, tuple[Span, ...]]:
    """The forms as text with the spaces of ordinary English, and the characters of each.

    No space stands before closing marks and clitics ("'s", "n't") nor after opening ones; straight
    quotes open and close by turns, and one at the end closes. Each form stays as it is.
    """
    text = ""
    spans: list[Span] = []
    open: set[str] = set()
    glued = True
    for i, form in enumerate(forms):
        left, right = form in _LEFT or _CLITIC.fullmatch(form) is not None, form in _RIGHT
        if form in _STRAIGHT:
            # an apostrophe alone is a plural's genitive ("boys '") unless one was opened
            opens = form not in open and i + 1 < len(forms)
            opens = opens and (form == '"' or i == 0 or not forms[i - 1][-1].isalnum())
            left, right = not opens, opens
            (open.add if opens else open.discard)(form)
        text += "" if glued or left else " "
        spans.append((len(text), len(text) + len(form)))
        text += form
        glued = right
    return text, tuple(spans)
