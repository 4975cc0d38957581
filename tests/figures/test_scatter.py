"""Dots of two numbers: all of them are the table's, and the legend's correlation is theirs."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from interp.core.errors import ResultsError
from interp.figures.drawing import style
from interp.figures.scatter import rank_correlation, scatter

NAN = float("nan")


def made(panels=("query", "key"), n=7) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"reader": reader, "seed": f"seed {seed}", "a": a, "b": scale * a + rng.normal()}
            for reader, scale in zip(panels, range(len(panels)), strict=True)
            for seed in range(2)
            for a in rng.random(n + seed)
        ]
    )


def by_hand(x, y) -> float:
    """Spearman's without ties: 1 - 6 sum d^2 / (n (n^2 - 1))."""
    d = np.argsort(np.argsort(x)) - np.argsort(np.argsort(y))
    return 1 - 6 * (d**2).sum() / (len(x) * (len(x) ** 2 - 1))


def texts(axes) -> list[str]:
    return [t.get_text() for t in axes.get_legend().get_texts()]


@pytest.mark.parametrize("own_scale", [False, True])
def test_dots_lines_and_correlations_are_of_each_group(clipped, own_scale):
    table = made()
    figure = scatter(
        table,
        **{"x": "a", "y": "b", "hue": "seed", "panel": "reader"},
        own_scale=own_scale,
        xlabel="composition",
        ylabel="effect",
        title="One beside the other",
    )
    assert [axes.get_title() for axes in figure.axes] == ["query", "key"]
    for axes in figure.axes:
        assert len(axes.collections) == len(axes.lines) == len(texts(axes)) == 2
        for i, (dots, line, said) in enumerate(
            zip(axes.collections, axes.lines, texts(axes), strict=True)
        ):
            part = table.query(f"reader == '{axes.get_title()}' and seed == 'seed {i}'")
            np.testing.assert_array_equal(dots.get_offsets(), part[["a", "b"]])
            rho = by_hand(part["a"], part["b"])
            assert said == rf"seed {i}: n = {7 + i}, $\rho$ = ${rho:.2f}$"
            # least squares: residuals have no mean, and no slope
            ends, at = line.get_xdata(), line.get_ydata()
            assert list(ends) == [part["a"].min(), part["a"].max()]
            rest = part["b"] - np.interp(part["a"], ends, at)
            assert abs(rest.sum()) < 1e-9 and abs((rest * part["a"]).sum()) < 1e-9
            assert to_rgb(line.get_color()) == pytest.approx(style.colour(i))
    left, right = figure.axes
    assert (left.get_ylim() == right.get_ylim()) is not own_scale
    assert left.get_xlabel() == "composition" and left.get_ylabel() == "effect"
    assert clipped(figure) == []


def test_one_group_and_the_line_of_equal_numbers(clipped):
    table = made(panels=("key",))
    figure = scatter(table, x="a", y="b", line="identity")
    (axes,) = figure.axes
    (line,) = axes.lines
    assert line.get_slope() == 1 and line.get_xy1() == (0, 0)
    rho = by_hand(table["a"], table["b"])
    assert texts(axes) == [rf"n = 15, $\rho$ = ${rho:.2f}$"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("a", "b")
    assert clipped(figure) == []
    assert not scatter(table, x="a", y="b", line="none").axes[0].lines


def test_many_panels_and_a_group_that_a_panel_has_not(clipped):
    table = made(panels=("query", "key", "value", "all of them"))
    table = table[(table["reader"] != "key") | (table["seed"] != "seed 0")]
    figure = scatter(table, x="a", y="b", hue="seed", panel="reader")
    shown = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown] == ["query", "key", "value", "all of them"]
    assert [len(axes.collections) for axes in shown] == [2, 1, 2, 2]
    alone = shown[1].collections[0].get_facecolor()[0][:3]
    assert alone == pytest.approx(style.colour(1))  # seed 1 keeps its colour
    assert clipped(figure) == []


def test_what_was_not_measured_is_left_out_and_not_counted():
    table = made(panels=("key",), n=5).assign(seed="one")
    table.loc[0, "a"], table.loc[1, "b"] = NAN, NAN
    (axes,) = scatter(table, x="a", y="b", hue="seed").axes
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), table.loc[2:, ["a", "b"]])
    assert texts(axes)[0].startswith("one: n = 9, ")


def test_no_order_no_correlation():
    assert rank_correlation(np.array([1.0, 2, 9]), np.array([0.0, 5, 6])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 2]), np.array([3.0, 1, 1])) == pytest.approx(-1)
    for x, y in (([1.0, 2], [3.0, 4]), ([1.0, 1, 1], [1.0, 2, 3]), ([1.0, 2, 3], [0.0, 0, 0])):
        assert np.isnan(rank_correlation(np.array(x), np.array(y)))
    level = pd.DataFrame({"a": [1.0, 1, 1], "b": [1.0, 2, 3]})
    (axes,) = scatter(level, x="a", y="b").axes
    assert texts(axes) == [r"n = 3, $\rho$ undefined"] and not axes.lines


def test_refusals():
    table = made()
    with pytest.raises(ResultsError, match=r"needs the columns \['c', 'who'\], and the table has"):
        scatter(table, x="a", y="c", hue="who")
    with pytest.raises(ResultsError, match="seed holds .* and not numbers; draw names with"):
        scatter(table, x="seed", y="b")
    with pytest.raises(ResultsError, match="b has infinite numbers, which no axis has"):
        scatter(table.assign(b=np.inf), x="a", y="b")
    with pytest.raises(ResultsError, match="none of the 30 rows has both a and b"):
        scatter(table.assign(b=NAN), x="a", y="b")
    with pytest.raises(ResultsError, match="needs at least one row"):
        scatter(table.iloc[:0], x="a", y="b")
