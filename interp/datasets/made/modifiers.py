"""Adjectives and the nouns that they modify, where a fixed offset fails.

"The green and very old *chair*", "a *chair* far too green for the table": no, one, two or three
words stand between the adjective and its noun, which comes after it or before it, and another noun
or adjective stands nearer or as near.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np

from interp.core.door.door import door
from interp.datasets.corpus import Corpus, Document, Layer
from interp.datasets.made.templates import Split, collected, fill, lists, splits

NAME = "modifiers"
DEGREES = ("size", "state", "worth")
"""Kinds of adjectives of which there is more and less ("far too old", not "far too green")."""


@door
def modifiers(*, split: Split | Literal["all"] = "all") -> Corpus:
    """Sentences with an adjective whose noun is known, and others beside it.

    Each document is one sentence; the documents of a noun have its name as their id, so that the
    noun is what is resampled. No noun or adjective is in two splits.

    Args:
        split: `"train"` (60 % of the nouns and adjectives), `"dev"`, `"test"` (20 % each), `"all"`.

    Returns:
        Sentences in which every word has a tag (`upos`); adjectives and nouns that modify have
        their head and relation ("amod", "conj", "compound"), other words None. Facts: `noun`,
        `adjective`, `distance` (words between the two, "0" to "3"; commas are not counted),
        `side` ("before", "after": where the adjective stands), `template`, `target` (index of the
        adjective), `split`.
    """
    layers: frozenset[Layer] = frozenset({"upos", "head", "relation"})
    return collected(NAME, _documents(), split=split, layers=layers)


@cache
def _documents() -> tuple[Document, ...]:
    words = lists(NAME, "words")
    rng = np.random.default_rng([*NAME.encode()])
    nouns = words["nouns"]
    home = splits(f"{NAME} nouns", tuple(nouns)) | splits(f"{NAME} places", tuple(words["places"]))
    for kind, adjectives in words["adjectives"].items():
        home = home | splits(f"{NAME} {kind}", tuple(adjectives))

    def draw(pool: list[str], split: Split, *used: str) -> str:
        return str(rng.choice([w for w in pool if home[w] == split and w not in used]))

    def slots(noun: str, text: str) -> dict[str, str]:
        """Words for every slot, all of the noun's split; adjectives of one noun differ in kind."""
        of, adjectives = home[noun], words["adjectives"]
        with_degree = text.index("{A}") > text.index("{N}") or "{C}" in text
        first = str(rng.choice([*DEGREES] if with_degree else [*adjectives]))
        second = str(rng.choice([kind for kind in DEGREES if kind != first]))
        a, b = draw(adjectives[first], of), draw(adjectives[second], of)
        c = draw(adjectives["colour"], of)
        everything = [adjective for kind in adjectives.values() for adjective in kind]
        return {
            "N": noun,
            "N2": draw(nouns, of, noun),
            "P": draw(words["places"], of),
            "A": a,
            "B": b,
            "C": c,
            "A2": draw(everything, of, a, b, c),
        }

    return tuple(
        _document(name, template, slots(noun, template["text"]), home[noun])
        for name, template in lists(NAME, "templates").items()
        for noun in nouns
    )


def _document(
    name: str, template: Mapping[str, Any], slots: dict[str, str], split: Split
) -> Document:
    side, distance, _ = name.split("-")
    filled = fill(template["text"], slots, id=f"{slots['N']}-{name}")
    at = {slot: first for slot, (first, _) in filled.at.items()}
    words = list(filled.sentence.words)
    for slot, (head, relation) in template["heads"].items():
        words[at[slot]] = replace(words[at[slot]], head=at[head], relation=relation)
    facts = {"noun": slots["N"], "adjective": slots["A"], "distance": distance, "side": side}
    facts |= {"template": name, "target": str(at["A"]), "split": split}
    return Document(slots["N"], (replace(filled.sentence, words=tuple(words)),), facts=facts)
