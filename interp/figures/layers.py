"""Curves over layers: what can be read off each, with intervals and every baseline."""

from typing import cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from interp.figures.drawing import over_layers, style
from interp.figures.drawing.given import figure_door


@figure_door
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
        table: a summary of Scores or Results: `depth` (layers passed, 0 the embedding; else
            `layer`), `value`, `low`, `high`, and the columns named below. Rows that have none are
            left out.
        hue: the column that curves are told apart by.
        baselines: rows that look at no layer, drawn as level lines: `value` and column `hue`
            (their name); with `panel`, that column too.
        panel: a column with a panel side by side for each of its values.
        title: none by default; a paper's caption says it.
        ylabel: what the value is, with its unit.

    Raises:
        ResultsError: a column is absent, no row has a layer, or a curve has one twice.
    """
    table = over_layers.placed(table)
    if "layer" in table:
        table = cast(pd.DataFrame, table.dropna(subset=["layer"]))
    if baselines is not None and baselines.empty:
        baselines = None
    keys = [*([panel] if panel is not None else []), hue]
    over_layers.require(table, keys, baselines=baselines, named=[hue])
    panels = list(dict.fromkeys(table[panel])) if panel is not None else [None]
    names = list(dict.fromkeys(table[hue]))
    level = list(dict.fromkeys(baselines[hue])) if baselines is not None else []
    with style.context():
        figure = style.blank(2.5 if len(panels) < 3 else 2.1)
        row = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
        for axes, name in zip(row, panels, strict=True):
            here = table if panel is None else table[table[panel] == name]
            over_layers.curves(axes, cast(pd.DataFrame, here), hue, names)
            if baselines is not None:
                lines = baselines if panel not in baselines else baselines[baselines[panel] == name]
                over_layers.levels(axes, cast(pd.DataFrame, lines), hue, level)
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
