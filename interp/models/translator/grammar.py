"""A small grammar of two languages: English, and Spanish words in an order of their own.

    finally the old king saw the red houses
    el rey viejo las casas rojas por fin vio

Every clause says who did what, perhaps towards what, perhaps how.

What must be done to translate, beside looking words up:

| | English | the other |
| --- | --- | --- |
| a verb that moves | after the subject | at the end |
| adjectives | before the noun | after it, the nearest still the nearest: mirrored |
| an adverb | one word, first or last | two words, before the verb |
| gender, number | the noun's number alone | on determiners, adjectives and (number) the verb |

In "finally the old king saw the red houses" nothing tells of what gender or number "the", "old",
"saw" and "red" are: it must be brought from the nouns. All verbs are in the past, where English
verbs have no number.

A clause is a tree of frozen parts (`Clause`, `Phrase`): exchange one with `dataclasses.replace` for
a twin that differs in it alone. `translation` gives both sides and which word translates which.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple
from zlib import crc32

import numpy as np

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import CorpusError, nearest

Gender = Literal["m", "f"]
Split = Literal["train", "test"]
Part = Literal["subject", "object", "oblique"]
PARTS: tuple[Part, ...] = ("subject", "object", "oblique")


class Noun(NamedTuple):
    """Of one gender in the other language; English adds an s for the plural."""

    english: str
    one: str
    many: str
    gender: Gender


MASCULINE = {
    "dog": "perro",
    "cat": "gato",
    "boy": "niño",
    "king": "rey",
    "book": "libro",
    "garden": "jardín",
    "train": "tren",
    "road": "camino",
    "bird": "pájaro",
    "tree": "árbol",
    "hat": "sombrero",
    "shoe": "zapato",
}
FEMININE = {
    "house": "casa",
    "girl": "niña",
    "queen": "reina",
    "table": "mesa",
    "window": "ventana",
    "door": "puerta",
    "cow": "vaca",
    "flower": "flor",
    "star": "estrella",
    "mountain": "montaña",
    "letter": "carta",
    "bed": "cama",
}
IRREGULAR = {
    "rey": "reyes",
    "jardín": "jardines",
    "tren": "trenes",
    "árbol": "árboles",
    "flor": "flores",
}


def _nouns(words: Mapping[str, str], gender: Gender) -> dict[str, Noun]:
    return {e: Noun(e, one, IRREGULAR.get(one, f"{one}s"), gender) for e, one in words.items()}


NOUNS: Mapping[str, Noun] = _nouns(MASCULINE, "m") | _nouns(FEMININE, "f")
ADJECTIVES: Mapping[str, str] = {
    "red": "roj",
    "old": "viej",
    "new": "nuev",
    "small": "pequeñ",
    "white": "blanc",
    "black": "negr",
    "yellow": "amarill",
    "cold": "frí",
    "rich": "ric",
    "dry": "sec",
    "strange": "extrañ",
    "beautiful": "hermos",
}
"""To which -o, -a, -os or -as is added."""
DETERMINERS: Mapping[tuple[str, str], tuple[str, str, str, str]] = {
    ("the", "the"): ("el", "la", "los", "las"),
    ("a", "some"): ("un", "una", "unos", "unas"),
    ("this", "these"): ("este", "esta", "estos", "estas"),
    ("that", "those"): ("aquel", "aquella", "aquellos", "aquellas"),
}
"""English singular and plural to masculine and feminine, singular and then plural."""
VERBS: Mapping[str, tuple[str, str]] = {
    "saw": ("vio", "vieron"),
    "bought": ("compró", "compraron"),
    "lost": ("perdió", "perdieron"),
    "found": ("halló", "hallaron"),
    "sold": ("vendió", "vendieron"),
    "painted": ("pintó", "pintaron"),
    "sought": ("buscó", "buscaron"),
    "carried": ("llevó", "llevaron"),
    "forgot": ("olvidó", "olvidaron"),
    "loved": ("amó", "amaron"),
}
ADVERBS: Mapping[str, tuple[str, str]] = {
    "often": ("muchas", "veces"),
    "again": ("de", "nuevo"),
    "finally": ("por", "fin"),
    "surely": ("sin", "duda"),
    "vainly": ("en", "vano"),
    "gladly": ("con", "gusto"),
}
PREPOSITIONS: Mapping[str, str] = {
    "under": "bajo",
    "for": "para",
    "against": "contra",
    "towards": "hacia",
    "before": "ante",
}
THE = ("the", "the")


@dataclass(frozen=True)
class Phrase:
    """A noun with its determiner and adjectives, in English order."""

    noun: str
    plural: bool = False
    determiner: tuple[str, str] = THE
    adjectives: tuple[str, ...] = ()

    def __post_init__(self) -> None:  # no door: they are made by the ten thousand
        _require("noun", self.noun, NOUNS)
        _require("determiner", self.determiner, DETERMINERS)
        for adjective in self.adjectives:
            _require("adjective", adjective, ADJECTIVES)
        if len(set(self.adjectives)) < len(self.adjectives):
            raise CorpusError(
                f"the adjectives of {self.noun!r} are {', '.join(self.adjectives)}: one twice, so "
                "that it could not be told which translates which. Give each once."
            )

    @property
    def agreement(self) -> int:
        """0 to 3: masculine, feminine; masculine, feminine plural."""
        return 2 * self.plural + (NOUNS[self.noun].gender == "f")


@dataclass(frozen=True)
class Clause:
    """Who did what; perhaps towards what, perhaps how.

    Attributes:
        first: the adverb stands first in English, not last.
    """

    subject: Phrase
    verb: str
    object: Phrase
    oblique: tuple[str, Phrase] | None = None
    adverb: str | None = None
    first: bool = False

    def __post_init__(self) -> None:
        _require("verb", self.verb, VERBS)
        if self.adverb is not None:
            _require("adverb", self.adverb, ADVERBS)
        if self.oblique is not None:
            _require("preposition", self.oblique[0], PREPOSITIONS)
        if self.first and self.adverb is None:
            raise CorpusError("first=True is of an adverb, and the clause has none; leave it out.")


def _require(what: str, word: object, known: Collection[object]) -> None:
    """Refuse what the languages have no word for."""
    if not isinstance(word, Hashable) or word not in known:
        texts = [str(one) for one in known]
        raise CorpusError(f"the grammar has no {what} {word!r}; {nearest(str(word), texts)}")


class Placed(NamedTuple):
    """A word and what it is: "subject noun", "object adjective 0", "verb"."""

    word: str
    role: str


@dataclass(frozen=True)
class Translation:
    """Both sides of a clause.

    Attributes:
        source, target: words.
        roles, target_roles: what each is ("subject noun", "object adjective 1", "verb", "adverb").
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    roles: tuple[str, ...]
    target_roles: tuple[str, ...]

    @property
    def aligned(self) -> tuple[int, ...]:
        """Of each target word, the index of the source word that it translates."""
        return tuple(self.roles.index(role) for role in self.target_roles)

    @property
    def english(self) -> str:
        return " ".join(self.source)

    @property
    def other(self) -> str:
        return " ".join(self.target)


