"""Different questions about the same layers, one above the other: each with an axis of its own."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from interp.figures.drawing import over_layers, style
from interp.figures.drawing.given import figure_door


@figure_door
def beside(
    table: pd.DataFrame,
    *,
    panel: str,
    hue: str,
    control: str | None = None,
    baselines: pd.DataFrame | None = None,
    ylabels: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """A panel for each value of a column, over one axis of layers; its legend stands beside it.

    Args:
        table: `depth` (or `layer`), `value`, `low`, `high`, and the columns named below, which may
            differ in unit from panel to panel.
        panel, hue: the columns that panels and their curves are told apart by.
        control: a column that names, for a curve that is the control of another, that other one
            (else it is empty): a control is a thin dashed line of the other's colour, paler.
        baselines: rows that look at no layer, drawn as level lines: `value` and both columns.
        ylabels: what the value of each panel is, with its unit; the panel's name by default.
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: a column is absent, there is no row, or a curve has a layer twice.
    """
    table = over_layers.placed(table)
    if baselines is not None and baselines.empty:
        baselines = None
    own = [control] if control is not None else []
    keys = [panel, hue]
    over_layers.require(table, keys, also=own, baselines=baselines, named=keys)
    names = list(dict.fromkeys(table[panel]))
    with style.context():
        figure = style.blank(0.5 + 1.35 * len(names))
        rows = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(rows, names, strict=True):
            here = table[table[panel] == name]
            over_layers.curves(axes, here, hue, list(dict.fromkeys(here[hue])), control=control)
            if baselines is not None:
                lines = baselines[baselines[panel] == name]
                over_layers.levels(axes, lines, hue, list(dict.fromkeys(lines[hue])))
            axes.set_ylabel((ylabels or {}).get(name, str(name)))
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        rows[-1].set_xlabel("layer")
        if title:
            figure.suptitle(title, fontsize=9)
    return figure
