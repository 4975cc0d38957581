"""Baselines by hand, and the control task's distribution and invariance."""

import numpy as np
import pytest

from interp.core.errors import ProbeError
from interp.probing.ask.controls import (
    Classes,
    control_task,
    control_tasks,
    majority,
    type_majority,
    unseen,
)

TRAIN = ["the", "ring", "ring", "ring", "fell", "the"]
TAGS = np.array([0, 1, 1, 2, 2, 0])


def test_classes_are_numbered_by_name():
    classes = Classes.of(["b", "a", "b", "a", "c", "c"])
    assert classes.names == ("a", "b", "c")
    assert classes.encode(["c", "a"]).tolist() == [2, 0]


def test_a_label_with_one_example_is_refused_or_dropped_with_its_words():
    with pytest.raises(ProbeError, match=r"1 labels have fewer than two .*: 'x' \(1\)"):
        Classes.of(["a", "a", "b", "b", "x"])
    kept = Classes.of(["a", "a", "b", "b", "x"], ["x", "x", "a"], rare="drop")
    assert kept.names == ("a", "b")
    assert kept.dropped == (("x", 3),)
    assert kept.encode(["x", "b"]).tolist() == [-1, 1]


def test_a_label_that_training_lacks_is_refused_by_name():
    with pytest.raises(ProbeError, match=r"'z' \(0\)"):
        Classes.of(["a", "a", "b", "b"], ["a", "z"])


def test_one_class_is_refused():
    with pytest.raises(ProbeError, match="1 labels with two examples or more"):
        Classes.of(["a", "a", "b"], rare="drop")


def test_majority_and_type_majority():
    assert majority(np.array([2, 1, 2]), 4).tolist() == [2, 2, 2, 2]
    found = type_majority(TRAIN, TAGS, ["ring", "the", "fell", "new"])
    assert found.tolist() == [1, 0, 2, 0]


def test_unseen_types():
    assert unseen(TRAIN, ["ring", "bell"]).tolist() == [False, True]


def test_the_control_task_is_a_function_of_the_type():
    first, second = control_task(TRAIN, TAGS, splits=[TRAIN, ["bell", "ring"]], seed=3)
    assert len({first[i] for i in (1, 2, 3)}) == 1  # every "ring"
    assert second[1] == first[1]
    again = control_task(TRAIN, TAGS, splits=[TRAIN, ["bell", "ring"]], seed=3)
    assert np.array_equal(again[0], first)
    others = [control_task(TRAIN, TAGS, splits=[TRAIN], seed=s)[0].tolist() for s in range(9)]
    assert len(set(map(tuple, others))) > 1


def test_control_labels_follow_the_empirical_distribution():
    y = np.repeat([0, 1, 2], [700, 250, 50])
    types = [f"w{i}" for i in range(1000)]
    (drawn,) = control_task(types, y, splits=[[f"v{i}" for i in range(20_000)]], seed=0)
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, [0.7, 0.25, 0.05], atol=0.015)


def test_the_first_of_several_draws_is_the_one():
    split = ["bell", "ring"]
    drawn, why = control_tasks([TRAIN, split], TAGS, seed=3, draws=4)
    assert not why and [labels.shape for labels in drawn] == [(4, 6), (4, 2)]
    for one, several in zip(
        control_task(TRAIN, TAGS, splits=[TRAIN, split], seed=3), drawn, strict=True
    ):
        np.testing.assert_array_equal(one, several[0])


def test_draws_of_one_label_are_left_out():
    """Two types and two labels: half of the draws give both the same."""
    types, y = ["a", "b"] * 10, np.array([0, 1] * 10)
    drawn, why = control_tasks([types], y, seed=0, draws=40)
    assert not why and 8 < len(drawn[0]) < 32
    assert all(len(set(labels.tolist())) == 2 for labels in drawn[0])
    rare = np.array([0] * 19 + [1])
    seeds = [control_tasks([types], rare, seed=seed, draws=1)[1] for seed in range(9)]
    assert "all 2 types of the training words drew the same label" in seeds
