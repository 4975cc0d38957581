"""Heat maps, cell by cell."""

from collections.abc import Sequence
from textwrap import fill
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from interp.figures.drawing.style import ALPHA, DIVERGING, FAINT, INK

HATCH = "/////"
INCHES = 0.6 / 72
"""Mean width of a character in inches, for each point of its size."""
STEPS = (1, 2, 5, 10, 20, 50, 100)


def heat(axes: Axes, values: np.ndarray, *, norm: Normalize, cmap: str = DIVERGING) -> QuadMesh:
    """Draw an array, row 0 at the top; NaN is hatched, so that it cannot pass for zero."""
    rows, columns = values.shape
    mesh = axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(values),
        norm=norm,
        cmap=cmap,
        edgecolor="white",
        linewidth=0.4,
    )
    for row, column in np.argwhere(np.isnan(values)):
        axes.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5), 1, 1, fill=False, hatch=HATCH, linewidth=0, zorder=2
            )
        )
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return mesh


def dots(axes: Axes, mesh: QuadMesh, values: np.ndarray, q: np.ndarray) -> None:
    """A dot in each cell whose effect differs from zero, light on dark cells, dark on light."""
    row, column = np.nonzero(q < ALPHA)
    if row.size:
        red, green, blue, _ = mesh.cmap(mesh.norm(values[row, column])).T
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        axes.scatter(column, row, s=3, c=np.where(dark, "white", INK), linewidth=0, zorder=3)


def outline(axes: Axes, row: int, column: int) -> None:
    """A frame around one cell."""
    corner = (column - 0.5, row - 0.5)
    frame = {"fill": False, "edgecolor": "black", "linewidth": 1.2}
    axes.add_patch(Rectangle(corner, 1, 1, **frame, zorder=4, clip_on=False))


def numbered(axes: Axes, axis: Literal["x", "y"], count: int, *, room: int) -> None:
    """Ticks 0, k, 2k, ... with the smallest k that gives at most `room` of them."""
    step = next((s for s in STEPS if count <= s * room), STEPS[-1])
    (axes.set_xticks if axis == "x" else axes.set_yticks)(range(0, count, step))


def legend(figure: Figure, *, dotted: bool, hatched: bool, outlined: bool, few: str = "") -> None:
    """Below the panels: what the marks in the cells mean, of those that occur; and what so `few`
    clusters cannot say.
    """
    square = {"facecolor": "white", "linewidth": 0}
    entries = [
        (dotted, Line2D([], [], ls="", marker=".", ms=3.5, color=INK, label=f"q < {ALPHA:g}")),
        (hatched, Patch(hatch=HATCH, edgecolor=FAINT, label="not measured", **square)),
        (outlined, Patch(fill=False, edgecolor="black", linewidth=1.2, label="marked")),
        (bool(few), Line2D([], [], ls="", label=few)),
    ]
    shown = [entry for present, entry in entries if present]
    if shown:
        figure.legend(handles=shown, loc="outside lower center", ncols=len(shown))


def words(
    axes: Axes, axis: Literal["x", "y"], texts: Sequence[str], *, room: float, size: float = 7.0
) -> None:
    """A tick for each text, upright on x where it needs more than `room` inches.

    A dollar sign stays a dollar sign: no text is read as a formula.
    """
    wide = max(map(len, texts), default=0) * size * INCHES
    turned = {"rotation": 90} if axis == "x" and wide > room else {}
    ticks = axes.set_xticks if axis == "x" else axes.set_yticks
    ticks(range(len(texts)), texts, fontsize=size, parse_math=False, **turned)


def colour_bar(
    figure: Figure, axes: Sequence[Axes], text: str, *, norm: Normalize, cmap: str = DIVERGING
) -> None:
    """The scale of all panels, its label broken into lines that are no longer than the bar."""
    room = int((figure.get_figheight() - 1.1) / (INCHES * 8))
    lines = fill(text, max(12, room), break_on_hyphens=False, break_long_words=False)
    figure.colorbar(ScalarMappable(norm, cmap), ax=list(axes), label=lines, aspect=30)
