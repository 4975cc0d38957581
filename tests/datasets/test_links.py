"""Dependencies, mentions in rows, and anaphors: by hand, and against trying all pairs."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import CorpusError
from interp.datasets.corpus import Corpus, Document, Mention, Sentence, Word
from interp.datasets.words.alignment import Alignment
from interp.datasets.words.links import (
    anaphors,
    begins_row,
    clusters,
    dependencies,
    numbered,
    placed,
)


@dataclass(frozen=True)
class Collected:
    """Words in rows, of which the tokens are not known: as `Features` have them."""

    sentence: np.ndarray
    word: np.ndarray
    row: np.ndarray


def sentence(*heads: int, relation: str = "dep") -> Sentence:
    made = tuple(
        Word("w", (2 * i, 2 * i + 1), head=head, relation="root" if head < 0 else relation)
        for i, head in enumerate(heads)
    )
    return Sentence("s", " ".join("w" * len(heads)), made)


def in_rows(corpus: Corpus, *, missing=frozenset()) -> Collected:
    """A row for each document."""
    found, first = [], 0
    for row, document in enumerate(corpus.documents):
        for s, words in enumerate(document.sentences, first):
            found += [(s, w, row) for w in range(len(words)) if (s, w) not in missing]
        first += len(document.sentences)
    return Collected(*np.array(found).T)


SENTENCES = (sentence(1, -1, 1), sentence(-1, 0))
MENTIONS = (
    Mention(0, (0, 2), "a", 1),
    Mention(0, (2, 3), "b", None),
    Mention(1, (0, 1), "a", 0),
    Mention(1, (0, 2), "b", 1),
)
CORPUS = Corpus(
    "two",
    (Document("d", SENTENCES, MENTIONS), Document("e", SENTENCES, MENTIONS)),
    frozenset({"head", "relation", "mentions"}),
)


def test_dependencies_are_words_of_the_corpus():
    found = dependencies(CORPUS)
    assert found.dependent.tolist() == [0, 2, 4, 5, 7, 9]
    assert found.head.tolist() == [1, 1, 3, 6, 6, 8]
    assert found.document.tolist() == [0, 0, 0, 1, 1, 1] and len(found) == 6
    left_out = replace(CORPUS, documents=(Document("p", (sentence(-1, 0, relation="punct"),)),))
    assert len(dependencies(left_out)) == 0
    with pytest.raises(CorpusError, match="not annotated with head, relation; it has upos"):
        dependencies(replace(CORPUS, layers=frozenset({"upos"})))


def test_clusters_are_ids():
    twice = replace(CORPUS, documents=(*CORPUS.documents, CORPUS.documents[0]))
    names, places = clusters(twice)
    assert names == ("d", "e") and places.tolist() == [0, 1, 0]


def test_mentions_stand_where_their_head_or_all_their_words_do():
    rows = in_rows(CORPUS, missing={(0, 0), (1, 0)})
    assert numbered(CORPUS, rows).tolist() == [-1, 0, 1, -1, 2, 3, 4, 5, 6, 7]
    by_head, second = placed(CORPUS, rows, read="head")
    assert [(m.start, m.end, m.head, m.row) for m in by_head] == [
        (0, 2, 1, 0),
        (2, 3, 2, 0),  # no head is told: its last word
        (3, 4, 3, -1),
        (3, 5, 4, 0),
    ]
    assert [m.row for m in second] == [1] * 4 and second[0].start == 5
    whole = placed(CORPUS, rows, read="words")
    assert [[m.row for m in of] for of in whole] == [[-1, 0, -1, -1], [1] * 4]
    split = replace(rows, row=np.array([0, 0, 1, 2, 3, 3, 3, 4]))  # the last one is cut in two
    assert [m.row for m in placed(CORPUS, split, read="words")[1]] == [-1, 3, 3, -1]
    barred = begins_row(rows)
    assert barred.tolist() == [True, False, False, True, False, False, False, False]
    assert [m.row for m in placed(CORPUS, rows, read="head", without=barred)[1]] == [1] * 4
    assert [m.row for m in placed(CORPUS, rows, read="words", without=barred)[1]] == [-1, 1, 1, 1]


def test_only_what_holds_the_first_token_begins_a_row():
    """Two words may share it; behind a special token no word does."""
    at = [
        np.array(x) for x in ([0] * 5, range(5), [0, 0, 0, 1, 1], [0, 0, 1, 1, 2], [1, 1, 2, 2, 3])
    ]
    given = Alignment(((1, 2), (3, 4, 5)), *at, (), (), "")
    assert begins_row(given).tolist() == [True, True, False, False, False]
    rows = Collected(given.sentence, given.word, given.row)
    assert begins_row(rows).tolist() == [True, False, False, True, False]


def test_anaphors_by_hand():
    first, _ = placed(CORPUS, in_rows(CORPUS), read="head")
    she, it = anaphors(first)
    assert she.placed is first[2] and she.earlier == (first[1], first[0])
    assert she.antecedents == (first[0],)
    assert it.placed is first[3] and it.antecedents == (first[1],)  # not "a", which it holds
    alone = [replace(first[0], row=-1), *first[1:]]
    assert next(anaphors(alone)).earlier == (first[1],)
    nowhere = [*first[:3], replace(first[3], row=-1)]
    assert list(anaphors(nowhere))[1].earlier == ()


spans = st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(1, 3), st.sampled_from("abc"))


@settings(max_examples=60, deadline=None)
@given(st.lists(spans, max_size=12), st.booleans())
def test_anaphors_against_all_pairs(given, apart):
    """The earlier mentions are those of the row that end before it begins, nearest end first."""
    mentions = [Mention(s, (a, min(a + n, 6)), c, a) for s, a, n, c in sorted(given)]
    document = Document("d", (sentence(-1, *[0] * 5),) * 2, tuple(mentions))
    corpus = Corpus("c", (document,), frozenset({"mentions"}))
    rows = in_rows(corpus)
    rows = replace(rows, row=rows.sentence) if apart else rows
    (found,) = placed(corpus, rows, read="words")
    said = list(anaphors(found))
    begun: list[str] = []
    expected = []
    for m in found:
        before = [o for o in found if o.end <= m.start and (not apart or o.row == m.row)]
        if m.mention.chain in begun:
            expected.append((m, {id(o) for o in before}))
        begun.append(m.mention.chain)
    assert [(a.placed, {id(o) for o in a.earlier}) for a in said] == expected
    for a in said:
        ends = [o.end for o in a.earlier]
        assert ends == sorted(ends, reverse=True)
        assert all(o.mention.chain == a.placed.mention.chain for o in a.antecedents)
