"""Repeated sequences and recall: an oracle that reads the rows finds every answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.door.door import ArgumentError
from interp.core.errors import PairsError
from interp.core.prompts.sequences import UNSCORED, Sequences
from interp.datasets.tasks.recall import lookup, recall
from interp.datasets.tasks.repeated import repeated, repeated_pairs


def followers(row: list[int], i: int) -> list[int]:
    """Places of what came after earlier occurrences of the token at i."""
    return [j + 1 for j in range(i) if row[j] == row[i]]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    bos=st.sampled_from([None, 0, 5]),
    low=st.integers(2, 5),
    more=st.integers(0, 4),
    before=st.integers(0, 4),
    extra=st.integers(0, 17),
    seed=st.integers(0, 99),
)
def test_induction_is_always_right_and_never_possible_elsewhere(
    bos, low, more, before, extra, seed
):
    """Every scored token came before, and what followed it every time is the label."""
    pos = (bos is not None) + before + low + more + 2 + extra
    found = repeated(
        6,
        vocabulary=19,
        pos=pos,
        seed=seed,
        block=(low, low + more),
        before=(0, before),
        bos=bos,
    )
    for row, labels, distance in zip(
        found.tokens.tolist(), found.labels.tolist(), found.distance.tolist(), strict=True
    ):
        assert all(0 <= token < 19 for token in row)
        assert (bos in row[1:]) is False
        for i in range(pos):
            places = followers(row, i)
            if labels[i] == UNSCORED:
                assert not places or i == pos - 1
                assert distance[i] == 0
            else:
                assert {row[j] for j in places} == {labels[i]} == {row[i + 1]}
                assert row[i - distance[i]] == labels[i]
                assert places[-1] == i - distance[i]
        assert low - 1 <= max(distance) <= low + more - 1


def test_a_position_tells_nothing_about_where_to_look():
    """At one position the answer stands at every distance that there is, about equally often."""
    found = repeated(3000, vocabulary=40, pos=40, block=(3, 9), before=(0, 5))
    at = found.distance[:, 30]
    counts = torch.bincount(at)[2:9]
    assert set(at.tolist()) == set(range(2, 9))
    assert counts.min() > 0.8 * 3000 / 7


def test_tokens_are_drawn_evenly_at_every_place():
    found = repeated(8000, vocabulary=11, pos=9, block=(4, 4), before=(2, 2)).tokens
    counts = torch.stack([torch.bincount(found[:, i], minlength=11) for i in range(9)])
    assert ((counts / 8000 - 1 / 11).abs() < 0.018).all()
    together = torch.bincount(11 * found[:, 0] + found[:, 1], minlength=121).view(11, 11)
    assert together.diagonal().sum() == 0
    assert (together[~torch.eye(11, dtype=torch.bool)] / 8000 - 1 / 110).abs().max() < 0.006


def test_the_sample_of_olsson_et_al():
    """25 tokens four times, BOS before them; any ids of a large vocabulary."""
    ids = range(40_000, 49_000, 3)
    found = repeated(3, vocabulary=ids, pos=101, block=(25, 25), before=(0, 0), bos=1)
    rows = found.tokens[:, 1:].view(3, 4, 25)
    assert (rows == rows[:, :1]).all()
    assert (found.tokens[:, 0] == 1).all()
    assert set(rows.unique().tolist()) <= set(ids)
    assert found.scored.sum().item() == 3 * (75 - 1)


def test_the_same_seed_the_same_rows():
    one, same, other = (repeated(4, vocabulary=30, pos=30, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.tokens, same.tokens)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    pairs = [
        make(s).fingerprint
        for make in (
            lambda s: repeated_pairs(4, vocabulary=30, seed=s),
            lambda s: recall(4, vocabulary=30, pairs=3, pos=16, seed=s),
            lambda s: lookup(4, vocabulary=30, pairs=3, query="prefix", seed=s),
        )
        for s in (1, 1, 2)
    ]
    for a, b, c in zip(pairs[::3], pairs[1::3], pairs[2::3], strict=True):
        assert a == b != c


@pytest.mark.parametrize("bos", [None, 0])
def test_pairs_differ_in_the_successor_alone(bos):
    pairs = repeated_pairs(50, vocabulary=30, bos=bos, seed=3)
    for i in range(len(pairs)):
        n, end = int(pairs.lengths[i]), int(pairs.at("end")[i])
        clean, corrupt = pairs.clean[i, :n].tolist(), pairs.corrupt[i, :n].tolist()
        first, successor = int(pairs.at("first")[i]), int(pairs.at("successor")[i])
        assert (end, successor) == (n - 1, first + 1)
        assert [j for j in range(n) if clean[j] != corrupt[j]] == [successor]
        assert followers(clean, end) == followers(corrupt, end) == [successor]
        assert clean[first] == corrupt[first] == clean[end]
        assert (clean[successor], corrupt[successor]) == (pairs.correct[i], pairs.wrong[i])
        assert corrupt[successor] not in clean
        assert (clean[0] == 0) is (bos == 0) or bos is None
    assert len(set(pairs.cluster)) == 50
    assert len(set(pairs.lengths.tolist())) > 5


def test_recall_asks_for_every_key_once_and_for_nothing_else():
    found = recall(200, vocabulary=32, pairs=4, pos=24, seed=5)
    assert found.tokens.shape == (200, 24)
    for row, labels, distance in zip(
        found.tokens.tolist(), found.labels.tolist(), found.distance.tolist(), strict=True
    ):
        keys, values = row[:8:2], row[1:8:2]
        assert all(1 <= key < 16 for key in keys)
        assert all(16 <= value < 32 for value in values)
        assert (len(set(keys)), len(set(values))) == (4, 4)
        asked = [i for i in range(24) if labels[i] != UNSCORED]
        assert sorted(row[i] for i in asked) == sorted(keys)
        assert all(i >= 8 and i % 2 == 0 for i in asked)
        for i in asked:
            assert labels[i] == values[keys.index(row[i])] == row[i - distance[i]]
            assert i - distance[i] < 8
        others = set(range(8, 24)) - set(asked)
        assert not {row[i] for i in others} & set(keys)


def test_queries_come_mostly_soon():
    """The first query's place follows the published weights: (place + 1)^(a - 1), normalised."""
    found = recall(6000, vocabulary=16, pairs=1, pos=18, seed=2)
    place = (found.scored.int().argmax(1) - 2) // 2
    weight = np.arange(1, 9) ** -0.99
    expected = torch.from_numpy(weight / weight.sum()) * 6000
    counts = torch.bincount(place, minlength=8)
    assert ((counts - expected) ** 2 / expected).sum() < 24.3  # chi squared, 7 degrees, p = 0.001