def translation(clause: Clause) -> Translation:
    """A clause in both languages."""
    source, target = _english(clause), _other(clause)
    words, roles = zip(*source, strict=True)
    others, target_roles = zip(*target, strict=True)
    return Translation(words, others, roles, target_roles)


def _english(clause: Clause) -> list[Placed]:
    how = [] if clause.adverb is None else [Placed(clause.adverb, "adverb")]
    found = how if clause.first else []
    found = [*found, *_english_phrase(clause.subject, "subject"), Placed(clause.verb, "verb")]
    found += _english_phrase(clause.object, "object")
    if clause.oblique is not None:
        preposition, phrase = clause.oblique
        found += [Placed(preposition, "preposition"), *_english_phrase(phrase, "oblique")]
    return found if clause.first else [*found, *how]


def _english_phrase(phrase: Phrase, part: Part) -> Iterator[Placed]:
    yield Placed(phrase.determiner[phrase.plural], f"{part} determiner")
    for i, adjective in enumerate(phrase.adjectives):
        yield Placed(adjective, f"{part} adjective {i}")
    yield Placed(phrase.noun + "s" * phrase.plural, f"{part} noun")


def _other(clause: Clause) -> list[Placed]:
    found = [*_other_phrase(clause.subject, "subject"), *_other_phrase(clause.object, "object")]
    if clause.oblique is not None:
        preposition, phrase = clause.oblique
        found.append(Placed(PREPOSITIONS[preposition], "preposition"))
        found += _other_phrase(phrase, "oblique")
    if clause.adverb is not None:
        found += [Placed(word, "adverb") for word in ADVERBS[clause.adverb]]
    return [*found, Placed(VERBS[clause.verb][clause.subject.plural], "verb")]


