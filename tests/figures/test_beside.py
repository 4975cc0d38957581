"""Panels over layers: every number drawn is one of the table."""

import numpy as np
import pandas as pd
import pytest

from interp.core.errors import ResultsError
from interp.figures.beside import beside


def made() -> pd.DataFrame:
    rows = [
        {"panel": panel, "curve": curve, "layer": layer, "value": value}
        for panel, curve, values in (
            ("decodable", "probe", [0.5, 0.8, 0.7]),
            ("decodable", "shuffled", [0.5, 0.4, 0.6]),
            ("used", "erased", [0.0, 3.0, 12.0]),
        )
        for layer, value in zip((4, 0, 2), values, strict=True)
    ]
    table = pd.DataFrame(rows)
    return table.assign(low=table["value"] - 0.1, high=table["value"] + 0.1)


LEVEL = pd.DataFrame([{"panel": "decodable", "curve": "head match", "value": 0.65}])


def test_each_panel_has_its_own_curves_axis_and_legend(clipped):
    table = made()
    figure = beside(
        table, panel="panel", hue="curve", baselines=LEVEL, ylabels={"used": "share"}, title="Who"
    )
    above, below = figure.axes
    for axes, names in ((above, ["probe", "shuffled", "head match"]), (below, ["erased"])):
        legend = axes.get_legend()
        assert legend and [t.get_text() for t in legend.get_texts()] == names
        for line in axes.lines[: len(names) - (axes is above)]:
            part = table[table["curve"] == line.get_label()].sort_values("layer")
            np.testing.assert_array_equal(line.get_xdata(), part["layer"])
            np.testing.assert_array_equal(line.get_ydata(), part["value"])
    assert set(above.lines[2].get_ydata()) == {0.65}
    assert above.get_ylim()[1] < 1 < below.get_ylim()[1]
    assert [axes.get_ylabel() for axes in figure.axes] == ["decodable", "share"]
    assert below.get_xlabel() == "layer" and clipped(figure) == []


def test_refusals():
    table = made()
    with pytest.raises(ResultsError, match=r"needs the columns \['low'\], .*See Scores.summary"):
        beside(table.drop(columns="low"), panel="panel", hue="curve")
    with pytest.raises(ResultsError, match="needs at least one row"):
        beside(table.iloc[:0], panel="panel", hue="curve")
    with pytest.raises(ResultsError, match="'probe' of panel 'decodable' has layer 4 twice"):
        beside(pd.concat([table, table.iloc[:1]]), panel="panel", hue="curve")
