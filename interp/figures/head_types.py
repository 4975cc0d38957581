"""Which heads are of which type: a layer x head map for each detector, side by side."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from interp.core.errors import ResultsError, nearest
from interp.figures.drawing import heat, style
from interp.figures.drawing.given import figure_door, require
from interp.figures.drawing.table import spread

MOST = 6
"""Panels that fit side by side."""


@figure_door
def head_types(
    scores: pd.DataFrame, *, detectors: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """How far each head's score is above its null, for several detectors on one scale.

    A dot: the head passes the detector, chosen on one half of the rows and tested on the other.

    Args:
        scores: of `interp.heads.head_types` (`HeadTypes.scores`).
        detectors: panels from left to right; by default those that some head passes, at most six,
            with the most such heads first.
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: another table, a detector that is not in it, or more than fit.
    """
    require(
        scores,
        "a figure of head types",
        numbers=["effect", "passes"],
        whole=["layer", "head"],
        names=["metric"],
        remedy="Give HeadTypes.scores, of interp.heads.head_types.",
    )
    if len(twice := scores[scores.duplicated(["metric", "layer", "head"])]):
        row = twice.iloc[0]
        raise ResultsError(
            f"head {row['layer']}.{row['head']} has several rows of {row['metric']!r}; draw the "
            "table of one model."
        )
    known = scores["metric"].unique().tolist()
    names = _passed(scores) or known[:MOST] if detectors is None else list(detectors)
    if lost := [name for name in names if name not in known]:
        raise ResultsError(f"there are no scores of {lost[0]!r}; {nearest(lost[0], known)}")
    if not 0 < len(names) <= MOST:
        raise ResultsError(f"{len(names)} detectors; a figure takes 1 to {MOST} side by side.")
    drawn = scores[scores["metric"].isin(names)]
    rows, width = int(drawn["layer"].max()) + 1, int(drawn["head"].max()) + 1
    norm = style.symmetric(drawn["effect"].to_numpy(dtype=float))
    with style.context():
        figure = style.blank(float(np.clip(0.14 * rows + 1.1, 2.0, 7.0)))
        panels = list(figure.subplots(1, len(names), sharey=True, squeeze=False)[0])
        for axes, name in zip(panels, names, strict=True):
            part = drawn[drawn["metric"] == name].assign(none=lambda x: 1.0 - x["passes"])
            values, none = (
                spread(part, column, rows=rows, across="head", columns=range(width))
                for column in ("effect", "none")
            )
            mesh = heat.heat(axes, values, norm=norm)
            heat.dots(axes, mesh, values, none)
            heat.numbered(axes, "x", width, room=10)
            axes.set_title(name)
        heat.numbered(panels[0], "y", rows, room=20)
        panels[0].set_ylabel("layer")
        panels[len(panels) // 2].set_xlabel("head")
        heat.colour_bar(figure, panels, "score above its null", norm=norm)
        dot = Line2D(
            [],
            [],
            ls="",
            marker=".",
            ms=3.5,
            color=style.INK,
            label="passes: chosen on one half, q < 0.05 on the other",
        )
        figure.legend(handles=[dot], loc="outside lower center")
        if title:
            figure.suptitle(title)
    return figure


def _passed(scores: pd.DataFrame) -> list[str]:
    """The detectors that most heads pass."""
    counts = scores.groupby("metric", sort=False)["passes"].sum()
    counts = counts.sort_values(ascending=False, kind="stable")
    return counts.index[counts > 0][:MOST].tolist()
