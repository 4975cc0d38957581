"""The two languages: by hand, and what must hold of every clause."""

from collections import Counter
from dataclasses import replace

import pytest

from interp.core.errors import CorpusError
from interp.models.translator.grammar import (
    ADVERBS,
    Clause,
    Phrase,
    clauses,
    split_of,
    translation,
    vocabulary,
)
from interp.models.translator.tokens import END, PAD, UNKNOWN, rows_of, tokenizer

OLD = Clause(
    subject=Phrase("queen", plural=True, adjectives=("rich", "old")),
    verb="saw",
    object=Phrase("dog", determiner=("a", "some"), adjectives=("red",)),
    oblique=("under", Phrase("star", determiner=("that", "those"))),
    adverb="finally",
    first=True,
)
DRAWN = clauses(300, split="train", seed=1)


def test_a_clause_by_hand():
    found = translation(OLD)
    assert found.english == "finally the rich old queens saw a red dog under that star"
    assert found.other == (
        "las reinas viejas ricas un perro rojo bajo aquella estrella por fin vieron"
    )
    pairs = [(found.target[i], found.source[at]) for i, at in enumerate(found.aligned)]
    assert dict(pairs) == {
        "las": "the",
        "reinas": "queens",
        "viejas": "old",
        "ricas": "rich",
        "un": "a",
        "perro": "dog",
        "rojo": "red",
        "bajo": "under",
        "aquella": "that",
        "estrella": "star",
        "por": "finally",
        "fin": "finally",
        "vieron": "saw",
    }
    last = translation(replace(OLD, first=False))
    assert last.english.endswith("star finally")
    assert last.other == found.other


@pytest.mark.parametrize(
    ("noun", "plural", "said"),
    [
        ("king", False, "el rey viejo"),
        ("king", True, "los reyes viejos"),
        ("house", False, "la casa vieja"),
        ("house", True, "las casas viejas"),
    ],
)
def test_what_agrees(noun, plural, said):
    clause = replace(
        OLD, subject=Phrase(noun, plural, adjectives=("old",)), adverb=None, first=False
    )
    found = translation(clause)
    assert found.other.startswith(said)
    assert found.target[-1] == ("vieron" if plural else "vio")
    # of all this English tells the noun alone
    other = translation(replace(clause, subject=replace(clause.subject, plural=not plural)))
    assert [a == b for a, b in zip(found.source, other.source, strict=True)].count(False) == 1


def test_every_source_word_is_translated():
    for clause in DRAWN:
        found = translation(clause)
        counts = Counter(found.aligned)
        assert sorted(counts) == list(range(len(found.source)))
        twice = {i for i, n in counts.items() if n == 2}
        assert twice == {i for i, word in enumerate(found.source) if word in ADVERBS}
        assert max(counts.values()) <= 2
        assert found.target_roles[-1] == "verb"


def test_clauses_are_different_and_no_sentence_is_in_both_splits():
    assert len({translation(clause).english for clause in DRAWN}) == len(DRAWN)
    test = clauses(300, split="test", seed=1)
    assert {split_of(clause) for clause in test} == {"test"}
    both = [{translation(clause).english for clause in part} for part in (DRAWN, test)]
    assert not both[0] & both[1]
    assert clauses(300, split="test", seed=1) == test
    assert clauses(300, split="test", seed=2) != test


def test_all_kinds_of_clauses_are_drawn():
    kinds = Counter((c.oblique is None, c.adverb is None, c.first) for c in DRAWN)
    assert len(kinds) == 6
    assert min(kinds.values()) > 20
    assert {len(c.subject.adjectives) for c in DRAWN} == {0, 1, 2}
    assert all(len({c.subject.noun, c.object.noun}) == 2 for c in DRAWN)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Phrase("hous"), r"no noun 'hous'.*house"),
        (lambda: Phrase("house", determiner="the"), r"no determiner 'the'.*'the', 'the'"),
        (lambda: Phrase("house", adjectives=("blue",)), r"no adjective 'blue'"),
        (lambda: Phrase("house", adjectives=("red", "red")), r"red, red: one twice.*each once"),
        (lambda: replace(OLD, verb="see"), r"no verb 'see'"),
        (lambda: replace(OLD, adverb=["finally"]), r"no adverb \['finally'\]"),
        (lambda: replace(OLD, oblique=("with", OLD.subject)), r"no preposition 'with'"),
        (lambda: replace(OLD, adverb=None), r"first=True is of an adverb.*leave it out"),
    ],
)
def test_what_the_languages_have_no_word_for(call, said):
    with pytest.raises(CorpusError, match=said):
        call()


def test_every_word_is_one_token():
    words, reads = vocabulary(), tokenizer()
    assert len(set(words)) == len(words) == len(reads)
    for clause in DRAWN[:50]:
        found = translation(clause)
        (source,), (target,) = rows_of([found])
        for ids, text in ((source, found.english), (target, found.other)):
            assert reads(text)["input_ids"] == ids.tolist()
            assert reads.decode(ids, skip_special_tokens=True) == text
            assert ids[-1] == END
            assert UNKNOWN not in ids.tolist()
    assert (reads.pad_token_id, reads.eos_token_id, reads.unk_token_id) == (PAD, END, UNKNOWN)


def test_rows_are_padded_where_nothing_is_read_or_scored():
    short, long = sorted(map(translation, DRAWN), key=lambda t: len(t.source))[:: len(DRAWN) - 1]
    source, target = rows_of([short, long])
    assert (source[0, len(short.source) + 1 :] == PAD).all()
    assert (target[0, len(short.target) + 1 :] == -100).all()
    assert (source[1] != PAD).sum() == len(long.source) + 1
