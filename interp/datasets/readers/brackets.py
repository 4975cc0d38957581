"""Spans written as brackets at their first and last word: `(12` ... `12)`, or `(12)` on one word.

CoNLL-2012 columns join several with `|`; `Entity=` of CoNLL-U writes them one after another, the
opening with more facts: `(12-person-new-cf1-2-coref`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from interp.datasets.corpus import Span

_ITEM = re.compile(r"\|?(\()?([^()|]+)(\))?")


@dataclass(frozen=True)
class Bracket:
    """A span of places, [start, end), and what its opening says after the id."""

    id: str
    facts: str
    span: Span


def match(tags: Sequence[str]) -> list[Bracket]:
    """The spans that the tags of consecutive places write, in the order of the text.

    Spans of one id may nest; those of different ids may also cross.

    Args:
        tags: one a place; empty or `_` where nothing opens or closes.

    Raises:
        ValueError: `(place, expected, found)` of what is not a bracket or has no partner.
    """
    found: list[Bracket] = []
    open: dict[str, list[tuple[int, str]]] = {}
    for place, tag in enumerate(tags):
        if tag in ("", "_"):
            continue
        end = 0
        while end < len(tag):
            item = _ITEM.match(tag, end)
            if item is None or not (item[1] or item[3]):
                raise ValueError(place, "brackets such as (12, 12) or (12)", repr(tag))
            end = item.end()
            id, _, facts = item[2].partition("-")
            if item[1]:
                open.setdefault(id, []).append((place, facts))
            if item[3]:
                if not open.get(id):
                    raise ValueError(place, f"an opening ({id} before this", f"none: {tag!r}")
                start, facts = open[id].pop()
                found.append(Bracket(id, facts, (start, place + 1)))
    for id, left in open.items():
        if left:
            raise ValueError(left[-1][0], f"a closing {id}) in this sentence", "none")
    return sorted(found, key=lambda b: (b.span[0], -b.span[1]))
