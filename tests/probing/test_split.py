"""Labels of one's own: which word gets which, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.errors import CorpusError, ProbeError
from interp.datasets.corpus import Corpus, Document, Sentence, Word
from interp.probing.ask.split import Split
from interp.probing.read.features import Features

SITE = "0.resid_post"
TEXT = (("The", "dog", "barks"), ("Dogs", "bark"))


def corpus(text: tuple[tuple[str, ...], ...] = TEXT, **known: dict[str, str]) -> Corpus:
    """A document for each sentence; annotations by form."""
    documents = []
    for n, forms in enumerate(text):
        words, at = [], 0
        for form in forms:
            layers = {layer: by.get(form) for layer, by in known.items()}
            words.append(Word(form, (at, at + len(form)), **layers))
            at += len(form) + 1
        sentence = Sentence(str(n), " ".join(forms), tuple(words))
        documents.append(Document(f"d{n}", (sentence,)))
    return Corpus("mine", tuple(documents), frozenset(known))


def of(text: Corpus, **places: list[int]) -> Features:
    words = len(places["word"]) if places else text.n_words
    return Features.from_arrays({SITE: torch.randn(words, 4)}, model="a", corpus=text, **places)


@pytest.mark.parametrize(
    "label",
    [
        ["a", None, "b", float("nan"), "c"],
        ("a", None, "b", pd.NA, "c"),
        np.array(["a", None, "b", np.nan, "c"], dtype=object),
        pd.Series(["a", None, "b", np.nan, "c"]),
        lambda word: {"The": "a", "barks": "b", "bark": "c"}.get(word.form),
    ],
    ids=["list", "tuple", "array", "series", "function"],
)
def test_words_without_a_label_are_left_out_and_counted(label):
    text = corpus()
    found = Split.of(text, of(text), label=label)
    assert found.labels == ("a", "b", "c")
    assert found.words.tolist() == [0, 2, 4]
    assert found.types == ("the", "barks", "bark")
    assert found.cluster == ("d0", "d0", "d1")
    assert (found.unlabelled, found.missing, found.random) == (2, 0, None)


def test_a_field_that_some_words_lack():
    text = corpus(lemma={"dog": "dog", "Dogs": "dog"})
    found = Split.of(text, of(text), None, "lemma")
    assert found.labels == ("dog", "dog") and found.unlabelled == 3


def test_a_list_is_of_the_words_of_the_corpus_also_of_those_without_activations():
    text = corpus()
    fewer = of(text, sentence=[0, 0, 1], word=[0, 2, 1])
    found = Split.of(text, fewer, label=[1, 2, 3, 4, 5])
    assert found.labels == ("1", "3", "5") and found.missing == 2
    with pytest.raises(ProbeError, match="3 labels for mine, which has 5 words in 2 sentences"):
        Split.of(text, fewer, label=[1, 2, 3])


def test_labels_that_are_none():
    text = corpus()
    for label, message in (
        (None, "nothing says what the labels are; .*one for each of the 5 words of mine"),
        ([None] * 5, "none of the 5 words has a label: all are None or NaN"),
        (lambda word: None, "none of the 5 words has a label"),
        ([["a"] * 3, ["a"] * 2], "Make one list of those of the sentences"),
        (["a", "b", 0.5, "a", "b"], "label of word 2 is 0.5; labels are texts"),
        (["a", "", "a", "a", "b"], "label of word 1 is ''; labels are texts that are not empty"),
        (lambda word: [word.form], r"label of word 0 is \['The'\]"),
    ):
        with pytest.raises(ProbeError, match=message):
            Split.of(text, of(text), label=label)
    with pytest.raises(CorpusError, match="mine is not annotated with upos"):
        Split.of(text, of(text), label="upos")


def test_words_of_no_corpus():
    x = Features.from_arrays({SITE: np.random.default_rng(0).normal(size=(4, 3))}, model="a")
    found = Split.of_words(x, [1, None, 0, True], cluster=[7, 7, 8, 8], types=["A", "b", "a", "c"])
    assert found.labels == ("1", "0", "True") and found.cluster == ("7", "8", "8")
    assert found.types == ("a", "a", "c") and found.unlabelled == 1
    assert found.select([2, 0]).types == ("c", "a")
    bare = Split.of_words(x, ["x"] * 4, cluster=["a"] * 4)
    assert bare.types is None and bare.select([1]).types is None
    for given, message in (
        ({"labels": ["x"] * 3, "cluster": ["a"] * 4}, "3 labels for features of 4 words"),
        ({"labels": ["x"] * 4, "cluster": ["a"]}, "1 cluster for features of 4 words"),
    ):
        with pytest.raises(ProbeError, match=message):
            Split.of_words(x, **given)
    with pytest.raises(ProbeError, match="4 words of no corpus.*Split.of_words"):
        Split.of(corpus(), x, label=[1] * 5)
