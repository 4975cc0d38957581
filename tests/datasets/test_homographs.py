"""Templates that become sentences, and the homographs made of them."""

from collections import Counter
from importlib import import_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.door.door import ArgumentError
from interp.core.errors import CorpusError
from interp.datasets.corpus import annotated, require_disjoint
from interp.datasets.made.homographs import homographs
from interp.datasets.made.modifiers import modifiers
from interp.datasets.made.pronouns import pronouns
from interp.datasets.made.templates import fill, lists, splits, targets

module = import_module("interp.datasets.made.homographs")  # the package has a function of that name
SPLITS = ("train", "dev", "test")


# Templates


def test_a_slot_knows_its_words():
    filled = fill("when {X} met a(n) {Y}.", {"X": "the old king", "Y": "owl"}, id="s")
    assert filled.sentence.text == "When the old king met an owl."
    assert dict(filled.at) == {"X": (1, 4), "Y": (6, 7)}
    forms = [word.form for word in filled.sentence.words]
    assert forms == ["When", "the", "old", "king", "met", "an", "owl", "."]


def test_tags_do_not_show():
    filled = fill("the/DET {X}/NOUN, {Y}./PUNCT", {"X": "dog", "Y": "so/ADV big"}, id="s")
    assert filled.sentence.text == "The dog, so big."
    assert [w.upos for w in filled.sentence.words] == ["DET", "NOUN", None, "ADV", None, "PUNCT"]


def test_a_slot_inside_a_slot():
    filled = fill("{X} slept", {"X": "the {Y} dog", "Y": "very old"}, id="s")
    assert filled.sentence.text == "The very old dog slept"
    assert dict(filled.at) == {"X": (0, 4), "Y": (1, 3)}


@pytest.mark.parametrize(
    ("word", "article"),
    [(word, "an") for word in ("owl", "ugly", "hour", "uninvited", "onion")]
    + [(word, "a") for word in ("hat", "union", "use", "one", "European", "universe")],
)
def test_the_article_follows_the_sound(word, article):
    assert fill("it is a(n) {X}", {"X": word}, id="s").sentence.text == f"It is {article} {word}"


WORD = st.from_regex(r"[a-z]{1,6}", fullmatch=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(WORD, min_size=1, max_size=4), st.lists(WORD, min_size=1, max_size=4))
def test_spans_give_back_the_words(first, second):
    filled = fill("{X}, {Y}!", {"X": " ".join(first), "Y": " ".join(second)}, id="s")
    sentence = filled.sentence
    assert [sentence.text[slice(*w.span)] for w in sentence.words] == [
        w.form for w in sentence.words
    ]
    for slot, words in (("X", first), ("Y", second)):
        found = [word.form for word in sentence.words[slice(*filled.at[slot])]]
        assert [word.lower() for word in found] == words
    assert sentence.text.lower() == f"{' '.join(first)}, {' '.join(second)}!"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{X} and {Z}", r"no word was given for slot \{Z\} of .*known: 'X', 'Y'"),
        ("{X} and {X}", r"slot \{X\} stands twice in .*a name of its own"),
        ("  ", "the template of sentence 's' is empty"),
    ],
)
def test_templates_that_cannot_be_filled_are_refused(template, message):
    with pytest.raises(CorpusError, match=message):
        fill(template, {"X": "x", "Y": "y"}, id="s")


def test_splits_have_their_shares_and_hold_out_what_is_named():
    lemmas = tuple(f"w{i}" for i in range(50))
    found = splits("some", lemmas)
    assert Counter(found.values()) == {"train": 30, "dev": 10, "test": 10}
    assert found != splits("others", lemmas)
    held = splits("some", lemmas, held_out=("w3", "w4"))
    assert held["w3"] == held["w4"] == "test"
    assert Counter(held.values()) == Counter(found.values())


# Homographs


@pytest.mark.parametrize("before", [0, 1, 30])
def test_targets_keep_the_text_and_drop_the_other_words(before):
    corpus = homographs(split="dev")
    for kept, whole in zip(targets(corpus, before=before).sentences, corpus.sentences, strict=True):
        assert kept.text == whole.text
        at = [word.upos is not None for word in whole.words].index(True)
        assert kept.words == whole.words[max(0, at - before) : at + 1]
        assert kept.words[-1].upos


