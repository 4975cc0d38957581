"""Curves along any axis: every number drawn is one of the table."""

import numpy as np
import pandas as pd
import pytest

from interp.core.errors import ResultsError
from interp.figures.curves import curves

LENGTHS = (64, 16, 256)


def made(x=LENGTHS) -> pd.DataFrame:
    rows = [
        {"x": at, "of": of, "panel": panel, "value": scale * (i + 1)}
        for panel, scale in (("FLOPs", 1e6), ("seconds", 1e-3))
        for of in ("attention", "LSTM")
        for i, at in enumerate(x)
        if (panel, of) != ("seconds", "LSTM")
    ]
    table = pd.DataFrame(rows)
    return table.assign(low=0.9 * table["value"], high=1.1 * table["value"])


@pytest.mark.parametrize("log", ["none", "x", "y", "both"])
def test_curves_of_numbers(clipped, log):
    table = made()
    names = {"FLOPs": "counted", "seconds": "s"}
    figure = curves(table, x="x", hue="of", panel="panel", log=log, xlabel="tokens", ylabel=names)
    assert [axes.get_ylabel() for axes in figure.axes] == ["counted", "s"]
    for axes, n in zip(figure.axes, (2, 1), strict=True):
        assert len(axes.lines) == n
        assert axes.get_xscale() == ("log" if log in ("x", "both") else "linear")
        assert axes.get_yscale() == ("log" if log in ("y", "both") else "linear")
        for line in axes.lines:
            part = table[(table["panel"] == axes.get_title()) & (table["of"] == line.get_label())]
            part = part.sort_values("x")
            np.testing.assert_array_equal(line.get_xdata(), part["x"])
            np.testing.assert_array_equal(line.get_ydata(), part["value"])
        assert axes.get_xlabel() == "tokens"
    left, right = (axes.lines[0] for axes in figure.axes)
    assert left.get_color() == right.get_color()
    if log != "none":
        ticks = [t.get_text() for t in figure.axes[0].get_xticklabels()]
        assert log == "y" or ticks == ["16", "64", "256"]
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["attention", "LSTM"]
    assert clipped(figure) == []


def test_dots_at_names_and_an_exact_zero(clipped):
    """More panels than stand side by side; a name that a panel has not keeps its place."""
    rows = [
        {"x": scheme, "of": of, "panel": panel, "value": value}
        for panel in ("permuted", "shifted", "future", "past")
        for of in ("mask", "none")
        for scheme, value in (("learned", 0.7), ("rotary", 1e-15), ("none", 0.0))
        if (panel, scheme) != ("past", "rotary")
    ]
    table = pd.DataFrame(rows)
    table = table.assign(low=table["value"], high=table["value"] * 1.1)
    figure = curves(table, x="x", hue="of", panel="panel", log="y", ylabel="violation")
    drawn = figure.axes[:4]
    assert [axes.get_title() for axes in drawn] == ["permuted", "shifted", "future", "past"]
    for axes in drawn:
        assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1] and axes.get_yticks()[0] == 0
        for line, shift in zip(axes.lines, (-0.15, 0.15), strict=True):
            part = table[(table["panel"] == axes.get_title()) & (table["of"] == line.get_label())]
            places = part["x"].map({"learned": 0, "rotary": 1, "none": 2}) + shift
            found = dict(zip(np.round(line.get_xdata(), 9), line.get_ydata(), strict=True))
            assert found == dict(zip(np.round(places, 9), part["value"], strict=True))
    assert [t.get_text() for t in figure.axes[3].get_xticklabels()] == ["learned", "rotary", "none"]
    assert clipped(figure) == []


def test_refusals():
    table = made()
    ask = {"x": "x", "hue": "of", "panel": "panel"}
    with pytest.raises(ResultsError, match=r"needs the columns \['low'\], .*See Scores.summary"):
        curves(table.drop(columns="low"), **ask)
    with pytest.raises(ResultsError, match="needs at least one row"):
        curves(table.iloc[:0], **ask)
    with pytest.raises(ResultsError, match="panel FLOPs, of attention, x 64 has several rows"):
        curves(pd.concat([table, table.iloc[:1]]), **ask)
    with pytest.raises(ResultsError, match=r"value goes down to -3e\+06, .* takes numbers >= 0"):
        curves(table.assign(value=-table["value"]), log="y", **ask)
    with pytest.raises(ResultsError, match=r"x goes down to 0, .* takes numbers > 0"):
        curves(made((0, 1, 2)), log="both", **ask)
