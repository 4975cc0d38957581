"""What a decoder reads: rows of both sides, aligned, with positions of their own."""

from dataclasses import replace

import pytest
import torch

from interp.core.errors import PairsError
from interp.core.prompts.pairs import Pairs

CLEAN = [[5, 6, 7, 8], [5, 9, 1], [2, 0, 3, 4, 0]]
CORRUPT = [[5, 1, 7, 8], [5, 2, 1], [2, 9, 3, 4, 7]]
REST = {"correct": [1, 2, 3], "wrong": [4, 5, 6], "cluster": ["a", "b", "a"]}
TARGET = [[3, 4], [5, 6, 7], [8]]
OTHER = [[3, 9], [5, 6, 1], [2]]
NAMED = {"noun": [1, 3, 0]}


def make(**changed) -> Pairs:
    given = dict(clean=CLEAN, corrupt=CORRUPT, positions={"s": [1, 0, 3]}, **REST)
    return Pairs.from_tokens(**{**given, **changed})


def made(**changed) -> Pairs:
    given = {"target": TARGET, "corrupt_target": OTHER, "target_positions": NAMED}
    return make(**{**given, **changed})


def test_rows_are_padded_on_the_right_and_counted_with_the_start_token():
    pairs = made()
    assert pairs.target.clean.tolist() == [[3, 4, 0], [5, 6, 7], [8, 0, 0]]
    assert pairs.target.corrupt.tolist() == [[3, 9, 0], [5, 6, 1], [2, 0, 0]]
    assert pairs.written.tolist() == [3, 4, 2]
    assert pairs.extents == [(4, 3), (3, 4), (5, 2)]
    assert pairs.widths.tolist() == [4, 4, 5]
    assert pairs.longest == 5
    named = {name: at.tolist() for name, at in pairs.target.positions.items()}
    assert named == {"end": [2, 3, 1], "noun": [1, 3, 0]}
    tokens, written = pairs.ids("corrupt", [1])
    assert tokens.tolist() == [CORRUPT[1]]
    assert written.tolist() == [OTHER[1]]
    assert "with targets of 1 to 3 tokens, positions end, noun" in repr(pairs)
    assert pairs.groups == [(name, *n) for name, n in zip("aba", pairs.extents, strict=True)]


def test_without_a_target_a_decoder_reads_its_start_token():
    pairs = make()
    assert pairs.target is None
    assert pairs.written.tolist() == [1, 1, 1]
    assert pairs.ids("clean", [0])[1] is None
    assert pairs.groups == [("a", 4), ("b", 3), ("a", 5)]


def test_the_corrupt_side_reads_the_same_unless_it_is_given():
    pairs = made(corrupt_target=None)
    assert torch.equal(pairs.target.corrupt, pairs.target.clean)
    same = make(decoder=(4, 7))
    assert same.target.clean.tolist() == [[4, 7]] * 3
    assert same.fingerprint == make(target=[[4, 7]] * 3).fingerprint


@pytest.mark.parametrize(
    "changed, message",
    [
        (
            {"corrupt_target": [[3, 9], [5, 6], [2]]},
            r"row 1: the target has 3 tokens and corrupt_target 2;[^$]*target         5 \| 6 \| 7",
        ),
        ({"corrupt_target": OTHER[:2]}, "3 rows of target= but 2 of corrupt_target="),
        ({"target": TARGET[:2], "corrupt_target": None}, "3 clean prompts but 2 of target"),
        ({"target_positions": {"noun": [1, 4, 0]}}, "target position 'noun' is 4 in row 1.*0 to 3"),
        ({"target_positions": {"all": [1, 1, 0]}}, "a target position is called 'all'"),
        ({"target": [[3, 4], [5, 6.5, 7], [8]]}, "row 1 of target is 6.5 in token 1"),
        ({"decoder": (1,)}, "target= and decoder= are both given"),
        ({"target": None}, "corrupt_target and target_positions without target="),
        ({"target": None, "corrupt_target": OTHER, "decoder": (3, 4, 5), "target_positions": None},
         "corrupt_target= with decoder="),
        ({"target": None, "corrupt_target": None, "decoder": [[4], [5], [6]]},
         "3 lists of 1 ids. Rows whose targets differ are given as target="),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit(changed, message):
    with pytest.raises(PairsError, match=message):
        made(**changed)


@pytest.mark.plain
def test_a_target_that_contradicts_itself():
    target = made().target
    for changed, message in (
        ({"lengths": torch.tensor([2, 4, 1])}, "row 1 of the target has 4 ids of 3"),
        ({"positions": {"noun": torch.tensor([1, 1, 1])}}, "without 'end'"),
        ({"clean": torch.zeros(3, 2)}, "not integer token ids"),
        ({"lengths": torch.tensor([2, 3])}, "they are as many"),
    ):
        with pytest.raises(PairsError, match=message):
            replace(target, **changed)


def test_selecting_takes_the_targets_too():
    pairs = made().select([2, 0])
    assert pairs.target.clean[:, :2].tolist() == [[8, 0], [3, 4]]
    assert pairs.target.positions["noun"].tolist() == [0, 1]
    alone = {k: [v[2], v[0]] for k, v in REST.items()}
    again = Pairs.from_tokens(
        clean=[CLEAN[2], CLEAN[0]],
        corrupt=[CORRUPT[2], CORRUPT[0]],
        positions={"s": [3, 1]},
        target=[TARGET[2], TARGET[0]],
        corrupt_target=[OTHER[2], OTHER[0]],
        target_positions={"noun": [0, 1]},
        **alone,
    )
    assert again.fingerprint == pairs.fingerprint


@pytest.mark.parametrize(
    "changed",
    [
        {"target": [[3, 1], *TARGET[1:]]},
        {"corrupt_target": None},
        {"target_positions": {"noun": [1, 2, 0]}},
        {"target_positions": {"verb": [1, 3, 0]}},
        {"target": None, "corrupt_target": None, "target_positions": None},
    ],
    ids=str,
)
def test_fingerprint_changes_with_whatever_can_change_a_number(changed):
    assert made(**changed).fingerprint != made().fingerprint
