"""How much is run, and clauses beside twins that differ in one thing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

import interp
from interp.core.prompts.pairs import Pairs
from interp.models.toy import Translator, translator
from interp.models.translator.grammar import (
    ADJECTIVES,
    ADVERBS,
    NOUNS,
    PREPOSITIONS,
    THE,
    VERBS,
    Clause,
    Phrase,
    clauses,
    translation,
    vocabulary,
)
from interp.models.translator.tokens import END

Property = Literal["gender", "number"]
IDS: Mapping[str, int] = {word: i for i, word in enumerate(vocabulary())}


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        steps, sentences: of each training.
        aligned: sentences whose alignment is looked at.
        used: pairs in which one word is exchanged.
        twins: pairs in which one noun has another gender or number.
        probed: sentences to train probes on, to choose their strength, to test them.
        translated: sentences that each model translates.
    """

    steps: int
    sentences: int
    aligned: int
    used: int
    twins: int
    probed: tuple[int, int, int]
    translated: int


SIZES = {
    "smoke": Size(20, 200, 16, 20, 24, (120, 40, 60), 20),
    "default": Size(1200, 20_000, 300, 240, 240, (2000, 500, 1000), 500),
    "full": Size(3000, 60_000, 2000, 2000, 2000, (8000, 2000, 4000), 4000),
}


def trained(
    size: Size, seed: int, *, layers: int, positions: Literal["sinusoidal", "none"] = "sinusoidal"
) -> Translator:
    """A translator, trained or found in the cache."""
    amount = {"steps": size.steps, "sentences": size.sentences}
    return translator(layers=layers, positions=positions, seed=seed, **amount)


@dataclass(frozen=True)
class Twin:
    """A clause and another, and the word of the translation that is asked for.

    Attributes:
        role: of the target word that is asked for; the first of that role.
        cluster: what is resampled.
        kind: what it is about, for tables.
    """

    clean: Clause
    corrupt: Clause
    role: str
    cluster: str
    kind: str


Written = Literal["clean", "corrupt"]


def pairs_of(
    twins: Sequence[Twin],
    positions: Callable[[Sequence[str]], Mapping[str, int]],
    *,
    source: tuple[Written, Written] = ("clean", "corrupt"),
    written: tuple[Written, Written] = ("clean", "clean"),
) -> Pairs:
    """The clean clause, translated up to the word that is asked for, beside its twin.

    Args:
        positions: by name, of the roles of a source.
        source, written: which of the twins stands on the clean and on the corrupt side, of what
            the encoder reads and of what the decoder has written.
    """
    rows = [{side: translation(getattr(t, side)) for side in ("clean", "corrupt")} for t in twins]
    at = [
        found["clean"].target_roles.index(twin.role)
        for found, twin in zip(rows, twins, strict=True)
    ]
    read = {
        side: [[*(IDS[w] for w in found[of].source), END] for found in rows]
        for side, of in zip(("clean", "corrupt"), source, strict=True)
    }
    said = [
        [[IDS[w] for w in found[of].target[:end]] for found, end in zip(rows, at, strict=True)]
        for of in written
    ]
    named = [positions(found["clean"].roles) for found in rows]
    return Pairs.from_tokens(
        **read,
        target=said[0],
        corrupt_target=said[1],
        correct=[IDS[f["clean"].target[i]] for f, i in zip(rows, at, strict=True)],
        wrong=[IDS[f["corrupt"].target[i]] for f, i in zip(rows, at, strict=True)],
        positions={name: [places[name] for places in named] for name in named[0]},
        cluster=[twin.cluster for twin in twins],
        strings=[
            tuple((*found[of].source, "</s>") for of in source)  # pyright: ignore[reportArgumentType]
            for found in rows
        ],
        bos="none",
    )


