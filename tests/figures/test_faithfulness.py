"""Faithfulness against size: the numbers of the table, the random ones behind."""

import numpy as np
import pandas as pd
import pytest

from interp.core.errors import ResultsError
from interp.figures.faithfulness import faithfulness

SIZES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]


def made() -> pd.DataFrame:
    rows = []
    for i, method in enumerate(("random", "eap", "eap-ig-inputs")):
        for k in reversed(SIZES):
            value = k ** (1 - 0.4 * i) * (1 + 0.3 * i)
            rows.append({"method": method, "fraction": k, "value": value})
    table = pd.DataFrame(rows)
    return table.assign(low=table["value"] - 0.1, high=table["value"] + 0.15)


def test_numbers_of_the_table(clipped):
    table = made()
    figure = faithfulness(table, title="IOI")
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert set(lines) == {"random", "eap", "eap-ig-inputs"}
    for name, line in lines.items():
        part = table[table["method"] == name].sort_values("fraction")
        np.testing.assert_array_equal(line.get_xdata(), part["fraction"])
        np.testing.assert_array_equal(line.get_ydata(), part["value"])
    assert len(axes.collections) == 3
    assert lines["random"].get_linestyle() == "--"
    assert lines["eap"].get_color() != lines["eap-ig-inputs"].get_color()
    ticks = [t.get_text() for t in axes.get_xticklabels()]
    assert ticks == ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50", "100"]
    levels = [line.get_ydata()[0] for line in axes.lines if line.get_label().startswith("_")]
    assert levels == [0, 1]
    assert clipped(figure) == []
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(axes.title.get_window_extent())


def test_without_random_circuits_and_intervals(clipped):
    table = made().query("method == 'eap'").assign(low=np.nan, high=np.nan)
    figure = faithfulness(table, xlabel="nodes kept (%)", ylabel="accuracy")
    assert figure.axes[0].get_ylabel() == "accuracy"
    assert figure.axes[0].get_xlabel() == "nodes kept (%)"
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["eap"]
    assert clipped(figure) == []


def test_refusals():
    table = made()
    with pytest.raises(ResultsError, match=r"needs the columns \['low'\]"):
        faithfulness(table.drop(columns="low"))
    with pytest.raises(ResultsError, match="needs at least one row"):
        faithfulness(table.iloc[:0])
    with pytest.raises(ResultsError, match="random has several rows at fraction 1; choose one"):
        faithfulness(pd.concat([table, table.iloc[:1]]))
    with pytest.raises(ResultsError, match="a fraction of 40 of the edges cannot be drawn"):
        faithfulness(table.assign(fraction=table["fraction"] * 40))
