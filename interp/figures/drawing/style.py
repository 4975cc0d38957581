"""The one style of every figure: sizes, fonts, colours."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from io import BytesIO
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib import rc_context
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

WIDTH = 5.5
"""Inches: the text width of a paper, so that a figure is set without scaling."""

ALPHA = 0.05
"""A site whose q is below this is marked as different from zero."""

DIVERGING = "RdBu_r"
SEQUENTIAL = "Blues"
PALETTE: list[tuple[float, float, float]] = sns.color_palette("colorblind")
INK = "0.15"
FAINT = "0.6"

RC: dict[str, Any] = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper"),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same text on every machine
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 9,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "hatch.linewidth": 0.5,
    "hatch.color": FAINT,
    **{f"{axis}tick.major.{key}": v for axis in "xy" for key, v in (("size", 2.5), ("width", 0.6))},
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType: text stays text, and journals accept it
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "interp",  # the ids in an SVG are random without it
}


def context() -> AbstractContextManager[None]:
    """The style, for as long as the block lasts; global settings come back after it."""
    return rc_context(RC)


class PaperFigure(Figure):
    """A figure that is saved in the style it was drawn in, and that shows itself in a notebook.

    Matplotlib reads the kind of font when a file is written, long after the drawing. The figure
    is unknown to pyplot: nothing keeps it alive, nothing shows it twice.
    """

    def savefig(self, fname: Any, **options: Any) -> None:
        """Like `Figure.savefig`, in the style."""
        with context():
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        page = BytesIO()
        self.savefig(page, format="png")
        return page.getvalue()


def blank(height: float) -> PaperFigure:
    """An empty figure, as wide as a page of text, that keeps its labels inside its edges."""
    return PaperFigure(figsize=(WIDTH, height), layout="constrained")


def colour(i: int) -> tuple[float, float, float]:
    """The i-th group's colour."""
    return PALETTE[i % len(PALETTE)]


def columns(names: Iterable[object]) -> int:
    """How many of these fit side by side in a legend."""
    return max(1, min(6, 80 // (max((len(str(n)) for n in names), default=0) + 8)))


def symmetric(values: np.ndarray) -> Normalize:
    """A scale with zero in the middle, so that white is no effect and hue is its sign."""
    finite = values[np.isfinite(values)]
    limit = float(np.abs(finite).max()) if finite.size else 0.0
    return Normalize(-(limit or 1.0), limit or 1.0)