def _other_phrase(phrase: Phrase, part: Part) -> Iterator[Placed]:
    noun, form = NOUNS[phrase.noun], phrase.agreement
    yield Placed(DETERMINERS[phrase.determiner][form], f"{part} determiner")
    yield Placed(noun.many if phrase.plural else noun.one, f"{part} noun")
    for i, adjective in reversed(list(enumerate(phrase.adjectives))):
        yield Placed(
            f"{ADJECTIVES[adjective]}{('o', 'a', 'os', 'as')[form]}", f"{part} adjective {i}"
        )


@door
def clauses(n: Count, *, split: Split, seed: Seed = 0) -> list[Clause]:
    """Different clauses, drawn at random.

    A fifth of all English sentences are in the test split and the others in "train", by a checksum
    of their text: whatever is drawn, no sentence is in both.
    """
    rng = np.random.default_rng([*b"clauses", seed])
    found: dict[Clause, None] = {}
    while len(found) < n:
        clause = _drawn(rng)
        if split_of(clause) == split:
            found[clause] = None
    return list(found)


def split_of(clause: Clause) -> Split:
    """Where a clause belongs."""
    return "test" if crc32(translation(clause).english.encode()) % 5 == 0 else "train"


def _drawn(rng: np.random.Generator) -> Clause:
    def one(words: Iterable[str]) -> str:
        listed = [*words]
        return listed[rng.integers(len(listed))]

    names = [*NOUNS]
    one_for_each = [_phrase(rng, names[i]) for i in rng.permutation(len(names))[:3]]
    where = one(PREPOSITIONS) if rng.random() < 0.4 else None
    adverb = one(ADVERBS) if rng.random() < 0.5 else None
    return Clause(
        subject=one_for_each[0],
        verb=one(VERBS),
        object=one_for_each[1],
        oblique=None if where is None else (where, one_for_each[2]),
        adverb=adverb,
        first=adverb is not None and bool(rng.random() < 0.5),
    )


def _phrase(rng: np.random.Generator, noun: str) -> Phrase:
    kinds, words = [*DETERMINERS], [*ADJECTIVES]
    determiner = THE if rng.random() < 0.4 else kinds[rng.integers(len(kinds))]
    count = (0, 0, 1, 1, 2)[rng.integers(5)]
    adjectives = tuple(words[i] for i in rng.permutation(len(words))[:count])
    return Phrase(noun, bool(rng.random() < 0.5), determiner, adjectives)


SPECIAL = ("<pad>", "</s>", "<unk>")


def vocabulary() -> tuple[str, ...]:
    """Every word of both languages, after the special ones."""
    nouns = [w for n in NOUNS.values() for w in (n.english, f"{n.english}s", n.one, n.many)]
    adjectives = [f"{stem}{end}" for stem in ADJECTIVES.values() for end in ("o", "a", "os", "as")]
    determiners = [w for en, es in DETERMINERS.items() for w in (*en, *es)]
    verbs = [w for en, es in VERBS.items() for w in (en, *es)]
    adverbs = [w for en, es in ADVERBS.items() for w in (en, *es)]
    prepositions = [w for pair in PREPOSITIONS.items() for w in pair]
    words = [*nouns, *ADJECTIVES, *adjectives, *determiners, *verbs, *adverbs, *prepositions]
    return (*SPECIAL, *dict.fromkeys(words))