@pytest.mark.parametrize("whole", [modifiers(split="dev"), pronouns(split="dev")])
@pytest.mark.parametrize("before", [0, 2])
def test_targets_are_annotated_with_nothing_that_is_left_out(whole, before):
    corpus = targets(whole, before=before)
    assert corpus.layers == whole.layers - {"head", "relation", "mentions"}
    assert corpus.layers == annotated(corpus.documents)
    for kept, document in zip(corpus.documents, whole.documents, strict=True):
        words, target = kept.sentences[0].words, int(kept.facts["target"])
        assert words[target] == words[-1] and len(words) <= before + 1
        there = document.sentences[0].words[int(document.facts["target"])]
        assert (words[target].form, words[target].span) == (there.form, there.span)
        assert {**kept.facts, "target": document.facts["target"]} == document.facts
        assert document.sentences[0].text == kept.sentences[0].text


def cells(corpus, *facts):
    return Counter(tuple(d.facts[f] for f in facts) for d in corpus.documents)


def prefix(document):
    sentence = document.sentences[0]
    return sentence.text[: sentence.words[int(document.facts["target"])].span[1]]


def test_homographs_are_many_and_balanced():
    corpus = homographs()
    assert len(corpus.documents) == 1600
    assert len({s.text for s in corpus.sentences}) == len(corpus.sentences)
    uses = cells(corpus, "lemma", "context", "use")
    assert set(uses) == {
        (lemma, context, use)
        for lemma in lists("homographs", "words")
        for context in ("before", "after")
        for use in ("noun", "verb")
    }
    assert {uses[cell] for cell in uses if cell[1] == "before"} == {12}
    assert {uses[cell] for cell in uses if cell[1] == "after"} == {4}


def test_only_the_target_has_a_tag():
    for document in homographs().documents:
        (sentence,) = document.sentences
        tagged = [i for i, word in enumerate(sentence.words) if word.upos]
        assert tagged == [int(document.facts["target"])]
        word = sentence.words[tagged[0]]
        assert word.form == document.facts["lemma"] == document.id
        assert word.upos == document.facts["use"].upper()


def test_after_sentences_are_the_same_up_to_the_target():
    corpus = homographs()
    after, before = (
        corpus.where(lambda d, c=c: d.facts["context"] == c).documents for c in ("after", "before")
    )
    uses = {}
    for document in after:
        uses.setdefault(prefix(document), []).append(document.facts["use"])
    assert all(sorted(found) == ["noun", "verb"] for found in uses.values())
    nouns = {prefix(d) for d in before if d.facts["use"] == "noun"}
    assert not nouns & {prefix(d) for d in before if d.facts["use"] == "verb"}


def test_wordings_have_splits_of_their_own():
    before = homographs().where(lambda d: d.facts["context"] == "before")
    found = cells(before, "template", "use", "wording")
    assert Counter(wording for _, _, wording in found) == {"train": 16, "dev": 4, "test": 4}
    assert len({(template, wording) for template, _, wording in found}) == 12
    assert set(found.values()) == {50}  # every lemma in every wording


def test_no_lemma_and_no_item_is_in_two_splits():
    corpora = {split: homographs(split=split) for split in SPLITS}
    require_disjoint(corpora)
    lemmas = [{d.facts["lemma"] for d in corpus.documents} for corpus in corpora.values()]
    assert [len(found) for found in lemmas] == [30, 10, 10]
    assert len(set.union(*lemmas)) == 50
    ids = [s.id for s in homographs().sentences]
    assert len(set(ids)) == len(ids) == sum(len(c.sentences) for c in corpora.values())


@pytest.mark.plain
def test_homographs_are_the_same_every_time():
    first = homographs(split="dev")
    module._documents.cache_clear()
    assert homographs(split="dev") == first


def test_an_unknown_split_is_refused():
    with pytest.raises(ArgumentError, match="homographs: split='tset'; did you mean 'test'"):
        homographs(split="tset")
