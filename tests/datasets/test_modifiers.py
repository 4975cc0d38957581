"""Adjectives and their nouns: exact heads, balance, and no fixed offset that finds them."""

from collections import Counter
from importlib import import_module

import pytest

from interp.core.door.door import ArgumentError
from interp.datasets.corpus import require_disjoint
from interp.datasets.made.modifiers import modifiers
from interp.datasets.made.templates import lists

module = import_module("interp.datasets.made.modifiers")  # the package has a function of that name
SPLITS = ("train", "dev", "test")


def adjective(document):
    """The asked adjective, its index, and its head's."""
    (sentence,) = document.sentences
    i = int(document.facts["target"])
    return sentence.words, i, sentence.words[i].head


def test_modifiers_are_many_and_balanced():
    corpus = modifiers()
    nouns = lists("modifiers", "words")["nouns"]
    assert len(corpus.documents) == 16 * len(nouns) >= 500
    assert len({s.text for s in corpus.sentences}) == len(corpus.sentences)
    cells = Counter(
        (d.facts["noun"], d.facts["side"], d.facts["distance"]) for d in corpus.documents
    )
    assert cells == {
        (noun, side, str(distance)): number
        for noun in nouns
        for side, number in (("before", 3), ("after", 1))
        for distance in range(4)
    }


def test_heads_and_distances_are_what_is_said():
    for document in modifiers().documents:
        words, i, head = adjective(document)
        facts = document.facts
        assert words[i].form.lower() == facts["adjective"]
        assert words[head].form.lower() == facts["noun"] == document.id
        assert (words[i].upos, words[i].relation, words[head].upos) == ("ADJ", "amod", "NOUN")
        assert (i < head) == (facts["side"] == "before")
        between = [w for w in words[min(i, head) + 1 : max(i, head)] if w.upos != "PUNCT"]
        assert len(between) == int(facts["distance"])


def test_every_word_has_a_tag_and_every_modifier_a_head():
    tags = {"amod": {("ADJ", "NOUN")}, "conj": {("ADJ", "ADJ")}, "compound": {("NOUN", "NOUN")}}
    known = lists("modifiers", "words")
    adjectives = {word for words in known["adjectives"].values() for word in words}
    nouns = {*known["nouns"], *known["places"]}
    for sentence in modifiers().sentences:
        for word in sentence.words:
            assert word.upos
            assert (word.head is None) == (word.relation is None)
            if word.head is not None:
                pair = (word.upos, sentence.words[word.head].upos)
                assert pair in tags[word.relation]
            assert (word.form.lower() in adjectives) == (word.upos == "ADJ")
            assert word.form.lower() not in nouns or word.upos == "NOUN"
            if word.upos == "ADJ":
                assert word.relation in ("amod", "conj")


def test_no_fixed_offset_finds_the_noun():
    offsets = Counter()
    for document in modifiers().documents:
        _, i, head = adjective(document)
        offsets[head - i] += 1
    assert max(offsets.values()) / sum(offsets.values()) < 0.3
    assert {1, 2, 3, 4} < set(offsets)
    assert min(offsets) < -2


def test_adjectives_of_one_noun_differ_in_kind():
    kinds = lists("modifiers", "words")["adjectives"]
    kind = {word: name for name, words in kinds.items() for word in words}
    assert len(kind) == sum(map(len, kinds.values()))
    for sentence in modifiers().sentences:
        forms = [word.form for word in sentence.words if word.upos == "ADJ"]
        assert len(forms) == len(set(forms))
        for i, word in enumerate(sentence.words):
            mine = [
                w.form
                for w in sentence.words
                if w.upos == "ADJ" and (w.head == i or sentence.words[w.head].head == i)
            ]
            assert len({kind[form] for form in mine}) == len(mine), (sentence.text, word.form)


def test_no_noun_or_adjective_is_in_two_splits():
    corpora = {split: modifiers(split=split) for split in SPLITS}
    require_disjoint(corpora)
    for tag in ("NOUN", "ADJ"):
        seen = [
            {w.form for s in corpus.sentences for w in s.words if w.upos == tag} - {"fact"}
            for corpus in corpora.values()
        ]
        assert len(set.union(*seen)) == sum(map(len, seen))


def test_modifiers_are_the_same_every_time():
    first = modifiers(split="dev")
    module._documents.cache_clear()
    assert modifiers(split="dev") == first


def test_an_unknown_split_is_refused():
    with pytest.raises(ArgumentError, match="modifiers: split='training'; did you mean 'train'"):
        modifiers(split="training")
