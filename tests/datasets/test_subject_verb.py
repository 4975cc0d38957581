"""Agreement prompts whose subjects change number: what differs, what agrees, what balances."""

from collections import Counter

import pytest
import torch
from readers import WORD, Reader

from interp.core.door.door import ArgumentError
from interp.core.errors import PairsError
from interp.datasets.tasks.subject_verb import (
    ADVERBS,
    DID,
    DOES,
    LEADS,
    NEAR,
    NOUNS,
    STRUCTURES,
    TEMPLATES,
    VERBS,
    subject_verb,
)

PLURALS = {f"{noun}s": noun for noun in NOUNS}
SINGULAR, PLURAL = ({pair[i] for pair in VERBS} for i in (0, 1))
FORMS = [f" {form}" for pair in [*DOES, *VERBS] for form in pair]
OTHERS = [*LEADS, *(f" {word}" for word in [*NEAR, *DID, *ADVERBS, "the", "to", "that"])]


def reader(nouns=NOUNS, *, verbs=FORMS, **options):
    both = [f" {form}" for noun in nouns for form in (noun, f"{noun}s")]
    return Reader(WORD, [*both, *verbs, *OTHERS, "to"], **options)


@pytest.fixture(scope="module")
def model():
    return reader()


def words(model, pairs, side="clean"):
    rows = zip(getattr(pairs, side), pairs.lengths.tolist(), strict=True)
    return [[model.spell(i) for i in row[:length]] for row, length in rows]


def structure_of(row):
    """By its words after the subject."""
    if row[5] in ADVERBS:
        return "simple"
    if row[5] in NEAR:
        return "prepositional"
    return "object relative" if row[6] == "the" else "subject relative"


def number(word):
    return "plural" if word in PLURALS else "singular"


def test_only_the_subject_differs_and_by_its_number_alone(model):
    pairs = subject_verb(model, n=80)
    for i, (clean, corrupt) in enumerate(
        zip(words(model, pairs), words(model, pairs, "corrupt"), strict=True)
    ):
        at = int(pairs.at("subject")[i])
        assert [j for j, (a, b) in enumerate(zip(clean, corrupt, strict=True)) if a != b] == [at]
        assert {clean[at], corrupt[at]} == {pairs.cluster[i], f"{pairs.cluster[i]}s"}
        assert clean[3] == "the"
        assert at == 4


def test_the_right_verb_agrees_with_the_clean_subject(model):
    pairs = subject_verb(model, n=80)
    for i, row in enumerate(words(model, pairs)):
        right, wrong = model.spell(pairs.correct[i]), model.spell(pairs.wrong[i])
        assert (right, wrong) in VERBS or (wrong, right) in VERBS
        of = SINGULAR if number(row[4]) == "singular" else PLURAL
        assert right in of
        assert wrong not in of


def test_the_embedded_verb_agrees_with_the_attractor(model):
    pairs = subject_verb(model, n=40, structures=["object relative"])
    for row in words(model, pairs):
        lead, subject, attractor, verb = row[:4], row[4], row[7], row[8]
        assert row == [*lead, subject, "that", "the", attractor, verb]
        assert any(verb == pair[number(attractor) == "plural"] for pair in DOES)
        assert PLURALS.get(subject, subject) != PLURALS.get(attractor, attractor)


@pytest.mark.parametrize("n", [1, 7, 64, 100])
def test_structures_and_numbers_are_balanced(model, n):
    pairs = subject_verb(model, n=n, seed=n)
    found = Counter(map(structure_of, words(model, pairs)))
    assert max(found.values()) - min(found[name] for name in STRUCTURES) <= 1
    nouns = Counter(pairs.cluster)
    assert max(nouns.values()) - min(nouns[noun] for noun in NOUNS) <= 1
    for name in STRUCTURES[1:]:
        rows = [row for row in words(model, pairs) if structure_of(row) == name]
        place = {"prepositional": 7, "subject relative": 8, "object relative": 7}[name]
        cells = Counter((number(row[4]), number(row[place])) for row in rows)
        assert max(cells.values(), default=0) - min(cells.values(), default=0) <= 1
        if n == 64:
            assert cells == dict.fromkeys(cells, 4)
            assert len(cells) == 4