def nouns_of(wanted: Property, n: int, seed: int) -> list[Twin]:
    """The clean clause's subject beside one of the other gender, or in the other number.

    The subject is "the {adjective} {noun}"; every noun comes equally often, to within one, and is
    the cluster. Other words differ from pair to pair; English tells the property by nothing else.
    """
    rng = np.random.default_rng([*wanted.encode(), seed])
    names, adjectives = [*NOUNS], [*ADJECTIVES]
    found = []
    for i, drawn in enumerate(clauses(n, split="test", seed=seed)):
        noun = names[i % len(names)]
        adjective = adjectives[rng.integers(len(adjectives))]
        subject = Phrase(noun, bool(rng.integers(2)), THE, (adjective,))
        clean = replace(drawn, subject=subject, object=_another(drawn.object, noun))
        other = replace(subject, plural=not subject.plural)
        if wanted == "gender":
            opposite = [n for n in names if NOUNS[n].gender != NOUNS[noun].gender]
            opposite = [n for n in opposite if n != clean.object.noun]
            other = replace(subject, noun=opposite[rng.integers(len(opposite))])
        found.append(Twin(clean, replace(clean, subject=other), "", noun, wanted))
    return found


def _another(phrase: Phrase, noun: str) -> Phrase:
    """The phrase, of another noun if need be."""
    if phrase.noun != noun:
        return phrase
    names = [*NOUNS]
    return replace(phrase, noun=names[names.index(noun) - 1])


EXCHANGED: Mapping[str, Sequence[str]] = {
    "verb": [*VERBS],
    "adverb": [*ADVERBS],
    "preposition": [*PREPOSITIONS],
    "adjective": [*ADJECTIVES],
    "noun": [*NOUNS],
}


def exchanged(n: int, seed: int) -> list[Twin]:
    """One word exchanged for another of its kind, so that one word of the translation changes.

    (Both words of an adverb's; the first is asked for.) Nouns keep gender and number. The kinds
    take turns; the sentence is the cluster.
    """
    rng = np.random.default_rng([*b"exchanged", seed])
    found: list[Twin] = []
    for clause in clauses(20 * n, split="test", seed=seed):
        kind = [*EXCHANGED][len(found) % len(EXCHANGED)]
        twin = _exchanged(clause, kind, rng)
        if twin is not None:
            found.append(replace(twin, cluster=f"{kind}, {len(found):05}"))
        if len(found) == n:
            break
    return found


def _exchanged(clause: Clause, kind: str, rng: np.random.Generator) -> Twin | None:
    """None where the clause has no such word."""

    def other(word: str, words: Sequence[str]) -> str:
        rest = [w for w in words if w != word]
        return rest[rng.integers(len(rest))]

    words, phrase = EXCHANGED[kind], clause.object
    if kind == "verb":
        return Twin(clause, replace(clause, verb=other(clause.verb, words)), kind, "", kind)
    if kind == "adverb":
        if clause.adverb is None:
            return None
        return Twin(clause, replace(clause, adverb=other(clause.adverb, words)), kind, "", kind)
    if kind == "preposition":
        if clause.oblique is None:
            return None
        where = other(clause.oblique[0], words)
        return Twin(clause, replace(clause, oblique=(where, clause.oblique[1])), kind, "", kind)
    if kind == "adjective":
        if len(phrase.adjectives) != 1:
            return None
        changed = replace(phrase, adjectives=(other(phrase.adjectives[0], words),))
        return Twin(clause, replace(clause, object=changed), "object adjective 0", "", kind)
    alike = [n for n in words if NOUNS[n].gender == NOUNS[phrase.noun].gender]
    changed = replace(phrase, noun=other(phrase.noun, alike))
    return Twin(clause, replace(clause, object=changed), "object noun", "", kind)


def cross_heads(model: interp.Model) -> list[str]:
    """Every head of cross-attention."""
    facts = model.facts
    return [f"dec.{i}.cross.{j}" for i in range(facts.n_layers) for j in range(facts.n_heads)]
