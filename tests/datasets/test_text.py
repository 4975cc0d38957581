"""Running text as pairs: rows, clusters, and what is left out."""

import logging

import pytest
import torch

import interp
from interp.core.errors import CorpusError
from interp.datasets.corpus import Corpus, Document, Sentence, Word
from interp.datasets.words.running import running_text


def sentence(text: str, id: str) -> Sentence:
    words, at = [], 0
    for form in text.split():
        at = text.index(form, at)
        words.append(Word(form, (at, at + len(form))))
    return Sentence(id, text, tuple(words))


def corpus(*documents: tuple[str, ...]) -> Corpus:
    return Corpus(
        "by hand",
        tuple(
            Document(f"d{i}", tuple(sentence(text, f"{i}-{j}") for j, text in enumerate(texts)))
            for i, texts in enumerate(documents)
        ),
        frozenset(),
    )


@pytest.fixture
def model(tiny_model) -> interp.Model:
    return tiny_model("gpt2")


def test_a_row_for_each_sentence(model):
    text = corpus(("The Mary gave it", "The John gave it to Mary"), ("The Mary gave it to",))
    pairs = running_text(model, text)
    assert pairs.lengths.tolist() == [4, 6, 5]
    assert pairs.cluster == ("d0", "d0", "d1")
    assert pairs.clean.equal(pairs.corrupt)
    assert (pairs.correct == -1).all()
    for row, length, s in zip(pairs.clean, pairs.lengths.tolist(), text.sentences, strict=True):
        assert row[:length].tolist() == model.encode(s.text)
    assert pairs.strings[0][0] == ("The", "␣Mary", "␣gave", "␣it")


def test_sentences_that_share_a_row(model):
    text = corpus(("The Mary gave it", "to John to Mary", "to it"), ("The Mary gave it to",))
    pairs = running_text(model, text, context=8)
    assert pairs.cluster == ("d0", "d0", "d1")
    assert pairs.lengths.tolist() == [8, 2, 5]


def test_rows_of_a_token_are_left_out_and_counted(model, caplog):
    text = corpus(("The Mary gave it", "The"), ("The",))
    with caplog.at_level(logging.WARNING, logger="interp"):
        pairs = running_text(model, text)
    assert pairs.cluster == ("d0",)
    assert [r.message for r in caplog.records] == ["by hand: 2 of 3 rows hold no two tokens"]
    with pytest.raises(CorpusError, match="no sentence of by hand has two tokens"):
        running_text(model, corpus(("The",), ("The",)))


def test_the_loss_is_that_of_the_sentence(model):
    text = corpus(("The Mary gave it", "The John gave it to Mary"))
    found = interp.evaluate(model, running_text(model, text), metric="next_token_loss")
    for value, s in zip(
        found.query("position == 'clean'").frame["value"], text.sentences, strict=True
    ):
        ids = torch.tensor(model.encode(s.text))
        logits = model.bridge.original_model(ids[None]).logits[0, :-1]
        assert abs(value - torch.nn.functional.cross_entropy(logits, ids[1:]).item()) < 1e-12
