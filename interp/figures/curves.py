"""Numbers along an axis that is no layer: lengths, temperatures, or names side by side."""

from collections.abc import Mapping
from typing import Literal, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interp.core.errors import ResultsError
from interp.figures.drawing import style
from interp.figures.drawing.given import figure_door, require

NUMBERS = ["value", "low", "high"]
MARKERS = "osD^vPX*"
MOST = 3
"""Panels side by side; more go on below."""
Log = Literal["none", "x", "y", "both"]


@figure_door
def curves(
    table: pd.DataFrame,
    *,
    x: str,
    hue: str,
    panel: str | None = None,
    log: Log = "none",
    xlabel: str | None = None,
    ylabel: str | Mapping[str, str] = "value",
    title: str | None = None,
) -> Figure:
    """A curve along `x` for each value of `hue`, with its interval; dots where `x` is text.

    Args:
        table: `value`, `low`, `high` (NaN: no interval), and the columns named here.
        x: a column of numbers, or of names, which stand in the order of the table.
        panel: a column with a panel for each of its values, three side by side.
        log: which axes are logarithmic. An exact 0 of a logarithmic y is drawn at its foot, on a
            tick of its own.
        xlabel: the column's name by default.
        ylabel: what the value is, with its unit; of each panel by name where they differ, and then
            each panel has a y axis of its own.
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: a column or every row is absent, a curve has a place twice, or a number that
            no logarithmic axis has.
    """
    _accept(table, x, hue, panel, log)
    panels = list(dict.fromkeys(table[panel])) if panel is not None else [None]
    own = not isinstance(ylabel, str)
    if own and (lost := [name for name in map(str, panels) if name not in ylabel]):
        raise ResultsError(
            f"ylabel has no text for panel {lost[0]!r}; give one for each of "
            f"{', '.join(map(repr, map(str, panels)))}, or one text for all."
        )
    wide = min(len(panels), MOST)
    deep = -(-len(panels) // wide)
    words = not pd.api.types.is_numeric_dtype(table[x])
    with style.context():
        figure = style.blank(0.7 + 1.6 * deep + 0.4 * words)
        grid = figure.subplots(deep, wide, sharex=True, sharey=not own, squeeze=False).flatten()
        for axes in grid[len(panels) :]:  # an empty place only names what stands above it
            axes.spines[:].set_visible(False)
            axes.tick_params(left=False, bottom=False, labelleft=False)
        for i, (axes, name) in enumerate(zip(grid, panels, strict=False)):
            here = table if panel is None else table[table[panel] == name]
            _draw(axes, cast(pd.DataFrame, here), table, x, hue)
            if log in ("x", "both"):
                _log_x(axes, table[x].to_numpy(dtype=float), most=8 if wide < MOST else 4)
            if log in ("y", "both"):
                _log_y(axes, (here if own else table)["value"].to_numpy(dtype=float))
            if name is not None:
                axes.set_title(str(name), fontsize=8)
            if not isinstance(ylabel, str):
                axes.set_ylabel(ylabel[str(name)])
            elif deep == 1 and i == 0:
                axes.set_ylabel(ylabel)
        for axes in grid[-wide:]:
            axes.set_xlabel(x if xlabel is None else xlabel)
            if words:
                names = [str(name) for name in dict.fromkeys(table[x])]
                axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
                axes.set_xlim(-0.5, len(names) - 0.5)
        if deep > 1 and isinstance(ylabel, str):
            figure.supylabel(ylabel, fontsize=8)
        handles: dict[str, object] = {}
        for axes in grid[: len(panels)]:
            handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=style.columns(list(handles)),
        )
        if title:
            figure.suptitle(title, fontsize=9)
    return figure


def _accept(table: pd.DataFrame, x: str, hue: str, panel: str | None, log: Log) -> None:
    keys = [*([panel] if panel is not None else []), hue, x]
    remedy = "See Scores.summary(), which makes such tables."
    require(table, "a figure of curves", numbers=NUMBERS, names=keys, remedy=remedy)
    if pd.api.types.is_numeric_dtype(table[x]):
        require(table, "a figure of curves", finite=[x], remedy=remedy)
    elif log in ("x", "both"):
        raise ResultsError(
            f"{x} holds names, such as {table[x].iloc[0]!r}, which no logarithmic axis has; draw "
            "it with another log=, or give a column of numbers."
        )
    twice = table.duplicated(keys)
    if twice.any():
        row = table[twice].iloc[0]
        place = ", ".join(f"{key} {row[key]}" for key in keys)
        raise ResultsError(
            f"{place} has several rows; choose one set first, such as "
            "scores.query(\"subset == 'all'\")"
        )
    for axis, column, least in (("x", x, ">"), ("y", "value", ">=")):
        if log not in (axis, "both"):
            continue
        given = table[column].to_numpy(dtype=float, na_value=np.nan)
        if (given < 0).any() or (least == ">" and (given == 0).any()):
            raise ResultsError(
                f"{column} goes down to {given.min():g}, and a logarithmic axis takes numbers "
                f"{least} 0; draw it with another log="
            )


def _log_x(axes: Axes, values: np.ndarray, *, most: int) -> None:
    """Ticks at numbers of the table."""
    axes.set_xscale("log")
    ticks = np.unique(values)
    ticks = ticks[:: -(-len(ticks) // most)]
    axes.set_xticks(ticks, [f"{tick:.2g}" if tick < 1 else f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _log_y(axes: Axes, values: np.ndarray) -> None:
    positive = values[values > 0]
    if not (values == 0).any() or not len(positive):
        axes.set_yscale("log" if len(positive) else "linear")
        return
    least, most = int(np.floor(np.log10(positive.min()))), int(np.ceil(np.log10(positive.max())))
    step = -(-(most - least + 1) // 6)
    powers = range(most, least - 1, -step)
    axes.set_yscale("symlog", linthresh=10.0 ** (least - 1), linscale=0.5)
    axes.set_yticks([0.0, *(10.0**p for p in powers)], ["0", *(f"$10^{{{p}}}$" for p in powers)])
    axes.set_yticks([], minor=True)
    axes.set_ylim(-(10.0 ** (least - 2)), 10.0 ** (most + 0.5))


def _draw(axes: Axes, table: pd.DataFrame, whole: pd.DataFrame, x: str, hue: str) -> None:
    """The curves of a panel, in the colours and at the places that the whole figure gives them."""
    words = not pd.api.types.is_numeric_dtype(whole[x])
    hues, ticks = (list(dict.fromkeys(whole[column])) for column in (hue, x))
    for i, name in enumerate(hues):
        part = table[table[hue] == name].sort_values(x, kind="stable")
        if part.empty:
            continue
        value, low, high = (part[c].to_numpy(dtype=float) for c in NUMBERS)
        look = {"color": style.colour(i), "marker": MARKERS[i % len(MARKERS)], "label": str(name)}
        if words:
            shift = (i - (len(hues) - 1) / 2) * 0.6 / len(hues)
            at = part[x].map(ticks.index).to_numpy(dtype=float) + shift
            axes.vlines(at, low, high, color=look["color"], linewidth=1)
            axes.plot(at, value, linestyle="", markersize=3, clip_on=False, **look)
        else:
            at = part[x].to_numpy(dtype=float)
            axes.fill_between(at, low, high, color=look["color"], alpha=0.2, linewidth=0)
            axes.plot(at, value, markersize=2.5, linewidth=1, **look)
    axes.grid(axis="y", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