def test_positions_are_those_that_all_structures_have(model):
    with_simple = subject_verb(model, n=12)
    assert set(with_simple.positions) == {"subject", "end"}
    pairs = subject_verb(model, n=30, structures=STRUCTURES[1:])
    assert set(pairs.positions) == {"subject", "attractor", "end"}
    for i, row in enumerate(words(model, pairs)):
        subject, attractor, end = (int(pairs.at(p)[i]) for p in ("subject", "attractor", "end"))
        assert subject < attractor < end == len(row) - 1
        assert PLURALS.get(row[attractor], row[attractor]) in NOUNS
        assert row[attractor - 1] == "the"


def test_special_tokens_shift_positions():
    model = reader(frame="<s> $A </s>")
    pairs = subject_verb(model, n=12, structures=["simple"])
    assert pairs.at("subject").tolist() == [5] * 12
    assert pairs.at("end").tolist() == [6] * 12
    assert pairs.lengths.tolist() == [8] * 12
    assert subject_verb(model, n=2, structures=["simple"], bos="none").lengths.tolist() == [6, 6]


def test_words_of_several_tokens_are_left_out():
    verbs = [" is", " are", " was", " were"]
    model = reader(NOUNS[:12], verbs=[*verbs, " sees", " see", " like"])
    pairs = subject_verb(model, n=40)
    assert set(pairs.cluster) == set(NOUNS[:12])
    assert len(set(pairs.correct.tolist())) == 4
    relative = subject_verb(model, n=40, structures=["object relative"])
    assert {row[-1] for row in words(model, relative)} == {"sees", "see", "like", "know"}
    with pytest.raises(PairsError, match="no token for any of 'likes', 'knows', 'sees', 'wants'"):
        subject_verb(reader(NOUNS[:12], verbs=verbs))


def test_the_seed_decides_and_touches_no_other(model):
    state = torch.get_rng_state()
    assert subject_verb(model, seed=5).fingerprint == subject_verb(model, seed=5).fingerprint
    assert len({subject_verb(model, seed=seed).fingerprint for seed in range(4)}) == 4
    assert torch.equal(torch.get_rng_state(), state)


def test_halves_share_no_noun(model):
    first, second = subject_verb(model, n=64).split()
    assert not set(first.cluster) & set(second.cluster)


def test_every_structure_has_its_template():
    assert tuple(TEMPLATES) == STRUCTURES


# Errors


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (4, -1)])
def test_impossible_numbers_are_refused(model, n, seed):
    with pytest.raises(ArgumentError, match="takes a whole number of at least"):
        subject_verb(model, n=n, seed=seed)


def test_unknown_structures_are_refused(model):
    with pytest.raises(ArgumentError, match="has 'simpel'; did you mean 'simple'"):
        subject_verb(model, structures=["simpel"])
    with pytest.raises(ArgumentError, match=r"structures=\[\], .*'prepositional'.*not empty"):
        subject_verb(model, structures=[])


def test_too_few_words_are_refused():
    with pytest.raises(
        PairsError, match=r"only 9 of the 60 nouns.*of tiny \(author, .*at least 10"
    ):
        subject_verb(reader(NOUNS[:9]))
    with pytest.raises(PairsError, match=r"only 1 of the 18 verbs.*\(is\); at least 2"):
        subject_verb(reader(verbs=[" is", " are"]))
    with pytest.raises(PairsError, match=r"only 0 of the 60 nouns.*\(none\)"):
        subject_verb(reader(()))


def test_a_noun_that_is_another_token_in_its_prompt_is_refused(model):
    class Shifted(Reader):
        def __init__(self):
            self.tokenizer = model.tokenizer

        def encode_with_offsets(self, text, *, bos="model"):
            ids, offsets = super().encode_with_offsets(text, bos=bos)
            return [i + (len(ids) > 5) for i in ids], offsets

    with pytest.raises(PairsError, match=r"is one token after .to. but not in .*of tiny tokenises"):
        subject_verb(Shifted())


def test_prompts_that_do_not_align_are_refused(model):
    class Stutters(Reader):
        prompts = 0

        def __init__(self):
            self.tokenizer = model.tokenizer

        def encode_with_offsets(self, text, *, bos="model"):
            ids, offsets = super().encode_with_offsets(text, bos=bos)
            self.prompts += len(ids) > 5
            extra = self.prompts % 2
            return [1] * extra + ids, [(0, 0)] * extra + offsets

    with pytest.raises(PairsError, match=r"are single tokens, yet .* stand at .*merges words"):
        subject_verb(Stutters())
