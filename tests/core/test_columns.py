"""Whatever holds one value a row is read alike; what is no value is named with its row."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.errors import PairsError
from interp.core.prompts.columns import column, grid, id_rows, labels, shown, texts, unmasked, whole

COLUMNS: dict[str, Callable[[list], object]] = {
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "objects": lambda x: np.array(x, dtype=object),
    "series": lambda x: pd.Series(x, index=range(7, 7 + len(x))),
    "index": pd.Index,
    "iterator": iter,
}


@pytest.mark.parametrize("made", COLUMNS)
def test_every_column_reads_alike(made):
    assert column("x", COLUMNS[made]([3, 1, 2])) == [3, 1, 2]
    assert texts("x", COLUMNS[made](["a", "b"])) == ["a", "b"]
    assert all(type(text) is str for text in texts("x", COLUMNS[made](["a", "b"])))
    assert labels("x", COLUMNS[made]([3, 1])) == ("3", "1")
    for numbers in ([3, 1, 2], [3.0, 1.0, 2.0]):
        found = whole("x", COLUMNS[made](numbers))
        assert found.dtype == torch.int64
        assert found.tolist() == [3, 1, 2]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float32])
def test_tensors_are_columns_of_their_own(dtype):
    given = torch.tensor([3, 1], dtype=dtype)
    found = whole("x", given)
    assert (found.dtype, found.tolist()) == (torch.int64, [3, 1])
    given += 1
    assert found.tolist() == [3, 1]
    assert whole("x", [torch.tensor(3), torch.tensor(1)]).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([1, float("nan")], "nan in row 1"),
        ([1, 2, 2.5], "2.5 in row 2"),
        ([float("inf")], "inf in row 0"),
        ([True, False], "True in row 0"),
        ([1, "2"], "'2' in row 1"),
        ([None], "None in row 0"),
        ([10**30], "in row 0"),
        (np.array([1.0, np.nan]), "nan in row 1"),
        (pd.Series([1, None]), "nan in row 1"),
        (pd.Series([1, pd.NA], dtype="Int64"), "<NA> in row 1"),
        (torch.tensor([0.5]), "0.5 in row 0"),
        (torch.tensor([True]), "True in row 0"),
    ],
    ids=str,
)
def test_what_is_no_whole_number_is_named_with_its_row(values, what):
    with pytest.raises(PairsError, match=rf"position 's' is .*{what}, not a whole number.*nan"):
        whole("position 's'", values)


@pytest.mark.parametrize(
    "values", [3, None, "abc", b"abc", {"a": 1}, {1, 2}, np.zeros((2, 2)), torch.tensor(3)], ids=str
)
def test_what_is_no_column(values):
    for read in (column, texts, labels, whole):
        with pytest.raises(PairsError, match=r"^x is .*, not a column: give one value for each"):
            read("x", values)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT, np.nan], ids=str)
def test_an_empty_cell_is_no_text_and_no_label(missing):
    with pytest.raises(PairsError, match=r"clean is .* in row 1, not a text.*leave such rows out"):
        texts("clean", ["a", missing])
    with pytest.raises(PairsError, match=r"cluster is .* in row 1: rows without a cluster would"):
        labels("cluster", ["a", missing])


@pytest.mark.parametrize(
    "tokens",
    [
        [[1, 2], [3, 4]],
        ((1, 2), (3, 4)),
        np.array([[1, 2], [3, 4]]),
        torch.tensor([[1, 2], [3, 4]]),
        [np.array([1, 2]), torch.tensor([3.0, 4.0])],
        pd.DataFrame([[1, 2], [3, 4]], columns=["a", "b"]),
        pd.Series([[1, 2], [3, 4]]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_rows_of_ids_read_alike(tokens):
    assert id_rows("clean", tokens) == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("tokens", "what"),
    [
        ("The Mary", "clean is 'The Mary', not rows of token ids.*from_text takes texts"),
        (["The Mary"], "row 0 of clean is 'The Mary', not a list of token ids.*from_text"),
        ([1, 2, 3], r"row 0 of clean is 1, not a list.*Of one prompt, give \[ids\]"),
        (torch.tensor([1, 2]), r"clean is a Tensor of shape \(2,\), not rows.*\[ids\]"),
        (torch.zeros(1, 2, 3), r"clean is a Tensor of shape \(1, 2, 3\), not rows"),
        (7, "clean is 7, not rows"),
        (torch.tensor([[1.0, 2.5]]), "row 0 of clean is 2.5 in token 1, not a whole number"),
        ([[1], [2, "x"]], "row 1 of clean is 'x' in token 1, not a whole number"),
        ([[10**30]], "row 0 of clean is .* in token 0, not a whole number"),
    ],
    ids=str,
)
def test_what_is_no_row_of_ids(tokens, what):
    with pytest.raises(PairsError, match=what):
        id_rows("clean", tokens)


def test_a_mask_is_of_ones():
    assert unmasked([[5, 6, 7]], grid("mask", np.array([[0, 1, 1]]))) == ([1], [[6, 7]])
    with pytest.raises(PairsError, match=r"mask of row 0 has 2; it is 1 where a token is"):
        unmasked([[5, 6, 7]], [[2, 1, 1]])


def test_a_value_is_shown_in_a_line():
    assert shown(3) == "3"
    assert shown(np.zeros((2, 3))) == "a ndarray of shape (2, 3)"
    assert shown("x" * 500).startswith("a str 'xxxx")
    assert len(shown("x" * 500)) < 70
