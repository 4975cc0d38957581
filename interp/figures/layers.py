"""Curves over layers: what can be read off each, with intervals and every baseline."""

from typing import cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interp.core.errors import ResultsError
from interp.figures import style

NEEDED = ["layer", "value", "low", "high"]
MARKERS = "osD^vPX*"
DASHES: list = [(0, (4, 2)), (0, (1, 1.5)), (0, (4, 1, 1, 1)), (0, (7, 2)), (0, (2, 1))]


def layers(
    table: pd.DataFrame,
    *,
    hue: str,
    baselines: pd.DataFrame | None = None,
    panel: str | None = None,
    title: str | None = None,
    ylabel: str = "accuracy",
) -> Figure:
    """A curve over layers for each value of a column, with its 95 % interval.

    Args:
        table: a summary of Scores: `layer` (0 the embedding), `value`, `low`, `high`, and the
            columns named below. Rows without a layer are left out.
        hue: the column that curves are told apart by.
        baselines: rows that look at no layer, drawn as level lines: `value` and column `hue`
            (their name); with `panel`, that column too.
        panel: a column with a panel side by side for each of its values.
        title: none by default; a paper's caption says it.
        ylabel: what the value is, with its unit.

    Raises:
        ResultsError: a column is absent, or a curve has a layer twice.
    """
    absent = [c for c in [*NEEDED, hue, *([panel] if panel else [])] if c not in table]
    if absent:
        raise ResultsError(f"a figure over layers needs the columns {absent}; see Scores.summary()")
    table = cast(pd.DataFrame, table.dropna(subset=["layer"]))
    twice = table.duplicated([hue, "layer", *([panel] if panel else [])])
    if twice.any():
        row = table[twice].iloc[0]
        raise ResultsError(
            f"{row[hue]!r} has layer {row['layer']} twice; choose one set of rows first, such as "
            "scores.query(\"subset == 'all'\")"
        )
    panels = list(dict.fromkeys(table[panel])) if panel else [None]
    curves = list(dict.fromkeys(table[hue]))
    level = list(dict.fromkeys(baselines[hue])) if baselines is not None else []
    with style.context():
        figure = style.blank(2.5 if len(panels) < 3 else 2.1)
        row = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
        for axes, name in zip(row, panels, strict=True):
            here = table if panel is None else table[table[panel] == name]
            _curves(axes, cast(pd.DataFrame, here), hue, curves)
            if baselines is not None:
                lines = baselines if panel not in baselines else baselines[baselines[panel] == name]
                _levels(axes, cast(pd.DataFrame, lines), hue, level)
            axes.set_xlabel("layer")
            if name is not None:
                axes.set_title(str(name))
        row[0].set_ylabel(ylabel)
        handles: dict[str, object] = {}
        for axes in row:
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


def _curves(axes: Axes, table: pd.DataFrame, hue: str, curves: list) -> None:
    for i, name in enumerate(curves):
        part = table[table[hue] == name].sort_values("layer")
        x = part["layer"].to_numpy(dtype=float)
        value, low, high = (part[c].to_numpy(dtype=float) for c in ("value", "low", "high"))
        colour = style.colour(i)
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(
            x,
            value,
            color=colour,
            marker=MARKERS[i % len(MARKERS)],
            markersize=2.5,
            linewidth=1,
            label=str(name),
        )
    axes.grid(axis="y", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _levels(axes: Axes, table: pd.DataFrame, hue: str, names: list) -> None:
    for _, row in table.iterrows():
        dash = DASHES[names.index(row[hue]) % len(DASHES)]
        axes.axhline(row["value"], color=style.INK, linestyle=dash, linewidth=0.8, label=row[hue])
        if "low" in row and np.isfinite(row["low"]):
            axes.axhspan(row["low"], row["high"], color=style.INK, alpha=0.08, linewidth=0)
