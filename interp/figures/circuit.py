"""A circuit as a graph: layers from bottom to top, an edge for each edge."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from interp.core.door.taken import Count
from interp.core.errors import ResultsError, nearest
from interp.core.parts.circuit import Circuit
from interp.core.parts.edges import Edge
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site
from interp.core.tables.attribution import Attribution
from interp.figures.drawing import style
from interp.figures.drawing.drawn import DASHES, EMBED, LOGITS, Colour, Drawing, Line, Pen, light
from interp.figures.drawing.given import figure_door
from interp.figures.drawing.layered import Unit, place
from interp.figures.drawing.table import label

MOST = 60
"""Edges that can be told apart on a page."""
WIDTHS = {"text": style.WIDTH, "column": 3.3}
TALLEST = 7.0
"""Inches: a page of text with room for a caption."""
LEFT = 0.32
"""Inches: the names of the layers."""
SMALL = 6.5
NARROW, HANDLE = 0.52, 8
"""Width of a letter of running text, in its size; letters that a legend's sample and room take."""
Width = Literal["text", "column"]


@figure_door
def circuit(
    circuit: Circuit,
    attribution: Attribution | None = None,
    *,
    facts: Facts,
    classes: Mapping[str, str] | None = None,
    n: Count = MOST,
    width: Width = "text",
    title: str | None = None,
) -> Figure:
    """The circuit's nodes in their layers, from the embedding below to the logits above.

    Of an encoder-decoder the decoder stands above the encoder, and cross-attention above the rest.

    An edge is as wide as its absolute score, blue where cutting it lowers the metric (of a logit
    difference: it helps) and red where that raises it. Edges into queries are dashed and end at the
    left of the reader's foot, into keys dotted and in its middle, into values solid and at its
    right; those into MLPs and the logits are solid too. Of a circuit of nodes the outlines say the
    same. A part at several positions is drawn once, its scores added up.

    Args:
        circuit: of edges or of nodes.
        attribution: the scores; without it all edges are alike.
        facts: of the model; they say which heads share keys and values. These stand in one box, at
            whose foot the edges to the group's key and value end.
        classes: a word for some sites ("20.1": "name mover"), told apart by the fill.
        n: how many parts to draw, those of the largest absolute score; a line says of how many.
        width: of a page of text (5.5 inches), or of one of its two columns (3.3).
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: an empty circuit, parts without a score, more than `n` parts and no scores to
            choose by, or a class of a site that the circuit has not.
    """
    every = _lines(circuit, attribution, facts)
    lines = _heaviest(every, n, scored=attribution is not None)
    fills = _fills(classes or {}, every)
    nodes = {node for line in lines for node in line.ends}
    units = _units(nodes, facts)
    pen = Pen(max(abs(line.score) for line in lines) or 1.0, signed=attribution is not None)
    links: dict[tuple[Site, Site], float] = defaultdict(float)
    for line in lines:
        if len(line.ends) == 2:
            links[line.ends[0], line.ends[1]] += pen.thickness(line.score)
    inches = WIDTHS[width]
    key = _key(lines, pen, attribution, fills)
    columns = _columns([str(entry.get_label()) for entry in key], inches)
    foot, head = 0.4 + 0.15 * -(-len(key) // columns), 0.38 if title else 0.14

    with style.context():
        layout = place(
            units,
            links,
            left=LEFT + 0.24 * bool(facts.n_encoder_layers),
            width=inches - 0.05,
            tallest=TALLEST,
            embed=EMBED in nodes,
            logits=LOGITS in nodes,
        )
        figure = style.PaperFigure(figsize=(inches, layout.height + foot + head))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, inches), ylim=(-foot, layout.height + head))
        axes.set_axis_off()
        scores = {line.ends[0]: line.score for line in lines if len(line.ends) == 1}
        draw = Drawing(axes, layout, pen, {node: fill for node, (_, fill) in fills.items()})
        for line in lines[::-1]:  # the heaviest on top
            if len(line.ends) == 2:
                draw.edge(line)
        for unit in units:
            draw.unit(unit, scores)
        for bar in {EMBED, LOGITS} & nodes:
            draw.bar(bar)
        for layer, y in layout.rows.items():
            axes.text(0.05, y, layer, va="center_baseline", color="0.45", fontsize=SMALL)
        said = _said(circuit, every, lines)
        axes.text(inches / 2, -0.25, said, ha="center", fontsize=SMALL)
        figure.legend(
            handles=key,
            loc="lower center",
            ncols=columns,
            fontsize=SMALL,
            handlelength=2.4,
            columnspacing=1.2,
            labelspacing=0.3,
            borderaxespad=0.1,
        )
        if title:
            axes.text(inches / 2, layout.height + 0.17, title, ha="center", fontsize=9)
    return figure


