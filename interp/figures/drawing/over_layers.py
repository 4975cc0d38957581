"""Curves over layers and level lines: what every figure over layers draws, one axis at a time."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp.core.errors import ResultsError
from interp.figures.drawing import given, style

REMEDY = "See Scores.summary(), which makes such tables."
BASELINES = "Give the rows of the scores that look at no layer."
NEEDED = ["layer", "value", "low", "high"]
MARKERS = "osD^vPX*"
DASHES: list = [(0, (4, 2)), (0, (1, 1.5)), (0, (4, 1, 1, 1)), (0, (7, 2)), (0, (2, 1))]
CONTROL = (0, (2, 1.2))


def placed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `layer` and `value` as figures draw them: the depth, where it is known; and of
    Results that have effects the effect, which their intervals are of.
    """
    if {"base", "value", "effect"} <= set(table):
        base, value, effect = (table[c].to_numpy(dtype=float) for c in ("base", "value", "effect"))
        table = table.assign(value=np.where(np.isclose(value - base, effect), effect, value))
    if "depth" not in table or "layer" not in table:
        return table
    return table.assign(layer=table["depth"].where(table["depth"].notna(), table["layer"]))


def require(
    table: pd.DataFrame,
    keys: Sequence[str],
    *,
    also: Sequence[str] = (),
    baselines: pd.DataFrame | None = None,
    named: Sequence[str] = (),
) -> None:
    """Refuse tables without these columns, or with a curve that has a layer twice.

    Args:
        keys: columns that curves are told apart by, the name of the curve last.
        also: columns of other names.
        baselines: rows that are drawn as level lines.
        named: columns that these are told apart by.

    Raises:
        ResultsError: a column is absent, there is no row, or a layer stands twice.
    """
    what = "a figure over layers"
    given.require(table, what, numbers=NEEDED, names=[*keys, *also], remedy=REMEDY)
    if baselines is not None:
        what = "a figure with baselines"
        given.require(baselines, what, numbers=["value"], names=named, remedy=BASELINES)
        if lost := [column for column in named if baselines[column].isna().any()]:
            raise ResultsError(f"a baseline has no {lost[0]}, so it has no name. {BASELINES}")
    twice = table.duplicated([*keys, "layer"])
    if twice.any():
        row = table[twice].iloc[0]
        where = "".join(f" of {key} {row[key]!r}" for key in keys[:-1])
        raise ResultsError(
            f"{row[keys[-1]]!r}{where} has layer {row['layer']} twice; choose one set of rows "
            "first, such as scores.query(\"subset == 'all'\")"
        )


def curves(
    axes: Axes,
    table: pd.DataFrame,
    hue: str,
    names: Sequence[object],
    *,
    control: str | None = None,
) -> None:
    """A curve with its interval for each name; place and colour are the name's place in the list.

    Args:
        control: the column that names, for a curve that is a control, the curve that it controls:
            it is a thin dashed line of that curve's colour, paler.
    """
    of = {} if control is None else dict(zip(table[hue], table[control], strict=True))
    own = [name for name in names if of.get(name) not in names]
    for name in names:
        part = table[table[hue] == name].sort_values("layer")
        if part.empty:
            continue
        x, value, low, high = (part[c].to_numpy(dtype=float, na_value=np.nan) for c in NEEDED)
        if name in own:
            i = own.index(name)
            colour, marker = style.colour(i), MARKERS[i % len(MARKERS)]
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, value, color=colour, marker=marker, ms=2.5, linewidth=1, label=str(name))
            continue
        if of[name] not in own:
            raise ResultsError(
                f"{name!r} is said to be the control of {of[name]!r}, which is itself a control in "
                f"column {control!r}; a control is that of a curve that is none."
            )
        pale = tuple((1 + c) / 2 for c in style.colour(own.index(of[name])))
        for end in (low, high):
            axes.plot(x, end, color=pale, linewidth=0.3)
        axes.plot(x, value, color=pale, linestyle=CONTROL, linewidth=0.9, label=str(name))
    axes.grid(axis="y", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def levels(axes: Axes, table: pd.DataFrame, hue: str, names: Sequence[object]) -> None:
    """A level line for each row, with its interval where it has one."""
    for _, row in table.iterrows():
        dash = DASHES[list(names).index(row[hue]) % len(DASHES)]
        axes.axhline(
            row["value"], color=style.INK, linestyle=dash, linewidth=0.8, label=str(row[hue])
        )
        if "low" in row and np.isfinite(row["low"]):
            axes.axhspan(row["low"], row["high"], color=style.INK, alpha=0.08, linewidth=0)
