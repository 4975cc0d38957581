"""Which straight single quotes of a tokenised sentence open something.

"calling me ' Sir John ' these days", "the boys ' room", "goin ' home", "want ' ee": the same mark
is a quote at either end, and an apostrophe at the end of a word or at its beginning. One alone
seldom tells; the sentence is read as a whole, and the likeliest reading is the cheapest.
"""

import re
from collections.abc import Iterator, Sequence

from interp.datasets.words.naming import DETERMINERS, PREPOSITIONS, PRONOUNS, words_of

QUOTE = "'"
_Read = tuple[float, frozenset[int]]
_OPENING, _CLOSING = {*"([{“‘", "``"}, {*",.;:!?)]}”'", "''"}
_PAUSES = {*",.;:!?…", "..."}
_SHORTENED = words_of("an o th t wi mo ol ou tha ha fo gi roun mos mus jus jes las")
_ENDED = re.compile(r"[\w-]{2,}in|\w+[ds]n|.*s")  # goin', didn', boys'
_BEGUN = words_of("em ee t tis twas twere twill twould taint tai bout neath mongst fraid shamed")
_NEVER = (DETERMINERS | PREPOSITIONS | PRONOUNS) - _SHORTENED
_NEVER |= words_of("is was has does says as thus yes be say said again")
"""Words that end in no apostrophe, though some end in s."""

# What is against a reading. A sentence is read so that the sum is least; only the order matters.
_CASE = 0.25  # a quotation begins with a small letter, or is followed by a capital
_POSSESSIVE = 0.5  # one opens after a word that an apostrophe may end
_KNOWN = 0.5  # an apostrophe before "em"
_BETWEEN = 1.0  # one opens after a word, or closes before one without a pause
_PARTNERLESS = 1.5  # its other end is in another sentence
_RARE, _RARER = 2.5, 3.0  # an apostrophe at a word that has none; that never has one
_OUT = 9.0  # nothing to open, or to close


def opening(forms: Sequence[str]) -> frozenset[int]:
    """Places of the single quotes that belong to the word after them.

    Each either opens a quotation, closes one, or is the apostrophe of the word before ("James '
    hat", "goin ' home") or of the word after ("want ' ee"). Quotations open and close by turns;
    one may have begun in the sentence before, or go on in the next. Of apostrophes inside a word
    that was taken apart ("gr ' t") no reading is right.
    """
    # by whether a quotation is open: what is against the best reading so far, what opens in it
    best: dict[bool, _Read] = {False: (0.0, frozenset()), True: (_PARTNERLESS, frozenset())}
    for i in (i for i, form in enumerate(forms) if form == QUOTE):
        before = forms[i - 1] if i else ""
        after = forms[i + 1] if i + 1 < len(forms) else ""
        found: dict[bool, _Read] = {}
        for open, (sum, places) in best.items():
            for then, right, against in _readings(before, after, open):
                read = (sum + against, places | {i} if right else places)
                found[then] = min(found.get(then, read), read, key=_against)
        best = found
    ends = [(sum + _PARTNERLESS * open, places) for open, (sum, places) in best.items()]
    return min(ends, key=_against)[1]


def _against(read: _Read) -> float:
    return read[0]


def _readings(before: str, after: str, open: bool) -> Iterator[tuple[bool, bool, float]]:
    """Whether a quotation is open then, whether the word after has the mark, what is against it."""
    follows, precedes = before[-1:].isalnum(), after[:1].isalnum()
    between = _BETWEEN if precedes and before not in _PAUSES else 0.0
    capital = after[:1].isupper() and after != "I"
    low = before.lower()
    ends = (_ENDED.fullmatch(low) or low in _SHORTENED) and low not in _NEVER
    if follows:
        never = low in _NEVER or not before[-1].isalpha()
        yield open, False, 0.0 if ends else _RARER if never else _RARE
    if precedes:
        yield open, True, _KNOWN if after.lower() in _BEGUN else _RARE
    if open:
        yield False, False, between + _CASE * capital + _OUT * (not before or before in _OPENING)
    else:
        possessive = _POSSESSIVE if follows and ends else 0.0
        lower = _CASE * (not capital)
        none = _OUT if not after or after in _CLOSING else _BETWEEN * (not precedes)
        yield True, True, (_BETWEEN if follows else 0.0) + possessive + lower + none
