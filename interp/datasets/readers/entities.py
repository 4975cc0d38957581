"""Mentions as `Entity=` of CoNLL-U writes them: `(e1-person-2-` ... `e1)`, as in CorefUD and GUM.

A mention whose words are not side by side is written in parts, `(e1[1/2]` ... `e1[1/2])` and
`(e1[2/2]` ... `e1[2/2])`. (Nedoluzhko et al. 2022, sec. 4)
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

from interp.datasets.corpus import Mention, Sentence, Span
from interp.datasets.readers.brackets import Bracket, match

Discontinuous = Literal["skip", "refuse"]

_IDS = ("GRP", "eid")  # what GUM and CorefUD call the chain; it comes first
_HEADS = ("minspan", "head")  # places in the mention, from 1
_KINDS = {"PRON": "pronoun", "PROPN": "proper"}
_PART = re.compile(r"(.+)\[(\d+)/(\d+)\]")


def mentions_of(
    tags: Sequence[str],
    words: Sequence[int | None],
    *,
    fields: str,
    sentence: Sentence,
    index: int,
    discontinuous: Discontinuous,
) -> tuple[list[Mention], int]:
    """The mentions of a sentence, and how many discontinuous ones were left out.

    Args:
        tags: what `Entity=` says at each word and empty node; empty where nothing.
        words: the word that each of these is; None for an empty node.
        fields: the value of `# global.Entity`; empty if there was none.
        index: of the sentence in the document.

    Raises:
        ValueError: `(place, expected, found)`.
    """
    if not any(tags):
        return [], 0
    names = fields.split("-")
    if names[0] not in _IDS:
        place, tag = next((i, tag) for i, tag in enumerate(tags) if tag)
        expected = "a comment `# global.Entity = GRP-...` or `eid-...` that names the fields"
        raise ValueError(place, expected, f"{fields or None!r} before Entity={tag}")
    try:
        brackets = match(tags)
    except ValueError as error:
        place, expected, found = error.args
        raise ValueError(place, f"in Entity= {expected}", found) from None
    whole = [bracket for bracket in brackets if "[" not in bracket.id]
    left_out = _discontinuous([b for b in brackets if "[" in b.id], discontinuous)
    made = (_mention(bracket, words, names[1:], sentence, index) for bracket in whole)
    return [mention for mention in made if mention is not None], left_out


def _discontinuous(parts: Sequence[Bracket], discontinuous: Discontinuous) -> int:
    """How many mentions these are parts of."""
    known: defaultdict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    for part in parts:
        found = _PART.fullmatch(part.id)
        if found is None:
            expected = "an id, or a part of a mention such as e1[1/2]"
            raise ValueError(part.span[0], expected, repr(part.id))
        if discontinuous == "refuse":
            found = f"a part of one, {part.id!r}; discontinuous='skip' leaves such mentions out"
            raise ValueError(part.span[0], "mentions of words side by side", found)
        known[found[1], int(found[3])][int(found[2])] += 1
    for (id, of), counts in known.items():
        if len({counts[k] for k in range(1, of + 1)}) != 1 or max(counts) > of:
            place = next(p.span[0] for p in parts if p.id.startswith(f"{id}["))
            found = ", ".join(p.id for p in parts if p.id.startswith(f"{id}["))
            raise ValueError(place, f"each of the {of} parts of {id} in the sentence", found)
    return sum(counts[1] for counts in known.values())


def _mention(
    bracket: Bracket,
    words: Sequence[int | None],
    names: Sequence[str],
    sentence: Sentence,
    index: int,
) -> Mention | None:
    """None of one that has no word.

    Args:
        names: of the fields after the id.
    """
    members = words[slice(*bracket.span)]
    inside = [word for word in members if word is not None]
    if not inside:
        return None
    facts = dict(zip(names, bracket.facts.split("-", max(0, len(names) - 1)), strict=False))
    places = next((facts[n].split(",") for n in _HEADS if facts.get(n)), [])
    if wrong := [p for p in places if not (p.isdecimal() and 0 < int(p) <= len(members))]:
        expected = f"heads from 1 to {len(members)} in the mention"
        raise ValueError(bracket.span[0], expected, ",".join(wrong))
    span = (inside[0], inside[-1] + 1)
    heads = [members[int(place) - 1] for place in places]
    top = _top(sentence, span)
    head = heads[0] if heads and top not in heads else top
    upos = None if head is None else sentence.words[head].upos
    kind = None if upos is None else _KINDS.get(upos, "nominal")
    return Mention(index, span, bracket.id, head, kind)


def _top(sentence: Sentence, span: Span) -> int | None:
    """The first word of a span whose syntactic head is outside it."""
    for i in range(*span):
        head = sentence.words[i].head
        if head is not None and not span[0] <= head < span[1]:
            return i
    return None
