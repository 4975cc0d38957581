"""Which heads carry which relation, and how much better than a fixed offset."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from interp.core.errors import ResultsError
from interp.figures.drawing import heat, style
from interp.figures.drawing.given import figure_door, require

NARROW = 0.05
"""Inches: a head's column that is narrower is marked by a ring, not by a frame."""
_SHARED = [
    "task",
    "relation",
    "direction",
    "site",
    "layer",
    "head",
    "model",
    "chosen",
    "difference",
]
_OWN = ["value", "low", "high", "q", "baseline", "baseline_value", "baseline_low", "baseline_high"]
_NUMBERS = {"difference", *_OWN} - {"baseline"}
_UNITED = "anaphor -> antecedent"


@figure_door
def relations(table: pd.DataFrame, *, title: str | None = None) -> Figure:
    """Accuracy of each head minus that of the best baseline, relation by relation.

    A panel for each direction; heads side by side, layer by layer. Outlined: the head that was
    chosen on the other half of the documents.

    Args:
        table: what `compare_heads` returns, for one model.
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: columns that are absent, several models, or a head twice.
    """
    _require(table, _SHARED)
    if table["model"].nunique() > 1:
        raise ResultsError(
            f"the table has heads of {table['model'].nunique()} models "
            f"({', '.join(map(str, table['model'].unique()))}); draw one: "
            f"table.query(\"model == '{table['model'].iloc[0]}'\")"
        )
    panels = _panels(table)
    heads = table[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
    columns = pd.MultiIndex.from_frame(heads)
    begins = np.flatnonzero(heads["layer"].diff().fillna(1) > 0)
    norm = style.symmetric(table["difference"].to_numpy(dtype=float))
    rows = {name: list(dict.fromkeys(part["relation"])) for name, part in panels.items()}

    with style.context():
        height = 0.14 * sum(map(len, rows.values())) + 0.3 * len(rows) + 0.7
        figure = style.blank(float(np.clip(height, 2.0, 9.0)))
        grid = figure.subplots(
            len(rows), 1, squeeze=False, sharex=True, height_ratios=[len(r) for r in rows.values()]
        )[:, 0]
        hatched, wide = False, len(columns) * NARROW > style.WIDTH - 1.7
        for axes, (name, part) in zip(grid, panels.items(), strict=True):
            cells = part.pivot(index="relation", columns=["layer", "head"], values="difference")
            values = cells.reindex(index=rows[name], columns=columns).to_numpy(dtype=float)
            mesh = heat.heat(axes, values, norm=norm)
            hatched |= bool(np.isnan(values).any())
            if wide:
                mesh.set(edgecolor="face", linewidth=0.1)
            line = {"color": "white" if wide else style.FAINT, "linewidth": 0.6 if wide else 0.3}
            axes.vlines(begins[1:] - 0.5, -0.5, len(values) - 0.5, **line)
            for _, best in part[part["chosen"]].iterrows():
                at = (
                    rows[name].index(best["relation"]),
                    columns.get_loc((best["layer"], best["head"])),
                )
                if wide:
                    ring = {"s": 12, "facecolor": "none", "edgecolor": "black", "linewidth": 0.8}
                    axes.scatter(at[1], at[0], **ring, zorder=4)
                else:
                    heat.outline(axes, *at)
            heat.words(axes, "y", rows[name], room=np.inf, size=6.5)
            axes.set_title(name, fontsize=8, loc="left")
        ends = [*begins[1:], len(columns)]
        middles = (begins + np.array(ends) - 1) / 2
        step = next(s for s in heat.STEPS if len(begins) <= 20 * s)
        layers = heads["layer"].to_numpy()[begins]
        grid[-1].set_xticks(middles[::step], [str(layer) for layer in layers[::step]])
        grid[-1].set(xlabel="heads, by layer")
        heat.colour_bar(figure, list(grid), "accuracy minus the best baseline's", norm=norm)
        marks: list[Line2D | Patch] = [_chosen(wide)]
        if hatched:
            marks.append(Patch(fill=False, hatch=heat.HATCH, lw=0, label="not measured"))
        figure.legend(handles=marks, loc="outside lower center", ncols=2)
        if title:
            figure.suptitle(title)
    return figure


@figure_door
def relation_bars(table: pd.DataFrame, *, title: str | None = None) -> Figure:
    """Accuracy of the head chosen for each relation, beside that of the best baseline.

    A panel for each direction, a colour for each model. A full dot: the head is better than the
    baseline (q < 0.05). Lines are 95 % intervals over clusters. At the right of each panel
    stand the first model's head and the baseline.

    Args:
        table: what `choose_heads` returns, for one model or several.
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: columns that are absent, or several heads for a task of one model.
    """
    _require(table, [*_SHARED, *_OWN])
    twice = table[table.duplicated(["task", "model"])]
    if len(twice):
        raise ResultsError(
            f"{twice['task'].iloc[0]!r} has several heads; draw what choose_heads() returns, or "
            "table[table['chosen']] of what compare_heads() does."
        )
    panels = _panels(table)
    relations, models = (list(dict.fromkeys(table[c])) for c in ("relation", "model"))
    step = 0.7 / (len(models) + 1)

    with style.context():
        figure = style.blank(max(1.8, 1.0 + (0.13 + 0.05 * len(models)) * len(relations)))
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (name, part) in zip(grid, panels.items(), strict=True):
            for y in range(0, len(relations), 2):  # bands keep a relation's rows together
                axes.axhspan(y - 0.5, y + 0.5, color="0.96", linewidth=0, zorder=-1)
            for i, model in enumerate(models):
                of_model = part[part["model"] == model]
                y = of_model["relation"].map(relations.index) + (i - len(models) / 2) * step
                better = (of_model["q"] < style.ALPHA) & (of_model["difference"] > 0)
                _dots(axes, of_model, "", y, style.colour(i), better.tolist())
            first = part.drop_duplicates("relation")
            y = first["relation"].map(relations.index) + len(models) / 2 * step
            _dots(axes, first, "baseline_", y, style.FAINT, [True] * len(first), marker="D")
            for _, row in first.iterrows():
                place = 1.03, relations.index(row["relation"])
                note = f"{row['site']} | {row['baseline']}"
                axes.text(
                    *place, note, transform=axes.get_yaxis_transform(), fontsize=5, va="center"
                )
            axes.set(xlim=(-0.02, 1.02), xlabel="accuracy")
            axes.set_title(name, fontsize=8)
            axes.grid(axis="x", color="0.92", linewidth=0.5)
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
        heat.words(grid[0], "y", relations, room=np.inf)
        grid[0].set_ylim(len(relations) - 0.5, -0.5)
        key = _key(models)
        figure.legend(handles=key, loc="outside lower center", ncols=3)
        if title:
            figure.suptitle(title)
    return figure


def _chosen(ring: bool) -> Line2D | Patch:
    """Legend: what an outline means."""
    label = "chosen on the other half"
    if ring:
        return Line2D([], [], ls="", marker="o", ms=3.5, mfc="none", mec="black", label=label)
    return Patch(fill=False, edgecolor="black", linewidth=1.2, label=label)


def _dots(
    axes: Axes,
    table: pd.DataFrame,
    of: str,
    y: pd.Series,
    colour: object,
    full: Sequence[bool],
    *,
    marker: str = "o",
) -> None:
    """Values with their intervals; where `full` is false the dot is hollow."""
    value, low, high = (table[of + c].to_numpy(dtype=float) for c in ("value", "low", "high"))
    arms = np.stack([value - low, high - value]).clip(0)
    axes.errorbar(value, y, xerr=arms, fmt="none", ecolor=colour, elinewidth=0.8)
    face = [colour if is_full else "white" for is_full in full]
    axes.scatter(value, y, s=9, c=face, edgecolor=colour, linewidth=0.8, marker=marker, zorder=3)


def _key(models: Sequence[str]) -> list[Line2D]:
    """Legend: the models, the baseline, and what a full and a hollow dot mean."""
    dot = {"ls": "", "marker": "o", "ms": 3.3}
    better = f"better than the baseline (q < {style.ALPHA:g})"
    return [
        *(
            Line2D([], [], color=style.colour(i), label=f"best head, {model} weights", **dot)
            for i, model in enumerate(models)
        ),
        Line2D([], [], color=style.FAINT, label="best baseline", **{**dot, "marker": "D"}),
        Line2D([], [], color=style.INK, label=better, **dot),
        Line2D([], [], color=style.INK, mfc="white", label="no better", **dot),
    ]


def _panels(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each direction; antecedents have none."""
    named = table["direction"].replace("", _UNITED)
    return {name: cast(pd.DataFrame, table[named == name]) for name in dict.fromkeys(named)}


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    require(
        table,
        "a figure of relations",
        numbers=[c for c in columns if c in _NUMBERS],
        whole=["layer", "head"],
        names=[c for c in columns if c not in _NUMBERS],
        remedy="Draw what compare_heads() or choose_heads() returns.",
    )
    if not pd.api.types.is_bool_dtype(table["chosen"]):
        raise ResultsError(
            f"chosen is True for the heads that were chosen, and here it holds "
            f"{table['chosen'].dtype}; draw what compare_heads() or choose_heads() returns."
        )
    twice = table[table.duplicated(["task", "model", "site"])]
    if len(twice):
        row = twice.iloc[0]
        raise ResultsError(
            f"head {row['site']} of the {row['model']} model stands twice for {row['task']!r}: "
            "draw the table of one corpus."
        )
