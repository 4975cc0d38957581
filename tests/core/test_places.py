"""One door for positions: what a place means in each row, against a loop in plain Python."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import PositionError
from interp.core.prompts import places
from interp.core.prompts.places import AFTER_FIRST, ALL, PerRow, listed, place_of

LENGTHS = torch.tensor([4, 6, 4])
NAMED = {"end": torch.tensor([3, 5, 3]), "name": torch.tensor([1, 2, 0])}
SAME = [[1], [2], [0]]
"""The position "name" of each row."""


@pytest.mark.parametrize(
    "given",
    [
        "name",
        torch.tensor([1, 2, 0]),
        torch.tensor([1.0, 2.0, 0.0]),
        np.array([1, 2, 0], dtype=np.int16),
        pd.Series([1.0, 2.0, 0.0]),
        [[1], [2], [0]],
        ((1,), (2,), (0,)),
        [torch.tensor(1), 2, np.int64(0)],
        torch.eye(6, dtype=torch.bool)[[1, 2, 0]],
        np.eye(6, dtype=bool)[[1, 2, 0]],
        np.eye(6, dtype=bool)[[1, 2, 0]].tolist(),
        PerRow(((1,), (2,), (0,))),
    ],
    ids=lambda x: f"{type(x).__name__} {x!r:.12}",
)
def test_the_same_place_in_every_dress(given: Any) -> None:
    place = place_of(given)
    assert places.index(place, NAMED, LENGTHS).tolist() == [1, 2, 0]
    assert places.mask(place, NAMED, LENGTHS, [0, 2]).tolist() == [
        [False, True, False, False],
        [True, False, False, False],
    ]
    assert places.mask(place, NAMED, LENGTHS, [1]).tolist() == [[i == 2 for i in range(6)]]


@pytest.mark.parametrize("given", [2, "2", 2.0, np.int8(2), torch.tensor(2), np.float32(2)])
def test_an_index_is_the_same_in_every_row(given: Any) -> None:
    assert places.index(place_of(given), NAMED, LENGTHS).tolist() == [2, 2, 2]


def test_several_positions_of_a_row() -> None:
    for one in ([[0, 3], [5, 1], [2]], PerRow(((0, 3), (1, 5), (2,)))):
        place = place_of(one)
        assert places.mask(place, NAMED, LENGTHS, [0]).tolist() == [[True, False, False, True]]
        assert places.mask(place, NAMED, LENGTHS, [1])[0].nonzero().flatten().tolist() == [1, 5]
    everything = [places.mask(p, NAMED, LENGTHS, [0, 2]) for p in (ALL, AFTER_FIRST)]
    assert everything[0].all() and everything[1].tolist() == [[False, True, True, True]] * 2


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (-1, r"-1, which would count from the end.*The last token of each row is 'end'"),
        (20, r"no position 20 in row 0: its 4 tokens are counted from 0"),
        (5, r"no position 5 in row 0: its 4 tokens"),
        (2.5, r"is 2.5, and a position is a whole number"),
        (float("nan"), r"is nan, and a position is a whole number. Likely an empty cell"),
        (float("inf"), r"inf"),
        (torch.tensor([[1, 1, 0, 0]]), r"row 0 names the position 1 twice.*mask\.bool\(\)"),
        ([[0, 1, 1]], r"row 0 names the position 1 twice"),
        (True, r"True, and a position is a whole number"),
        (np.bool_(True), r"a position is a whole number"),
        ("ned", r"no position 'ned'; did you mean 'end'"),
        ("", r"without a name"),
        (None, r"None is no position"),
        (b"end", r"is no position"),
        ([], r"has no rows"),
        ([[1], [], [2]], r"row 1 has no position at all"),
        (np.zeros((3, 6), dtype=bool), r"row 0 has no position at all"),
        (np.array([True, False, True]), r"a mask of positions has two axes"),
        ([[1], [2.5], [0]], r"the position of row 1 is 2.5"),
        (pd.Series([1, np.nan, 2]), r"the position of row 1 is nan.*empty cell of a table"),
        (torch.tensor([1, -2, 0]), r"the position of row 1 is -2, which would count from the end"),
        (torch.tensor([1, 6, 0]), r"no position 6 in row 1: its 6 tokens"),
        (
            torch.tensor([1, 2]),
            r"positions of 2 rows were given for 3 pairs. Likely the pairs were",
        ),
        (torch.tensor([1, 2, 0, 1]), r"positions of 4 rows were given for 3 pairs"),
    ],
    ids=str,
)
def test_what_is_no_place_is_refused(given: Any, says: str) -> None:
    with pytest.raises(PositionError, match=says):
        places.index(place_of(given), NAMED, LENGTHS)
    with pytest.raises(PositionError, match=says):
        place = place_of(given)
        for rows in ([0, 2], [1]):
            places.mask(place, NAMED, LENGTHS, rows)


def test_where_one_is_read_several_are_refused() -> None:
    with pytest.raises(PositionError, match=r"row 0 names 2 positions, and here one of each row"):
        places.index(place_of([[0, 1], [1], [2]]), NAMED, LENGTHS)
    for word in (ALL, AFTER_FIRST):
        with pytest.raises(PositionError, match=r"it means several positions of each row"):
            places.index(word, NAMED, LENGTHS)
    with pytest.raises(PositionError, match=r"row 1 has a single token"):
        places.mask(AFTER_FIRST, {}, torch.tensor([2, 1]), [1])


def test_a_list_of_names_and_indices_is_several_places() -> None:
    assert listed(["end", 2]) == [("end", "end"), ("2", 2)]
    assert listed({"it": SAME, "last": "end"}) == [("it", place_of(SAME)), ("last", "end")]
    assert listed(SAME) == [("per row", place_of(SAME))] == listed(np.array([1, 2, 0]))
    with pytest.raises(PositionError, match=r"names end twice"):
        listed(["end", "end"])
    with pytest.raises(PositionError, match=r"names no position; give 'all' or some of end, name"):
        listed([], NAMED)


@given(st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=5))
def test_lists_and_masks_mean_the_same(rows: list[set[int]]) -> None:
    lengths = torch.full((len(rows),), 6)
    mask = torch.tensor([[i in row for i in range(6)] for row in rows])
    given = [mask, mask.numpy(), mask.tolist(), [sorted(row) for row in rows]]
    chosen = list(range(len(rows)))[::-1]
    for one in given:
        found = places.mask(place_of(one), {}, lengths, chosen)
        assert found.tolist() == mask[chosen].tolist()
