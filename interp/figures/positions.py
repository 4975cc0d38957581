"""Where in the prompt it is: the layer x position map."""

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from interp.core.errors import ResultsError
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.figures.drawing import heat, style
from interp.figures.drawing.given import NUMBERED, figure_door, require
from interp.figures.drawing.table import Column, label, one_each, spread, summarise

_NAMES = {
    "resid_pre": "resid pre",
    "resid_mid": "resid mid",
    "resid_post": "resid post",
    "attn_out": "attention",
    "mlp_out": "MLP",
}


@figure_door
def positions(results: Results, *, column: Column = "effect", title: str | None = None) -> Figure:
    """Mean effect of each layer at each named position, a panel for each kind of site.

    Layers run downward from 0, positions in the order of the table. A dot: q < 0.05 over the
    whole table. Hatched: not measured.

    Args:
        results: one intervention for each layer, position and kind (residual stream, MLP, ...).
        column: `effect`, or the mean metric under the intervention (`value`) or before (`base`).
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: no whole layers, no named positions, or several interventions for one cell.
    """
    summary = summarise(results)
    table = summary[summary["kind"].isin(_NAMES)]
    if table.empty or table["position"].isna().all():
        kinds = ", ".join(summary["kind"].unique())
        raise ResultsError(
            f"the table has no layer at a named position (kinds: {kinds}; positions: "
            f"{', '.join(map(str, summary['position'].unique()))}). Patch 'layers', 'attn' or "
            "'mlps' at positions=[...]; draw heads with figures.heads."
        )
    table = one_each(table, ["kind", "layer", "position"])
    require(table, "a figure of positions", whole=["layer"], remedy=NUMBERED)
    columns, rows = list(table["position"].unique()), int(table["layer"].max()) + 1
    norm = style.symmetric(table[column].to_numpy(dtype=float))
    kinds = list(table["kind"].unique())

    room = 0.75 * style.WIDTH / (len(kinds) * len(columns))

    with style.context():
        figure = style.blank(float(np.clip(0.17 * rows + 1.1, 2.0, 7.0)))
        grid = list(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0])
        hatched = False
        for axes, kind in zip(grid, kinds, strict=True):
            part = table[table["kind"] == kind]
            cells = partial(spread, part, rows=rows, across="position", columns=columns)
            values = cells(column)
            mesh = heat.heat(axes, values, norm=norm)
            if column == "effect":
                heat.dots(axes, mesh, values, cells("q"))
            hatched |= bool(np.isnan(values).any())
            heat.words(axes, "x", [str(c) for c in columns], room=room)
            axes.set(xlabel="position")
            if len(kinds) > 1:
                axes.set_title(_NAMES[kind])
        heat.numbered(grid[0], "y", rows, room=20)
        grid[0].set(ylabel="layer")
        heat.colour_bar(figure, grid, label(table, column), norm=norm)
        dotted = column == "effect" and bool((table["q"] < style.ALPHA).any())
        few = stats.few_clusters(int(table["clusters"].min())) if column == "effect" else ""
        heat.legend(figure, dotted=dotted, hatched=hatched, few=few, outlined=False)
        if title:
            figure.suptitle(title)
    return figure
