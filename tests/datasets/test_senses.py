"""Two senses and the words that decide: balance, exact distances, nothing shared by splits."""

from collections import Counter
from importlib import import_module

import numpy as np
import pytest

from interp.core.door.door import ArgumentError
from interp.datasets.corpus import require_disjoint
from interp.datasets.made.senses import SENSES, senses
from interp.datasets.made.templates import lists

module = import_module("interp.datasets.made.senses")  # the package has a function of that name
SPLITS = ("train", "dev", "test")


def cells(*facts, cues):
    found = [d for d in senses().documents if d.facts["cues"] == cues]
    return Counter(tuple(d.facts[f] for f in facts) for d in found)


def words(document):
    return [word.form for word in document.sentences[0].words]


def test_no_cue_serves_two_lemmas():
    entries = lists("senses", "words")
    cues = [cue for entry in entries.values() for sense in SENSES for cue in entry[sense]]
    assert len(cues) == len(set(cues)) == 4 * len(entries)
    assert not set(cues) & set(entries)


@pytest.mark.plain
def test_one_cue_is_balanced_over_senses_and_distances():
    found = cells("lemma", "near", "distance", cues="1")
    assert set(found.values()) == {2}
    assert len(found) == len(lists("senses", "words")) * 2 * 5
    assert {distance for _, _, distance in found} == {"0", "5", "10", "20", "40"}


def test_two_cues_agree_as_often_as_not():
    found = cells("lemma", "near", "far", "far_distance", cues="2")
    assert set(found.values()) == {2}
    assert len(found) == len(lists("senses", "words")) * 4 * 3
    assert {distance for *_, distance in found} == {"10", "20", "40"}


def test_cues_are_of_the_sense_and_at_the_distance_that_is_said():
    entries = lists("senses", "words")
    for document in senses().documents:
        facts, forms = document.facts, words(document)
        target = int(facts["target"])
        assert forms[target] == facts["lemma"] == document.id
        assert [w.upos for w in document.sentences[0].words].count("NOUN") == 1
        assert document.sentences[0].words[target].upos == "NOUN"
        for cue, sense, distance in (
            ("near_cue", "near", "distance"),
            ("far_cue", "far", "far_distance"),
        ):
            assert facts[cue] in entries[facts["lemma"]][facts[sense]]
            assert forms.count(facts[cue]) == 1
            between = forms[forms.index(facts[cue]) + 1 : target]
            assert len([form for form in between if form.isalnum()]) == int(facts[distance])
        assert (facts["near_cue"] == facts["far_cue"]) == (facts["cues"] == "1")


def test_nothing_but_the_cues_speaks_of_a_sense():
    entries = lists("senses", "words")
    cues = {cue for entry in entries.values() for sense in SENSES for cue in entry[sense]}
    for document in senses().documents:
        said = set(words(document)) & (cues | set(entries))
        facts = document.facts
        assert said == {facts["near_cue"], facts["far_cue"], facts["lemma"]}


def test_no_lemma_and_no_item_is_in_two_splits():
    corpora = {split: senses(split=split) for split in SPLITS}
    require_disjoint(corpora)
    lemmas = [{d.facts["lemma"] for d in corpus.documents} for corpus in corpora.values()]
    assert len(set.union(*lemmas)) == sum(map(len, lemmas)) == len(lists("senses", "words"))
    assert "bank" in lemmas[2]
    assert all(len(found) >= 8 for found in lemmas)
    texts = [s.text for s in senses().sentences]
    assert len(set(texts)) == len(texts) == sum(len(c.sentences) for c in corpora.values())
    assert len(texts) >= 500


def test_senses_are_the_same_every_time():
    entries, home = lists("senses", "words"), {"bank": "test"}
    drawn = []
    for _ in range(2):
        rng = np.random.default_rng([*module.NAME.encode()])
        one = list(module._one_cue(rng, "bank", entries["bank"], home))
        drawn.append(one + list(module._two_cues(rng, "bank", entries["bank"], home)))
    assert drawn[0] == drawn[1]
    first = senses().where(lambda d: d.id == "bank").documents  # the first of the lemmas
    assert list(first) == drawn[0]


def test_an_unknown_split_is_refused():
    with pytest.raises(ArgumentError, match="senses: split='tests'; did you mean 'test'"):
        senses(split="tests")
