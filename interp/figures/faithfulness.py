"""How much of the behaviour circuits carry, against their size, beside random circuits."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from interp.core.errors import ResultsError
from interp.figures.curves import MARKERS, NUMBERS
from interp.figures.drawing import style
from interp.figures.drawing.given import figure_door, require

COLUMNS = ["method", "fraction", *NUMBERS]
WIDE = 6
"""Ticks that fit below the panel."""


@figure_door
def faithfulness(
    table: pd.DataFrame,
    *,
    band: str = "random",
    xlabel: str = "edges kept (% of the model's)",
    ylabel: str = "normalised faithfulness",
    title: str | None = None,
) -> Figure:
    """A line for each method over the share of edges that is kept, with its interval.

    Lines at 0 and 1: everything ablated, and the whole model. A circuit without what works against
    the behaviour lies above 1.

    Args:
        table: `method`, `fraction` (of the edges; the axis is logarithmic), `value`, `low`, `high`
            (NaN: no interval).
        band: the method that is drawn in grey behind the others, such as the range of random
            circuits around their mean. It may be absent.
        xlabel: of circuits of nodes another one.
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: a column is absent, a method has a size twice, or a fraction outside 0 to 1.
    """
    _accept(table)
    methods = [name for name in dict.fromkeys(table["method"]) if name != band]
    with style.context():
        figure = style.blank(2.7)
        axes = figure.subplots()
        for level in (0, 1):
            axes.axhline(level, color=style.FAINT, linewidth=0.6, zorder=0)
        for name in [band, *methods]:
            part = table[table["method"] == name].sort_values("fraction")
            if part.empty:
                continue
            x, (value, low, high) = part["fraction"], (part[c] for c in NUMBERS)
            grey = name == band
            i = 0 if grey else methods.index(name)
            colour = "0.5" if grey else style.colour(i)
            axes.fill_between(x, low, high, color=colour, alpha=0.3 if grey else 0.2, linewidth=0)
            look = {"color": colour, "marker": "" if grey else MARKERS[i % len(MARKERS)]}
            look |= {"linestyle": "--" if grey else "-", "linewidth": 1, "markersize": 3}
            axes.plot(x, value, label=str(name), **look)
        axes.set_xscale("log")
        sizes = np.unique(table["fraction"])
        ticks = sizes[:: -(-len(sizes) // WIDE)] if len(sizes) > 2 * WIDE else sizes
        axes.set_xticks(ticks, [f"{100 * tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(axis="y", color="0.92", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        names = [*methods, band]
        figure.legend(loc="outside upper center", ncols=style.columns(names))
        if title:
            axes.set_title(title)
    return figure


def _accept(table: pd.DataFrame) -> None:
    remedy = f"It draws the columns {', '.join(COLUMNS)}."
    what = "a figure of faithfulness"
    require(table, what, numbers=["fraction", *NUMBERS], names=["method"], remedy=remedy)
    twice = table[table.duplicated(["method", "fraction"])]
    if len(twice):
        row = twice.iloc[0]
        raise ResultsError(
            f"{row['method']} has several rows at fraction {row['fraction']:g}; choose one metric "
            "and one split first."
        )
    odd = table.loc[~table["fraction"].between(0, 1, inclusive="right"), "fraction"]
    if len(odd):
        raise ResultsError(
            f"a fraction of {odd.iloc[0]:g} of the edges cannot be drawn: the axis is logarithmic, "
            "so it goes above 0, up to 1."
        )
