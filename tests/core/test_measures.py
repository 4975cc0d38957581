"""Measures: z, p and q of one family, grids, and the way through a file."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from interp.core.errors import ResultsError
from interp.core.tables.measures import COLUMNS, Measures
from interp.core.tables.results import Results
from interp.core.tables.table import open_table


def table(**columns):
    cells = pd.DataFrame(
        {
            "measure": "copying",
            "site": ["0.0", "0.1", "1.0", "embed"],
            "layer": pd.array([0, 0, 1, None], dtype="Int16"),
            "head": pd.array([0, 1, 0, None], dtype="Int16"),
            **columns,
        }
    )
    return Measures.of(
        cells,
        provenance={"model": "tiny"},
        value=np.array([3.0, -1.0, 1.0, 9.0]),
        null=np.array([1.0, 1.0, 1.0, np.nan]),
        null_sd=np.array([1.0, 0.5, 0.0, np.nan]),
    )


def test_z_p_and_q():
    frame = table().frame
    assert list(frame.columns) == COLUMNS
    assert frame["z"].tolist()[:2] == [2.0, -4.0]
    # what does not vary, and what has no null, is not tested
    assert frame.loc[2:, ["z", "p", "q"]].isna().all().all()
    p = 2 * stats.norm.sf([2, 4])
    assert frame["p"].tolist()[:2] == pytest.approx(p)
    assert frame["q"].tolist()[:2] == pytest.approx(stats.false_discovery_control(p))
    assert frame["other"].eq("").all()


def test_p_of_another_distribution():
    cells = pd.DataFrame({"measure": "x", "site": ["a", "b"]})
    found = Measures.of(
        cells,
        provenance={},
        value=np.array([1.0, 2.0]),
        null=0.0,
        null_sd=np.array([1.0, 0.0]),
        p=np.array([0.25, 0.5]),
    ).frame
    assert found["p"].iloc[0] == 0.25 and np.isnan(found["p"].iloc[1])
    assert found["layer"].isna().all()


def test_own_columns_stand_behind():
    assert list(table(token=1).frame.columns) == [*COLUMNS, "token"]


def test_top_and_grid():
    found = table()
    assert found.top(2)["site"].tolist() == ["0.1", "0.0"]
    assert found.top(1, by="value")["site"].tolist() == ["embed"]
    assert found.query("z != z").top(1)["site"].tolist() == ["embed"]
    grid = found.query("site != 'embed'").grid()
    assert np.array_equal(grid, [[3.0, -1.0], [1.0, np.nan]], equal_nan=True)
    with pytest.raises(ResultsError, match="head 0.0 has several rows; choose one"):
        Measures.concat([found, found]).query("site != 'embed'").grid()
    with pytest.raises(ResultsError, match="rows of heads"):
        found.query("site == 'embed'").grid()
    with pytest.raises(ResultsError, match="no numbers called 'size'"):
        found.top(by="size")


def test_through_a_file(tmp_path):
    found = table()
    path = found.save(tmp_path / "measures.parquet")
    read = Measures.load(path)
    assert read.frame.equals(found.frame) and read.provenance == found.provenance
    assert isinstance(open_table(path), Measures)
    with pytest.raises(ResultsError, match="holds Measures"):
        Results.load(path)
    assert "0.0" in repr(read) and "4 rows" in read._repr_html_()


def test_columns_are_needed():
    with pytest.raises(ResultsError, match="'null_sd'.* absent"):
        Measures(table().frame.drop(columns="null_sd"), {})
