"""Which heads do it: the layer x head map."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from interp.core.errors import ResultsError, nearest
from interp.core.parts.sites import Site
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.figures.drawing import heat, style
from interp.figures.drawing.given import NUMBERED, figure_door, require
from interp.figures.drawing.table import Column, label, one_each, spread, summarise


@figure_door
def heads(
    results: Results,
    *,
    column: Column = "effect",
    title: str | None = None,
    mark: Sequence[str] = (),
) -> Figure:
    """Mean effect of each head, layers downward from 0 as in Wang et al. (2022).

    MLPs, where the table has them, stand in a column of their own at the right, on the same
    scale. A dot: q < 0.05 over the whole table. Hatched: not measured. Sites that are neither
    (the embedding, a residual stream) are not drawn.

    Args:
        results: one intervention for each head.
        column: `effect`, or the mean metric under the intervention (`value`) or before (`base`).
        title: none by default; a paper's caption says it.
        mark: sites to outline, e.g. `["23.3", "12.mlp"]`.

    Raises:
        ResultsError: no heads, several interventions for one head, or a mark that is not there.
    """
    table = summarise(results)
    by_head = one_each(table[table["head"].notna()], ["layer", "head"])
    by_mlp = one_each(table[table["kind"] == "mlp_out"], ["layer"])
    if by_head.empty:
        raise ResultsError(
            f"the table has no heads; its sites are of kind {', '.join(table['kind'].unique())}. "
            "Draw whole layers with figures.positions or figures.bars."
        )
    drawn = pd.concat([by_head, by_mlp])
    require(by_head, "a figure of heads", whole=["layer", "head"], remedy=NUMBERED)
    require(drawn, "a figure of heads", whole=["layer"], remedy=NUMBERED)
    rows, width = int(drawn["layer"].max()) + 1, int(by_head["head"].max()) + 1
    panels = [(by_head, width)]
    if len(by_mlp):
        panels.append((by_mlp.assign(head=0), 1))
    norm = style.symmetric(drawn[column].to_numpy(dtype=float))
    marked = [_place(text, drawn) for text in mark]

    with style.context():
        figure = style.blank(float(np.clip(0.17 * rows + 1.0, 2.0, 7.0)))
        ratios = [width, max(1.0, width / 12)][: len(panels)]
        grid = list(
            figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=ratios)[0]
        )
        hatched = False
        for axes, (part, columns) in zip(grid, panels, strict=True):
            cells = partial(spread, part, rows=rows, across="head", columns=range(columns))
            values = cells(column)
            mesh = heat.heat(axes, values, norm=norm)
            if column == "effect":
                heat.dots(axes, mesh, values, cells("q"))
            hatched |= bool(np.isnan(values).any())
        for layer, head in marked:
            heat.outline(grid[0 if head is not None else 1], layer, head or 0)
        heat.numbered(grid[0], "x", width, room=20)
        heat.numbered(grid[0], "y", rows, room=20)
        grid[0].set(xlabel="head", ylabel="layer")
        if len(panels) > 1:
            grid[1].set_xticks([0], ["MLP"])
        heat.colour_bar(figure, grid, label(drawn, column), norm=norm)
        dotted = column == "effect" and bool((drawn["q"] < style.ALPHA).any())
        few = stats.few_clusters(int(drawn["clusters"].min())) if column == "effect" else ""
        heat.legend(figure, dotted=dotted, hatched=hatched, few=few, outlined=bool(marked))
        if title:
            figure.suptitle(title)
    return figure


def _place(text: str, drawn: pd.DataFrame) -> tuple[int, int | None]:
    """Layer and head of a site to mark; head None for an MLP."""
    site = str(Site.parse(text))
    found = drawn[drawn["site"] == site]
    if found.empty:
        raise ResultsError(
            f"cannot mark {text!r}: the figure has no such cell; {nearest(site, drawn['site'])}"
        )
    row = found.iloc[0]
    return int(row["layer"]), None if pd.isna(row["head"]) else int(row["head"])