def _lines(circuit: Circuit, attribution: Attribution | None, facts: Facts) -> list[Line]:
    """A line for each edge or node, all its positions together; the heaviest first."""
    if not len(circuit):
        raise ResultsError(
            "the circuit is empty, so there is nothing to draw; give one with parts."
        )
    known: dict[tuple[str, str], float] = {}
    if attribution is not None:
        frame = attribution.frame
        known = dict(
            zip(zip(frame["site"], frame["position"], strict=True), attribution.scores, strict=True)
        )
        lost = [part for part in circuit.parts if (str(part.of), part.place) not in known]
        if lost:
            raise ResultsError(
                f"{len(lost)} of the circuit's {len(circuit)} parts have no score, such as "
                f"'{min(lost, key=str)}'; give the attribution that it was discovered with, which "
                "has scores of the same granularity and positions."
            )
    total: dict[Edge | Site, float] = defaultdict(float)
    for part in circuit.parts:
        total[part.of] += known.get((str(part.of), part.place), 1.0)
    order = sorted(total, key=lambda of: (-abs(total[of]), of.order))
    return [_line(of, total[of], facts) for of in order]


def _line(of: Edge | Site, score: float, facts: Facts) -> Line:
    if isinstance(of, Site):
        return Line((of.check(facts),), "", score)
    reader = of.check(facts).reader
    port = reader.kind if reader.kind in ("q", "k", "v") else ""
    if reader.head is not None:
        reader = replace(reader, kind="z")
    elif reader.group is not None and facts.group_size == 1:
        reader = replace(reader, kind="z", head=reader.group, group=None)
    elif reader.group is not None:
        reader = replace(reader, kind="k")  # the box, for both k and v
    return Line((of.writer, reader), port, score)


def _heaviest(lines: list[Line], n: int, *, scored: bool) -> list[Line]:
    if len(lines) > n and not scored:
        raise ResultsError(
            f"the circuit has {len(lines)} parts, more than the n={n} that are drawn, and no "
            "scores to choose the heaviest by; give the attribution, or a larger n."
        )
    return lines[:n]


def _fills(classes: Mapping[str, str], every: Sequence[Line]) -> dict[Site, tuple[str, Colour]]:
    """The class and the colour of each node that has one."""
    inside = {str(node) for line in every for node in line.ends}
    if strange := [site for site in classes if site not in inside]:
        raise ResultsError(
            f"the circuit has no node {strange[0]!r} to be called {classes[strange[0]]!r}; "
            f"{nearest(strange[0], sorted(inside))}"
        )
    words = list(dict.fromkeys(classes.values()))
    fill = {word: light(style.colour(i + 1)) for i, word in enumerate(words)}
    return {Site.parse(site): (word, fill[word]) for site, word in classes.items()}


def _units(nodes: Iterable[Site], facts: Facts) -> list[Unit]:
    """Heads of a group side by side; a group of which no head is drawn stands for itself."""
    groups = {node for node in nodes if node.kind == "k"}
    heads: dict[Site, list[Site]] = {group: [] for group in groups}
    units = []
    for node in sorted({*nodes} - groups - {EMBED, LOGITS}):
        group = (
            replace(node, kind="k", head=None, group=node.head // facts.group_size)
            if node.head is not None
            else node
        )
        if group in heads:
            heads[group].append(node)
        else:
            units.append(Unit((node,)))
    return [*units, *(Unit(tuple(of) or (group,), group) for group, of in heads.items())]


def _said(circuit: Circuit, every: Sequence[Line], lines: Sequence[Line]) -> str:
    """How much of the circuit is drawn."""
    if len(lines) == len(every):
        return f"all {len(every)} {circuit.granularity} of the circuit"
    whole = sum(abs(line.score) for line in every)
    share = sum(abs(line.score) for line in lines) / whole if whole else 1.0
    return (
        f"the {len(lines)} heaviest of {len(every)} {circuit.granularity} "
        f"({share:.0%} of the sum of |score|)"
    )


def _key(
    lines: Sequence[Line],
    pen: Pen,
    attribution: Attribution | None,
    fills: Mapping[Site, tuple[str, Colour]],
) -> list[Line2D | Patch]:
    """Legend: the largest score of each sign, the kinds of edges, the classes of nodes."""
    key: list[Line2D | Patch] = []
    if attribution is not None:
        what = label(attribution.frame, "effect")
        for scores in (
            [x.score for x in lines if x.score < 0],
            [x.score for x in lines if x.score > 0],
        ):
            if scores:
                most = max(scores, key=abs)
                look = {"color": pen.ink(most), "lw": pen.thickness(most)}
                key.append(Line2D([], [], label=f"{what} {most:+.2g}", **look))
    for port, dash in {**DASHES, "v": "-"}.items():
        if any(line.port == port for line in lines):
            name = {"q": "query", "k": "key", "v": "value, MLP, logits"}[port]
            key.append(Line2D([], [], color="0.3", lw=1, ls=dash, label=f"into {name}"))
    drawn = {node for line in lines for node in line.ends}
    words = dict(fill for node, fill in fills.items() if node in drawn)
    return [*key, *(Patch(fc=fc, ec="0.3", lw=0.5, label=word) for word, fc in words.items())]


def _columns(labels: Sequence[str], inches: float) -> int:
    """How many columns of the legend fit side by side; each is filled before the next."""
    letters = inches * 72 / SMALL / NARROW - 1
    for columns in range(min(4, len(labels)), 1, -1):
        rows = -(-len(labels) // columns)
        longest = [max(map(len, labels[i : i + rows])) for i in range(0, len(labels), rows)]
        if sum(longest) + HANDLE * len(longest) <= letters:
            return columns
    return 1
