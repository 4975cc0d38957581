"""Curves over layers: every number drawn is one of the table; controls look like controls."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from interp.core.errors import ResultsError
from interp.figures.beside import beside
from interp.figures.drawing import style
from interp.figures.layers import layers


def test_of_effects_the_effect_is_drawn_which_the_interval_is_of():
    table = pd.DataFrame({"depth": [0, 1], "layer": [0, 0], "name": "a"})
    table = table.assign(base=[5.0, 5.0], value=[4.0, 3.0], effect=[-1.0, -2.0])
    table = table.assign(low=table["effect"] - 0.5, high=table["effect"] + 0.5)
    (line,) = layers(table, hue="name").axes[0].lines
    assert line.get_xydata().tolist() == [[0, -1], [1, -2]]
    looked = table.assign(base=np.nan, effect=np.nan, low=2.5, high=4.5)
    (line,) = layers(looked, hue="name").axes[0].lines
    assert line.get_xydata().tolist() == [[0, 4], [1, 3]]


def made() -> pd.DataFrame:
    rows = [
        {"subset": subset, "probe": probe, "layer": layer, "value": value}
        for subset, probe, values in (
            ("all", "linear", [0.5, 0.8, 0.7]),
            ("all", "mlp", [0.6, 0.9, 0.4]),
            ("unseen", "mlp", [0.2, 0.3, 0.1]),
        )
        for layer, value in zip((4, 0, 2), values, strict=True)
    ]
    table = pd.DataFrame(rows)
    return table.assign(low=table["value"] - 0.1, high=table["value"] + 0.15)


LEVELS = pd.DataFrame(
    [
        {"subset": "all", "probe": "majority", "value": 0.3, "low": 0.25, "high": 0.35},
        {"subset": "unseen", "probe": "majority", "value": 0.15, "low": np.nan, "high": np.nan},
    ]
)


def drawn(axes, name):
    (line,) = (line for line in axes.lines if line.get_label() == name)
    return line


def test_curves_bands_and_levels_are_the_table(clipped):
    table = made()
    figure = layers(table, hue="probe", panel="subset", baselines=LEVELS, title="Tags")
    left, right = figure.axes
    for axes, subset, names in ((left, "all", ["linear", "mlp"]), (right, "unseen", ["mlp"])):
        assert axes.get_title() == subset and axes.get_xlabel() == "layer"
        for name, band in zip(names, axes.collections, strict=False):
            part = table[(table["probe"] == name) & (table["subset"] == subset)]
            part = part.sort_values("layer")
            line = drawn(axes, name)
            np.testing.assert_array_equal(line.get_xdata(), part["layer"])
            np.testing.assert_array_equal(line.get_ydata(), part["value"])
            corners = band.get_paths()[0].vertices
            assert {(x, y) for x, y in corners} >= set(
                zip(part["layer"], part["low"], strict=True)
            ) | set(zip(part["layer"], part["high"], strict=True))
        level = LEVELS[LEVELS["subset"] == subset]["value"].iloc[0]
        assert set(drawn(axes, "majority").get_ydata()) == {level}
    assert len(left.patches) == 1 and not right.patches  # an interval where there is one
    # a curve has the same colour and mark in each panel, though one panel lacks another curve
    assert drawn(left, "mlp").get_color() == drawn(right, "mlp").get_color() == style.colour(1)
    assert drawn(left, "mlp").get_marker() == drawn(right, "mlp").get_marker()
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["linear", "mlp", "majority"]
    assert left.get_ylabel() == "accuracy" and clipped(figure) == []


def test_rows_without_a_layer_are_left_out():
    table = pd.concat([made().query("subset == 'all'"), LEVELS.iloc[:1]], ignore_index=True)
    (axes,) = layers(table, hue="probe").axes
    assert {line.get_label() for line in axes.lines} == {"linear", "mlp"}


def test_a_control_is_a_pale_dashed_line_of_its_curves_colour():
    table = made().query("subset == 'all'").assign(of="")
    control = table.query("probe == 'mlp'").assign(probe="mlp, control", of="mlp")
    table = pd.concat([table, control.assign(value=control["value"] / 2)], ignore_index=True)
    (axes,) = beside(table, panel="subset", hue="probe", control="of").axes
    line, own = drawn(axes, "mlp, control"), drawn(axes, "mlp")
    np.testing.assert_array_equal(line.get_ydata(), [0.45, 0.2, 0.3])
    assert line.get_linestyle() == "--" and own.get_linestyle() == "-"
    assert line.get_marker() == "None"
    np.testing.assert_allclose(to_rgb(line.get_color()), (1 + np.array(style.colour(1))) / 2)
    assert len(axes.collections) == 2  # bands of the curves alone
    ends = [one.get_ydata() for one in axes.lines if one.get_color() == line.get_color()]
    np.testing.assert_array_equal(ends[0], control.sort_values("layer")["low"])
    np.testing.assert_array_equal(ends[1], control.sort_values("layer")["high"])


def test_refusals():
    table = made()
    with pytest.raises(ResultsError, match=r"needs the columns \['low'\], .*See Scores.summary"):
        layers(table.drop(columns="low"), hue="probe")
    with pytest.raises(ResultsError, match="needs at least one row"):
        layers(table.assign(layer=np.nan), hue="probe")
    with pytest.raises(ResultsError, match="'mlp' has layer 4 twice; choose one set of rows"):
        layers(table, hue="probe")
    layers(table, hue="probe", panel="subset")
