"""Figures: every truth, and the means over them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

import interp
from experiments.ground_truth.setting import LEVELS
from interp.causal.ranking.recovery import Recovery
from interp.figures.drawing import style

MEASURES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "r_precision": "R-precision",
}


def draw(run: interp.runs.Run, results: Recovery, table: pd.DataFrame) -> None:
    """The figures, each with its table."""
    run.figure("auroc", dots(results), results.query("method != 'random'").frame)
    run.figure("means", over_truths(table), table)


def dots(results: Recovery) -> Figure:
    """AUROC of each method on each truth, edges above nodes, a column for each ablation."""
    frame = results.frame
    random = frame["method"] == "random"
    models, ablations = (list(dict.fromkeys(frame[c])) for c in ("model", "ablation"))
    methods = [methods_of(frame[(frame["level"] == level) & ~random]) for level in LEVELS]
    with style.context():
        figure, grid = _grid([len(names) for names in methods], len(ablations))
        for level, names, line in zip(LEVELS, methods, grid, strict=True):
            for axes, ablation in zip(line, ablations, strict=True):
                here = (frame["level"] == level) & (frame["ablation"] == ablation)
                low, high = np.quantile(frame.loc[here & random, "auroc"], [0.025, 0.975])
                axes.axvspan(low, high, color="0.92", linewidth=0)
                axes.axvline(0.5, color=style.FAINT, linewidth=0.6, linestyle="--")
                for i, model in enumerate(models):
                    part = frame[here & ~random & (frame["model"] == model)]
                    at = part["method"].map(names.index) + 0.7 * ((i + 0.5) / len(models) - 0.5)
                    look = {"s": 8, "alpha": 0.7, "linewidth": 0, "color": style.colour(i)}
                    axes.scatter(part["auroc"], at, **look)
                axes.set_yticks(range(len(names)), names)
                axes.set_ylim(len(names) - 0.5, -0.5)
            line[0].set_ylabel(level)
        for top, bottom, ablation in zip(grid[0], grid[-1], ablations, strict=True):
            top.set_title(ablation, fontsize=8)
            bottom.set_xlabel("AUROC")
        look = {"ls": "", "marker": "o", "ms": 3}
        key = [Line2D([], [], color=style.colour(i), label=m, **look) for i, m in enumerate(models)]
        key.append(Patch(color="0.92", label="95 % of random rankings"))
        ncols = style.columns(handle.get_label() for handle in key)
        figure.legend(handles=key, loc="outside lower center", ncols=ncols)
    return figure


def over_truths(table: pd.DataFrame) -> Figure:
    """Each method's mean over the truths, with its interval: a panel for each measure."""
    methods = [methods_of(table[table["level"] == level]) for level in LEVELS]
    with style.context():
        figure, grid = _grid([len(names) for names in methods], len(MEASURES))
        for level, names, line in zip(LEVELS, methods, grid, strict=True):
            for axes, measure in zip(line, MEASURES, strict=True):
                part = table[(table["level"] == level) & (table["measure"] == measure)]
                arms = np.stack([part["value"] - part["low"], part["high"] - part["value"]])
                look = {"fmt": "o", "ms": 3, "color": style.colour(0), "elinewidth": 0.8}
                axes.errorbar(part["value"], range(len(part)), xerr=arms.clip(0), **look)
                axes.set_yticks(range(len(names)), names)
                axes.set_ylim(len(names) - 0.5, -0.5)
            line[0].set_ylabel(level)
        for axes, said in zip(grid[-1], MEASURES.values(), strict=True):
            axes.set_xlabel(said)
    return figure


def _grid(rows: Sequence[int], columns: int) -> tuple[Figure, np.ndarray]:
    """Panels over one axis from 0 to 1, as high as they have rows."""
    figure = style.blank(1.0 + 0.22 * sum(rows))
    grid = figure.subplots(
        len(rows), columns, sharex=True, sharey="row", squeeze=False, height_ratios=rows
    )
    for axes in grid.flat:
        axes.set_xlim(-0.03, 1.03)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.94", linewidth=0.5)
        axes.set_axisbelow(True)
    return figure, grid


def methods_of(table: pd.DataFrame) -> list[str]:
    """The methods in the order of the table."""
    return list(dict.fromkeys(table["method"]))
