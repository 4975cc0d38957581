"""One number against another of the same thing, such as an estimate and what it estimates."""

from typing import Literal, cast

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy
from numpy import ndarray
from scipy import stats

from interp.core.errors import ResultsError
from interp.figures.curves import MARKERS, MOST
from interp.figures.drawing import style
from interp.figures.drawing.given import figure_door, require

Line = Literal["none", "fit", "identity"]
TICKED, NAMED = -15.0, -28.0
"""Points from a panel's foot down to its legend: room for tick labels, and for the axis' name."""
FEWEST = 3
"""Points of which a rank correlation says anything: two have one of 1 or -1."""


@figure_door
def scatter(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    hue: str | None = None,
    panel: str | None = None,
    line: Line = "fit",
    own_scale: bool = False,
    xlabel: str | None = None,
    ylabel: str | None = None,
    title: str | None = None,
) -> Figure:
    """A dot for each row, with the rank correlation (Spearman) of each group in the legend.

    Groups are those of `hue` in a panel: a correlation over unlike groups together would be that of
    their means. A row without one of its numbers was not measured and is left out; the legend says
    how many are drawn.

    Args:
        table: the columns named here.
        x, y: columns of numbers.
        hue: a column with a colour for each of its values.
        panel: a column with a panel for each of its values, three side by side.
        line: `"fit"`: least squares through each group, where x varies; `"identity"`: y = x, for an
            estimate beside what it estimates.
        own_scale: whether each panel has axes of its own.
        xlabel, ylabel: the columns' names by default.
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: a column is absent or holds no numbers, an infinite number, or no row has both
            numbers.
    """
    drawn = _drawn(table, x, y, [c for c in (panel, hue) if c is not None])
    names = list(dict.fromkeys(drawn[panel])) if panel is not None else [None]
    hues = list(dict.fromkeys(drawn[hue])) if hue is not None else [None]
    wide = min(len(names), MOST)
    deep = -(-len(names) // wide)
    legend = 0.13 * (1 + len(hues))
    with style.context():
        figure = style.blank(0.5 + (2.9 - 0.5 * wide + legend) * deep)
        grid = figure.subplots(
            deep, wide, sharex=not own_scale, sharey=not own_scale, squeeze=False
        ).flatten()
        for axes in grid[len(names) :]:
            axes.set_axis_off()
        for i, (axes, name) in enumerate(zip(grid, names, strict=False)):
            here = drawn if panel is None else drawn[drawn[panel] == name]
            for j, group in enumerate(hues):
                part = here if hue is None else here[here[hue] == group]
                if len(part):
                    _dots(axes, cast(pd.DataFrame, part), x, y, j, group, line)
            if line == "identity":
                axes.axline((0, 0), slope=1, color=style.FAINT, linewidth=0.8, zorder=1)
            if name is not None:
                axes.set_title(str(name), fontsize=8)
            lowest = i + wide >= len(names)
            if lowest:
                axes.set_xlabel(x if xlabel is None else xlabel)
            axes.tick_params(labelbottom=True)  # shared or not: a legend stands below each panel
            axes.xaxis.set_major_locator(MaxNLocator(3 if wide == MOST else 6))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color="0.94", linewidth=0.5)
            axes.set_axisbelow(True)
            foot = offset_copy(
                axes.transAxes, figure, y=NAMED if lowest else TICKED, units="points"
            )
            axes.legend(
                loc="upper center",
                bbox_to_anchor=(0.5, 0),
                bbox_transform=foot,
                borderaxespad=0,
                handlelength=1,
                handletextpad=0.3,
            )
        if deep > 1:
            figure.supylabel(y if ylabel is None else ylabel, fontsize=8)
        else:
            grid[0].set_ylabel(y if ylabel is None else ylabel)
        if title:
            figure.suptitle(title, fontsize=9)
    return figure


def rank_correlation(x: Float[ndarray, " n"], y: Float[ndarray, " n"]) -> float:
    """Spearman's, ties at their mean rank; NaN of fewer than three points or where one is constant.

    Two rows of equal numbers have no order, so nothing can be said of it.
    """
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)


def _dots(axes: Axes, part: pd.DataFrame, x: str, y: str, i: int, name: object, line: Line) -> None:
    """One group's dots, its line, and what the legend says of it."""
    across, up = (part[c].to_numpy(dtype=float) for c in (x, y))
    rho = rank_correlation(across, up)
    said = f"n = {len(part)}, " + (
        r"$\rho$ undefined" if np.isnan(rho) else rf"$\rho$ = ${rho:.2f}$"
    )
    label = said if name is None else f"{name}: {said}"
    look = {"color": style.colour(i), "marker": MARKERS[i % len(MARKERS)]}
    axes.scatter(across, up, s=9, alpha=0.7, linewidth=0, label=label, **look)
    if line == "fit" and np.ptp(across) > 0:
        slope, intercept = np.polyfit(across, up, 1)
        ends = np.array([across.min(), across.max()])
        axes.plot(ends, intercept + slope * ends, color=look["color"], linewidth=0.8)


def _drawn(table: pd.DataFrame, x: str, y: str, names: list[str]) -> pd.DataFrame:
    """The rows that have both numbers."""
    remedy = "Name columns of the table, two of them of numbers."
    require(table, "a scatter figure", finite=[x, y], names=names, remedy=remedy)
    drawn = table[table[x].notna() & table[y].notna()]
    if drawn.empty:
        raise ResultsError(f"none of the {len(table)} rows has both {x} and {y}, so none is drawn.")
    return drawn