@pytest.mark.parametrize("query", ["prefix", "suffix"])
def test_lookup(query):
    found = lookup(100, vocabulary=20, pairs=5, query=query, seed=1)
    for row, labels, distance in zip(
        found.tokens.tolist(), found.labels.tolist(), found.distance.tolist(), strict=True
    ):
        stored = dict(zip(row[1:-1:2], row[2:-1:2], strict=True))
        asked, mark = (row[0], row[-1]) if query == "prefix" else (row[-1], row[0])
        assert mark == 0
        assert len(stored) == 5
        assert labels[:-1] == [UNSCORED] * 11
        assert labels[-1] == stored[asked] == row[11 - distance[-1]]


def test_prefix_and_suffix_are_the_same_rows_turned():
    prefix, suffix = (
        lookup(9, vocabulary=20, pairs=5, query=q, seed=1) for q in ("prefix", "suffix")
    )
    assert torch.equal(prefix.tokens.sort(1).values, suffix.tokens.sort(1).values)
    assert torch.equal(prefix.labels, suffix.labels)


def test_rows_of_a_model_have_no_special_tokens(tiny_model):
    """A row that ended in one of padding would be refused by the model that it was made for."""
    model = tiny_model("llama")
    special, known = {0, 1}, set(range(len(model.tokenizer)))
    assert set(model.tokenizer.all_special_ids) == special
    size = {"block": (3, 5), "before": (0, 2)}
    rows = repeated(50, vocabulary=model, pos=14, **size).tokens
    assert set(rows.flatten().tolist()) == known - special
    pairs = repeated_pairs(50, vocabulary=model, bos=0, **size)
    assert set(pairs.clean[pairs.mask].tolist()) == known - special | {0}
    ids = sorted(known - special)
    assert torch.equal(rows, repeated(50, vocabulary=ids, pos=14, **size).tokens)


BAD = {
    "repeated: n=0, and n takes a whole number of at least 1": lambda: repeated(
        0, vocabulary=30, pos=40
    ),
    "rows of 20 tokens cannot hold 8 tokens before a block of 16": lambda: repeated(
        2, vocabulary=30, pos=20
    ),
    "19 ids are too few for 8 tokens before a block of 16": lambda: repeated(
        2, vocabulary=20, pos=40, bos=3
    ),
    r"block=\(1, 4\)": lambda: repeated(2, vocabulary=30, pos=40, block=(1, 4)),
    "23 ids are too few": lambda: repeated_pairs(2, vocabulary=24),
    "recall: n=-1, and n takes a whole number of at least 1": lambda: recall(
        -1, vocabulary=16, pairs=2, pos=16
    ),
    "rows of 14 tokens cannot hold 4 pairs": lambda: recall(2, vocabulary=16, pairs=4, pos=14),
    "a vocabulary of 8 has 3 keys for 4 pairs": lambda: recall(2, vocabulary=8, pairs=4, pos=16),
    "power=0.0, and power takes a number above 0": lambda: recall(
        2, vocabulary=16, pairs=2, pos=16, power=0.0
    ),
    "query='prefx'; did you mean 'prefix'": lambda: lookup(
        2, vocabulary=16, pairs=2, query="prefx"
    ),
    "the vocabulary has -3; ids of tokens are counted from 0": lambda: repeated(
        2, vocabulary=range(-3, 30), pos=40
    ),
    "no position is scored": lambda: Sequences(
        torch.zeros(2, 3, dtype=torch.long),
        torch.full((2, 3), UNSCORED),
        torch.zeros(2, 3, dtype=torch.long),
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_made_says_why(message):
    with pytest.raises((PairsError, ArgumentError), match=message):
        BAD[message]()
