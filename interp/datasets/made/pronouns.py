"""Who is "he"? Sentences that differ in one word, which decides what the pronoun refers to.

Three kinds. Gender: "The king called the queen when *he* / *she* needed help." Number: "The kings
called the queen when *they* / *she* needed help." Causality: "I heard that Mary *frightened* /
*feared* Anna because she was so loud": after some verbs "because" speaks of the subject, after
others of the object (implicit causality: Garvey & Caramazza 1974).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import numpy as np

from interp.core.door.door import door
from interp.datasets.corpus import Corpus, Document, Mention
from interp.datasets.made.templates import Split, collected, fill, lists, splits
from interp.datasets.words.naming import Gender

NAME = "pronouns"
Kind = Literal["gender", "number", "causality"]
Form = Literal[Gender, "plural"]
Slot = Literal["X", "Y"]
SLOTS: tuple[Slot, Slot] = ("X", "Y")
GENDERS: tuple[tuple[Form, Form], ...] = (("feminine", "masculine"), ("masculine", "feminine"))
PRONOUN: Mapping[Form, str] = {"masculine": "he", "feminine": "she", "plural": "they"}


@dataclass(frozen=True)
class Scene:
    """Two that may be meant, and which of them is.

    Attributes:
        kind: what decides.
        cluster: the couple of nouns or verbs.
        split: of the cluster; its names are of the same split.
        x, y: the words of the first and the second.
        forms: the pronoun's form for each of the two, by slot ("X", "Y").
        antecedent: the slot of the one that is meant.
        verbs: of causality: subject-biased and object-biased.
        tone: of causality: which reasons suit the verbs.
    """

    kind: Kind
    cluster: str
    split: Split
    x: str
    y: str
    forms: Mapping[str, Form]
    antecedent: Slot
    verbs: tuple[str, str] = ("", "")
    tone: str = ""

    @property
    def competitor(self) -> Slot:
        return "Y" if self.antecedent == "X" else "X"

    def pronoun(self, slot: str) -> str:
        """The pronoun for one of the two."""
        return PRONOUN[self.forms[slot]]

    def slots(self, antecedent: str, *, said: str) -> dict[str, str]:
        """The words of the scene if that slot were meant.

        Args:
            said: the slot whose pronoun is used.
        """
        words = {"X": self.x, "Y": self.y}
        verb = self.verbs[0 if antecedent == "X" else 1]
        return words | {"S": words[antecedent], "V": verb, "P": self.pronoun(said)}


@door
def pronouns(
    *, kind: Kind | Literal["all"] = "all", split: Split | Literal["all"] = "all"
) -> Corpus:
    """Sentences with a pronoun, its antecedent and a competitor.

    Each document is one sentence; the documents of a couple ("king/queen", "frightened/feared")
    have its name as their id, so that the couple is what is resampled. No couple, and no name of a
    person, is in two splits.

    Args:
        kind: what decides whom the pronoun means.
        split: `"train"` (60 % of the couples), `"dev"`, `"test"` (20 % each), or `"all"`.

    Returns:
        Documents with three mentions: chain "antecedent" (twice: its noun or name, kind "nominal"
        or "proper", and the pronoun) and chain "competitor". Facts: `kind`, `couple`, `template`,
        `antecedent` ("first", "second": of the two mentions), `form` (of the pronoun: "masculine",
        "feminine", "plural"), `target` (index of the pronoun), `split`.
    """
    documents = [d for d in _documents() if kind in ("all", d.facts["kind"])]
    return collected(NAME, documents, split=split, layers=frozenset({"mentions"}))


def scenes(kind: Kind) -> Iterator[Scene]:
    """Every couple of nouns in both orders with either one meant."""
    couples = lists(NAME, "words")["couples"]
    of = splits(NAME, tuple(f"{man}/{woman}" for man, woman, _, _ in couples))
    for man, woman, men, women in couples:
        cluster = f"{man}/{woman}"
        chosen: list[tuple[tuple[Form, str], tuple[Form, str]]] = [
            (("masculine", man), ("feminine", woman))
        ]
        if kind == "number":
            chosen = [
                (("plural", men), ("feminine", woman)),
                (("plural", women), ("masculine", man)),
            ]
        for (one, x), (two, y) in [pair for a, b in chosen for pair in ((a, b), (b, a))]:
            for antecedent in SLOTS:
                yield Scene(kind, cluster, of[cluster], x, y, {"X": one, "Y": two}, antecedent)


def quarrels(
    rng: np.random.Generator, *, same: bool, known: frozenset[str] | None = None
) -> Iterator[Scene]:
    """Every couple of verbs with either verb, between two people drawn by `rng`.

    Args:
        same: both of one gender, so that the pronoun does not say who; else of two.
        known: the names to draw from, all by default; couples without two of a gender are
            left out.
    """
    couples = lists(NAME, "words")["verbs"]
    of = splits(f"{NAME} verbs", tuple(f"{one}/{two}" for one, two, _ in couples))
    names: Mapping[Form, list[str]] = lists("ioi", "words")["names"]
    home = {gender: splits(f"{NAME} names", tuple(names[gender])) for gender in names}
    for one, two, tone in couples:
        cluster = f"{one}/{two}"
        pools = {
            gender: [n for n in names[gender] if home[gender][n] == of[cluster]] for gender in names
        }
        if known is not None:
            pools = {gender: [n for n in pool if n in known] for gender, pool in pools.items()}
        if min(map(len, pools.values())) < 2:
            continue
        for first, other in GENDERS:
            second = first if same else other
            x = str(rng.choice(pools[first]))
            y = str(rng.choice([name for name in pools[second] if name != x]))
            forms: Mapping[str, Form] = {"X": first, "Y": second}
            for antecedent in SLOTS:
                yield Scene(
                    *("causality", cluster, of[cluster], x, y, forms, antecedent),
                    verbs=(one, two),
                    tone=tone,
                )


@cache
def _documents() -> tuple[Document, ...]:
    return tuple(_documents_of_couples()) + tuple(_documents_of_verbs())


def _documents_of_couples() -> Iterator[Document]:
    for kind in ("gender", "number"):
        for name, (text, _) in lists(NAME, "templates")["who"].items():
            for scene in scenes(kind):
                yield _document(scene, name, text)


def _documents_of_verbs() -> Iterator[Document]:
    rng = np.random.default_rng([*NAME.encode()])
    templates = lists(NAME, "templates")
    frames = templates["because"].items()
    reasons = {tone: list(kinds.items()) for tone, kinds in templates["reasons"].items()}
    for i, (name, frame) in product(range(4), frames):
        for scene in quarrels(rng, same=True):
            reason, (text, _) = reasons[scene.tone][i]
            yield _document(scene, f"{name}-{reason}", f"{frame} {{P}} {text}.")


def _document(scene: Scene, template: str, text: str) -> Document:
    words = scene.slots(scene.antecedent, said=scene.antecedent)
    form = scene.forms[scene.antecedent]
    id = "-".join([scene.kind, template, scene.x, scene.y, words["V"], words["P"]])
    filled = fill(text, words, id=id.replace("--", "-"))
    article = 0 if scene.kind == "causality" else 1  # "the king", but "Mary"
    kind = "nominal" if article else "proper"
    mentions = []
    for slot in SLOTS:
        head, end = filled.at[slot]
        chain = "antecedent" if slot == scene.antecedent else "competitor"
        mentions.append(Mention(0, (head - article, end), chain, head, kind))
    target = filled.at["P"][0]
    mentions.append(Mention(0, (target, target + 1), "antecedent", target, "pronoun"))
    facts = {"kind": scene.kind, "couple": scene.cluster, "template": template}
    facts |= {"antecedent": "first" if scene.antecedent == "X" else "second", "form": form}
    facts |= {"target": str(target), "split": scene.split}
    return Document(scene.cluster, (filled.sentence,), tuple(mentions), facts)
