"""The strokes of a circuit's graph: curves for edges, boxes for nodes."""

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from interp.core.parts.sites import Site
from interp.figures.drawing import style
from interp.figures.drawing.layered import INSIDE, LETTERS, Arrangement, Unit

THIN, THICK = 0.4, 3.0
"""Points: a line of score 0, and of the largest."""
DASHES = {"q": (0, (4, 1.2)), "k": (0, (1, 0.8))}
PORTS = {"q": -0.32, "v": 0.32}
"""Where on a node's foot its query and value read, in its width; keys do in the middle."""
FRAME = 0.025
"""Inches: a group's box around its heads."""
INK = "0.35"
EMBED, LOGITS = Site("embed"), Site("logits")
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Line:
    """What is drawn of a part.

    Attributes:
        ends: writer and reader of an edge; a node alone.
        port: which input of a head the edge leads into: q, k, v; "" for others.
    """

    ends: tuple[Site, ...]
    port: str
    score: float


@dataclass(frozen=True)
class Pen:
    """How a score looks.

    Attributes:
        largest: absolute score, that of the thickest line.
        signed: are there scores at all?
    """

    largest: float
    signed: bool

    def ink(self, score: float) -> Colour | str:
        """Blue below zero and red above, as everywhere in these figures."""
        shade = 0.08 if score < 0 else 0.9
        return mpl.colormaps[style.DIVERGING](shade)[:3] if self.signed else INK

    def thickness(self, score: float) -> float:
        """In points."""
        return THIN + (THICK - THIN) * abs(score) / self.largest if self.signed else 1.0


def light(colour: Colour) -> Colour:
    """A tint that black text stands on."""
    r, g, b = (1 - 0.45 * (1 - part) for part in colour)
    return r, g, b


@dataclass(frozen=True)
class Drawing:
    """Draws on axes in inches.

    Attributes:
        fills: colours of nodes that are not white.
    """

    axes: Axes
    layout: Arrangement
    pen: Pen
    fills: Mapping[Site, Colour]

    def edge(self, line: Line) -> None:
        """A curve that leaves and arrives upright."""
        writer, reader = line.ends
        (x0, y0), (x1, y1) = self.layout.at[writer], self.layout.at[reader]
        wide, high = self.layout.box
        x1 += wide * PORTS.get(line.port, 0.0)
        half = self.layout.bar / 2 - 0.05
        x0 = min(max(x1, x0 - half), x0 + half) if writer == EMBED else x0
        x1 = min(max(x0, x1 - half), x1 + half) if reader == LOGITS else x1
        y0, y1 = y0 + high / 2, y1 - high / 2 - (FRAME if reader.kind == "k" else 0.0)
        bend = 0.45 * (y1 - y0)
        path = Path(
            [(x0, y0), (x0, y0 + bend), (x1, y1 - bend), (x1, y1)],
            [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
        )
        look = {"ec": self.pen.ink(line.score), "lw": self.pen.thickness(line.score)}
        look |= {"ls": DASHES.get(line.port, "-"), "capstyle": "butt"}
        self.axes.add_patch(PathPatch(path, fc="none", alpha=0.8, zorder=2, **look))

    def unit(self, unit: Unit, scores: Mapping[Site, float]) -> None:
        """The boxes of its nodes; around the heads of a group that into whose foot k and v lead."""
        wide, high = self.layout.box
        if unit.group:
            across = len(unit.nodes) * wide + (len(unit.nodes) - 1) * INSIDE + 2 * FRAME
            look = {"fc": "0.88", "ec": "0.55", "lw": 0.6, "zorder": 3}
            self._box(self.layout.at[unit.group], (across, high + 2 * FRAME), look)
        for node in unit.nodes:
            if node == unit.group:
                self._text(self.layout.at[node], str(node).rpartition(".")[0])
                continue
            look = {"fc": self.fills.get(node, "white"), "ec": "0.3", "lw": 0.6, "zorder": 4}
            if (score := scores.get(node)) is not None:
                look |= {"ec": self.pen.ink(score), "lw": self.pen.thickness(score)}
            self._box(self.layout.at[node], (wide, high), look)
            self._text(self.layout.at[node], str(node))

    def bar(self, site: Site) -> None:
        """The embedding or the logits."""
        look = {"fc": "0.95", "ec": "0.3", "lw": 0.6, "zorder": 4}
        self._box(self.layout.at[site], (self.layout.bar, self.layout.box[1]), look)
        self._text(self.layout.at[site], str(site))

    def _box(self, at: tuple[float, float], size: tuple[float, float], look: dict) -> None:
        corner = at[0] - size[0] / 2, at[1] - size[1] / 2
        self.axes.add_patch(
            FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.03", **look)
        )

    def _text(self, at: tuple[float, float], word: str) -> None:
        look = {"ha": "center", "va": "center_baseline", "fontsize": LETTERS, "zorder": 5}
        self.axes.text(*at, word, **look)
