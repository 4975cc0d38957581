"""The nouns: documents, sentences, words, mentions, and what may not be shared by splits."""

from dataclasses import replace

import pytest

from interp.core.errors import CorpusError
from interp.datasets import Corpus, Document, Mention, Sentence, Word, require_disjoint
from interp.datasets.corpus import annotated
from interp.datasets.words.plain import split


def sentence(id: str, text: str) -> Sentence:
    return Sentence(id, text, split(text))


def document(id: str, *texts: str, mentions: tuple[Mention, ...] = ()) -> Document:
    return Document(id, tuple(sentence(f"{id}-{i}", t) for i, t in enumerate(texts)), mentions)


def corpus(*documents: Document) -> Corpus:
    return Corpus("tiny", documents, annotated(documents))


MENTIONS = (
    Mention(0, (0, 2), "a", 1, "nominal"),
    Mention(0, (3, 4), "b"),
    Mention(1, (0, 1), "a", 0, "pronoun"),
)
D = document("d", "The dog saw Ann.", "It ran.", mentions=MENTIONS)
E = document("e", "Nobody, nowhere.")


def test_sentences_know_their_documents():
    made = corpus(D, E)
    assert [s.id for s in made.sentences] == ["d-0", "d-1", "e-0"]
    assert made.clusters == ("d", "d", "e")
    assert made.n_words == 5 + 3 + 4
    assert repr(made) == (
        "Corpus tiny: 2 documents, 3 sentences, 12 words, 3 mentions; annotated with mentions"
    )


def test_the_fingerprint_is_of_the_text_and_its_words():
    made = corpus(D, E)
    tagged = replace(
        D.sentences[0], words=tuple(replace(w, upos="X") for w in D.sentences[0].words)
    )
    same = corpus(replace(D, id="other", sentences=(tagged, D.sentences[1])), E)
    assert same.fingerprint == made.fingerprint and len(made.fingerprint) == 16
    first = D.sentences[0]
    moved = replace(first.words[0], span=(1, 3))
    renamed = replace(first.words[0], form="A")
    others = [
        corpus(E, D),
        corpus(D),
        corpus(replace(D, sentences=(replace(first, text="The cat saw Ann."), D.sentences[1])), E),
    ] + [
        corpus(replace(D, sentences=(replace(first, words=words), D.sentences[1])), E)
        for words in (first.words[1:], (moved, *first.words[1:]), (renamed, *first.words[1:]))
    ]
    assert len({made.fingerprint, *(other.fingerprint for other in others)}) == 7


def test_chains_and_the_text_of_mentions():
    assert {chain: [D.text(m) for m in members] for chain, members in D.chains.items()} == {
        "a": ["The dog", "It"],
        "b": ["Ann"],
    }


def test_layers_are_those_of_any_word():
    words = (Word("a", (0, 1), upos="X"), Word("b", (2, 3), head=-1))
    made = (Document("x", (Sentence("x-0", "a b", words),)),)
    assert annotated(made) == {"upos", "head"}
    assert annotated((D, *made)) == {"upos", "head", "mentions"}
    assert annotated((E,)) == frozenset()


def test_a_layer_that_is_not_there_is_refused():
    corpus(D).require("mentions")
    with pytest.raises(CorpusError, match=r"tiny is not annotated with upos, head; it has mention"):
        corpus(D).require("upos", "mentions", "head")
    with pytest.raises(CorpusError, match="it has nothing"):
        corpus(E).require("mentions")


@pytest.mark.parametrize(
    ("words", "sentences", "mentions"),
    [(1, 1, 2), (5, 1, 2), (6, 2, 3), (8, 2, 3), (9, 3, 3), (99, 3, 3)],
)
def test_the_head_cuts_after_a_sentence_and_its_mentions(words, sentences, mentions):
    made = corpus(D, E).head(words)
    assert len(made.sentences) == sentences
    assert sum(len(d.mentions) for d in made.documents) == mentions
    assert made.n_words >= min(words, 12)


def test_where_keeps_documents_or_refuses():
    assert corpus(D, E).where(lambda d: d.id == "e").documents == (E,)
    with pytest.raises(CorpusError, match="no document of tiny"):
        corpus(D).where(lambda d: d.id == "e")


LONG = "one two three four five six seven"
SHORT = "one two three four five six"
TINY = ("Dogs bark.", "Cats sleep.", "Yes.", "No.", "Birds sing loudly.")


def many(id: str, n: int, *texts: str) -> Document:
    return document(id, *(f"{id} is number {i} of this made text" for i in range(n)), *texts)


def test_splits_may_share_short_sentences_and_one_longer_in_a_hundred():
    require_disjoint({"train": corpus(document("a", SHORT)), "test": corpus(document("b", SHORT))})
    require_disjoint({"train": corpus(document("a", LONG, LONG))})  # twice in one is no matter
    require_disjoint(
        {"train": corpus(many("a", 300, LONG)), "test": corpus(many("b", 99, SHORT, LONG))}
    )
    # half of the short ones, or three of three
    first = corpus(document("a", *TINY[:4], "One.", "Two.", "Three.", "Four."))
    half = document("b", *TINY[:4], "Hello.", "You.", "They.", "We.")
    for other in (half, document("b", *TINY[:3])):
        require_disjoint({"train": first, "test": corpus(other)})


@pytest.mark.parametrize(
    ("first", "second", "parts"),
    [
        (document("a", *TINY), document("b", *TINY), ["5 of 5 short sentences", TINY[0]]),
        (
            document("a", *TINY, LONG),
            many("b", 300, *TINY[1:], "Hello", "You"),
            ["4 of 5 short sentences", TINY[1]],
        ),
        (document("a", LONG), document("b", SHORT, LONG), ["1 of 1 sentences", LONG]),
        (many("a", 300, LONG), many("b", 98, LONG), ["1 of 99 sentences", LONG]),
        (document("a", LONG), document("a", "x"), ["1 of 1 documents", "'a'"]),
    ],
)
def test_shared_text_is_named(first, second, parts):
    splits = {"dev": corpus(E), "train": corpus(first), "test": corpus(second)}
    with pytest.raises(CorpusError) as caught:
        require_disjoint(splits)
    message = str(caught.value)
    for part in (*parts, "'train' and 'test'", "Split by document"):
        assert part in message


@pytest.mark.plain
def test_the_splits_of_ewt_are_disjoint(published):
    splits = {split: published("ud-ewt", split) for split in ("train", "dev", "test")}
    require_disjoint(splits)
    with pytest.raises(CorpusError, match="document"):
        require_disjoint({"train": splits["train"], "again": splits["train"].head(500)})
    # published: texts that occur in two splits
    texts = {name: {s.text for s in made.sentences} for name, made in splits.items()}
    assert len(texts["train"] & texts["test"]) == 46
    assert len(texts["train"] & texts["dev"]) == 35
