"""Which words of a corpus are asked, and what is chosen: the pure parts of `homographs`."""

import numpy as np
import pytest

from experiments.homographs.asked import conditions
from experiments.homographs.items import Items, only, some
from experiments.homographs.report import chosen, curve
from interp.core.tables.scores import Scores
from interp.datasets.corpus import Corpus, Document, Sentence, Word
from interp.probing import collect


def document(name: str, forms: str, **facts: str) -> Document:
    words, start = [], 0
    for form in forms.split():
        tag = "VERB" if form == "gave" else "NOUN"
        words.append(
            Word(form, (start, start + len(form)), upos=tag, head=0 if start else -1, relation="x")
        )
        start += len(form) + 1
    return Document(name, (Sentence(f"{name}.0", forms, tuple(words)),), facts=facts)


TEXT = Corpus(
    "made",
    (document("a", "The gave it", near="nature"), document("b", "The Mary", near="culture")),
    frozenset(),
)


def test_some_lemmas_are_the_first():
    assert [d.id for d in some(TEXT, 1).documents] == ["a"]
    assert len(some(TEXT, 9).documents) == 2


def test_words_that_are_not_asked_go_with_the_links_to_them():
    left = only(TEXT, lambda word: word.form in ("gave", "Mary"))
    assert [[w.form for w in s.words] for s in left.sentences] == [["gave"], ["Mary"]]
    assert {w.head for s in left.sentences for w in s.words} == {None}
    assert left.sentences[0].text == "The gave it"


def test_items_know_their_documents_and_split_by_label_and_place(tiny_model):
    items = Items.of(TEXT, collect(tiny_model("llama"), TEXT, sites=["0.resid_post"]), None)
    assert [w.form for w in items.words] == ["The", "gave", "it", "The", "Mary"]
    assert [d.id for d in items.documents] == [*"aaabb"]
    here = items.split(lambda d, w: d.facts["near"], lambda _, place: place == 1)
    assert here.words.tolist() == [1, 4] and here.labels == ("nature", "culture")
    assert here.types == ("gave", "mary") and here.cluster == ("a", "b")


@pytest.mark.parametrize(
    "facts, names",
    [
        ({"cues": "1", "distance": "5"}, ["one cue, 5 words"]),
        (
            {"cues": "2", "near": "x", "far": "x", "far_distance": "9", "lemma": "bat"},
            ["agree, 9 words"],
        ),
        (
            {"cues": "2", "near": "x", "far": "y", "far_distance": "9", "lemma": "bank"},
            ["conflict, 9 words", "bank: conflict, 9 words"],
        ),
    ],
)
def test_conditions_are_named_by_their_cues(facts, names):
    assert conditions(facts) == names


def test_the_first_site_that_is_nearly_best_is_chosen_on_the_development_lemmas():
    parts = []
    for layer, (dev, test) in enumerate([(50, 90), (98, 10), (99, 20), (97, 30)]):
        for subset, right in (("dev", dev), ("all", test)):
            values = (np.arange(100) < right).astype(float)
            columns = {"task": "use", "probe": "linear", "model": "trained", "subset": subset}
            site = f"{layer}.resid_post"
            parts.append(Scores.of(values, ["l"] * 100, provenance={}, site=site, **columns))
    scores = Scores.concat(parts)
    assert chosen(scores, "use") == ("1.resid_post", "2.resid_post")
    shown = curve(scores.summary(), "use", "a name")
    assert shown["value"].tolist() == [0.9, 0.1, 0.2, 0.3] and set(shown["curve"]) == {"a name"}
