"""How sure: the effect of each site with its interval."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from interp.core.door.taken import Count
from interp.core.tables.results import Results
from interp.figures.drawing import style
from interp.figures.drawing.given import figure_door
from interp.figures.drawing.table import label, one_each, sample, summarise

Hue = Literal["position", "receiver", "method", "direction"]


@figure_door
def bars(
    results: Results, *, hue: Hue | None = None, n: Count = 20, title: str | None = None
) -> Figure:
    """Mean effect of each site, largest at the top, with its 95 % interval over clusters.

    A full dot: q < 0.05 over the whole table; a hollow one: not. With more than `n` sites, the
    `n` with the largest absolute effect are drawn, and the axis says of how many.

    Args:
        results: one intervention for each site (and value of `hue`).
        hue: a column to tell apart by colour.
        n: how many sites to draw at most.
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: several interventions for one site.
    """
    keys = ["site"] if hue is None else ["site", hue]
    table = one_each(summarise(results), keys)
    strength = table["effect"].abs().groupby(table["site"]).max().sort_values(ascending=False)
    shown = table[table["site"].isin(strength.index[:n])]
    sites = list(shown.groupby("site")["effect"].mean().sort_values(ascending=False).index)
    groups = [("", shown)]
    if hue is not None:
        groups = list(shown.groupby(hue, sort=False, dropna=False))
    step = 0.8 / len(groups)

    with style.context():
        row = 0.19 if len(groups) == 1 else 0.08 + 0.11 * len(groups)
        figure = style.blank(max(1.6, 0.9 + row * len(sites)))
        axes = figure.subplots()
        axes.axvline(0, color=style.FAINT, linewidth=0.6, zorder=0)
        for y in range(0, len(sites) if hue else 0, 2):  # bands keep a site's rows together
            axes.axhspan(y - 0.5, y + 0.5, color="0.96", linewidth=0, zorder=-1)
        for i, (_, part) in enumerate(groups):
            colour, shift = style.colour(i), (i - (len(groups) - 1) / 2) * step
            y = part["site"].map(sites.index) + shift
            axes.errorbar(
                part["effect"], y, xerr=_arms(part), fmt="none", ecolor=colour, elinewidth=1
            )
            face = [colour if full else "white" for full in part["q"] < style.ALPHA]
            axes.scatter(part["effect"], y, s=14, c=face, edgecolor=colour, linewidth=1, zorder=3)
        axes.set_yticks(range(len(sites)), sites)
        axes.set_ylim(len(sites) - 0.4, -0.6)
        axes.grid(axis="x", color="0.92", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        cut = f" ({len(sites)} largest of {len(strength)})" if len(strength) > n else ""
        axes.set(xlabel=f"{label(table)}\n{sample(table)}", ylabel=f"site{cut}")
        names = ["none" if pd.isna(name) else str(name) for name, _ in groups if hue]
        key = _key(names)
        ncols = style.columns([str(line.get_label()) for line in key])
        figure.legend(handles=key, loc="outside upper center", ncols=ncols)
        if title:
            axes.set_title(title)
    return figure


def _arms(part: pd.DataFrame) -> np.ndarray:
    return np.stack([part["effect"] - part["low"], part["high"] - part["effect"]]).clip(0)


def _key(names: Sequence[str]) -> list[Line2D]:
    """Legend: what a full and a hollow dot mean, then the colours of the groups."""
    dot = {"ls": "", "marker": "o", "ms": 3.7}
    one = style.INK if names else style.colour(0)
    return [
        Line2D([], [], color=one, label=f"q < {style.ALPHA:g}", **dot),
        Line2D([], [], color=one, mfc="white", label=f"q ≥ {style.ALPHA:g}", **dot),
        *(Line2D([], [], color=style.colour(i), label=n, **dot) for i, n in enumerate(names)),
    ]
