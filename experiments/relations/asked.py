"""The links that heads are asked for: of words, of mentions, and of the controlled sets."""

from dataclasses import replace
from typing import Literal

import interp
from experiments._probing import beginnings
from interp.core.tables.scores import Scores
from interp.datasets.corpus import Corpus, Document
from interp.datasets.made.modifiers import modifiers
from interp.datasets.made.pronouns import pronouns
from interp.heads import attended, relations
from interp.heads.looking.links import ALL

Which = Literal["trained", "random"]
BEGINNING = 150
"""Words of a novel, at least: enough for chains of mentions."""
HE = frozenset(["he", "him", "his", "himself"])
OFFSETS = (-6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6)
"""In the controlled set; in running text those of Clark et al."""
ADJECTIVE, OF_HE, CONTROLLED = "adjective", "antecedent of he", "he or she, controlled"


def of_words(model: interp.Model, which: Which, text: Corpus, *, minimum: int, seed: int) -> Scores:
    """Dependencies of running text."""
    return relations(attended(model, text), text, minimum=minimum, model=which, seed=seed)


def novels(words: int | None, *, seed: int) -> Corpus:
    """The first sentences of novels, of as many novels as leave enough words for each."""
    every = len(interp.datasets.corpus("litbank").documents)
    count = min(every, max(4, (words or 0) // BEGINNING))
    return beginnings(count, (words or 0) // count, seed=seed)


def of_mentions(
    model: interp.Model, which: Which, text: Corpus, *, context: int, minimum: int, seed: int
) -> Scores:
    """Anaphors of novels; those of "he" once more by themselves."""
    found = attended(model, text, context=context)
    kinds = replace(text, documents=tuple(map(with_he, text.documents)))
    parts = [
        relations(found, corpus, minimum=minimum, model=which, seed=seed)
        for corpus in (text, kinds)
    ]
    return Scores.concat([parts[0], parts[1].query(f"task == '{OF_HE}'")])


def with_he(document: Document) -> Document:
    """With "he" as a kind of mention."""
    mentions = tuple(
        replace(mention, kind="he") if document.text(mention).lower() in HE else mention
        for mention in document.mentions
    )
    return replace(document, mentions=mentions)


def of_modifiers(model: interp.Model, *, words: int, seed: int) -> Scores:
    """Adjectives of the controlled set: all, and by the words between adjective and noun."""
    text = modifiers().sample(words, seed=seed)
    found = attended(model, text)
    parts = []
    for name in (lambda _: ADJECTIVE, lambda f: f"{f['side']} its noun, {f['distance']} between"):
        documents = tuple(target_only(d, name(d.facts)) for d in text.documents)
        asked = replace(text, documents=documents)
        parts.append(relations(found, asked, minimum=1, offsets=OFFSETS, seed=seed))
    everything = Scores.concat(parts)
    kept = ~everything.frame["task"].str.startswith(f"{ALL}:")
    return Scores(everything.frame[kept], parts[0].provenance)


def target_only(document: Document, relation: str) -> Document:
    """With a relation at the adjective that the sentence is about, and at no other word."""
    (sentence,) = document.sentences
    words = tuple(
        replace(word, relation=relation if i == int(document.facts["target"]) else None)
        for i, word in enumerate(sentence.words)
    )
    return replace(document, sentences=(replace(sentence, words=words),))


def of_pronouns(model: interp.Model, *, words: int, seed: int) -> Scores:
    """Pronouns of the controlled set, of which gender alone says who is meant."""
    text = pronouns(kind="gender").sample(words, seed=seed)
    found = relations(attended(model, text), text, minimum=1, seed=seed)
    found = found.query("task == 'antecedent of pronoun'")
    return Scores(found.frame.assign(task=CONTROLLED), found.provenance)
