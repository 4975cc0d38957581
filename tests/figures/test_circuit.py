"""The drawn circuit: every edge that it says, from below to above, and all readable."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch, PathPatch

from interp.core.door.door import ArgumentError
from interp.core.errors import ResultsError
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.edges import Edge
from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph, nodes
from interp.core.parts.sites import Site
from interp.core.tables.attribution import Attribution
from interp.figures.circuit import MOST, circuit
from interp.figures.drawing import style
from interp.figures.drawing.drawn import THICK, THIN

SMALL = {"n_layers": 2, "n_heads": 3, "n_kv_heads": 3}
GROUPED = {"n_layers": 9, "n_heads": 9, "n_kv_heads": 3}


def facts(**shape) -> Facts:
    return Facts(
        architecture="tiny",
        **shape,
        d_model=12,
        d_head=4,
        d_mlp=7,
        d_vocab=11,
        n_ctx=16,
        norm="rms",
        positions="rotary",
        block="pre",
        parallel=False,
        gated=True,
        causal=True,
        language_model=True,
    )


def scored(parts, score) -> Attribution:
    each = np.stack([score, score], axis=1)
    return Attribution.of(
        parts, each, cluster=["a", "b"], method="eap", metric="logit_diff", provenance={}
    )


def made(n: int, shape: dict, seed: int = 0) -> tuple[Facts, Circuit, Attribution]:
    """A random circuit of n edges among a few writers, heavy-tailed scores of both signs."""
    rng = np.random.default_rng(seed)
    of = facts(**shape)
    graph = Graph.of(of)
    few = set(rng.choice(len(graph.writers), min(len(graph.writers), 4 + n // 8), replace=False))
    near = [e for e in graph.edges if graph.writers.index(e.writer) in few]
    chosen = [near[i] for i in rng.choice(len(near), n, replace=False)]
    parts = [Part(edge) for edge in graph.edges]
    score = rng.pareto(2, len(parts)) * rng.choice([-1, 1], len(parts))
    return of, Circuit.of(chosen, model="m"), scored(parts, score)


def curves(figure) -> list[PathPatch]:
    return [p for p in figure.axes[0].patches if isinstance(p, PathPatch)]


def boxes(figure) -> list:
    """Outlines of the nodes' boxes (not of groups), in inches."""
    drawn = [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]
    return [p.get_path().get_extents() for p in drawn if p.get_zorder() == 4]


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def outside(figure, text) -> bool:
    box, page = text.get_window_extent(), figure.bbox
    return box.x0 < 0 or box.y0 < 0 or box.x1 > page.x1 or box.y1 > page.y1


@pytest.mark.parametrize("width", ["text", "column"])
@pytest.mark.parametrize(("n", "shape"), [(5, SMALL), (40, GROUPED), (300, GROUPED)])
def test_readable(clipped, n, shape, width):
    of, found, scores = made(n, shape, seed=n)
    figure = circuit(found, scores, facts=of, width=width, title="a circuit")
    assert figure.get_figwidth() == {"text": 5.5, "column": 3.3}[width]
    assert figure.get_figheight() < 11
    assert len(curves(figure)) == min(n, MOST)
    for curve in curves(figure):
        y = np.asarray(curve.get_path().vertices)[:, 1]
        assert y[0] < y[-1], "from the writer up to its reader"
        assert (np.diff(y) >= 0).all()
    drawn = boxes(figure)
    for i, box in enumerate(drawn):
        for other in drawn[:i]:
            assert not box.overlaps(other), "one node on another"
    assert clipped(figure) == []
    with style.context():
        figure.draw_without_rendering()
    assert not [t.get_text() for t in figure.axes[0].texts if outside(figure, t)]
    (legend,) = figure.legends
    assert not [t.get_text() for t in legend.get_texts() if outside(figure, t)]
    said = f"the {MOST} heaviest of {n} edges (" if n > MOST else f"all {n} edges of the circuit"
    assert [word for word in words(figure) if word.startswith(said)]


def test_width_and_colour_are_the_score():
    """Four edges whose scores are known; the thickest is the largest, the sign is the hue."""
    of = facts(**SMALL)
    score = {"0.1 -> logits": -2.0, "embed -> 0.1.q": 1.0, "embed -> 0.kv1.v": 0.0}
    score |= {"0.0 -> 1.kv2.k": -0.5, "0.2 -> logits": 7.0}
    found = Circuit.of([text for text in score if text != "0.2 -> logits"], model="m")
    parts = [Part.parse(text) for text in score]
    scores = scored(parts, np.array([*score.values()]))
    figure = circuit(found, scores, facts=of, classes={"0.1": "mover"})
    lines = {line.get_linewidth(): line for line in curves(figure)}
    expected = [THIN + (THICK - THIN) * abs(s) / 2 for s in (0.0, -0.5, 1.0, -2.0)]
    assert sorted(lines) == pytest.approx(expected)
    red, _, blue = to_rgb(lines[THIN + (THICK - THIN) / 2].get_edgecolor())
    assert red > blue, "cutting it raises the metric"
    red, _, blue = to_rgb(lines[THICK].get_edgecolor())
    assert red < blue
    styles = {width: line.get_linestyle() for width, line in lines.items()}
    assert styles[THIN] == styles[THICK] == "-"
    assert len(set(map(str, styles.values()))) == 3, "queries, keys and the rest"
    assert {"0.0", "0.1", "1.2", "embed", "logits"} <= set(words(figure))
    assert "1.kv2" not in words(figure), "a group of one head is that head"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:2] == ["change in logit difference -2", "change in logit difference +1"]
    assert legend[2:] == ["into query", "into key", "into value, MLP, logits", "mover"]


@pytest.mark.parametrize("width", ["text", "column"])
def test_long_names_of_classes_stay_on_the_page(width):
    of, found, scores = made(40, GROUPED, seed=1)
    heads = sorted({str(p.of.writer) for p in found.parts if p.of.writer.kind == "z"})
    words = ["negative name mover", "S-inhibition", "subject suppressor", "duplicate token"]
    words += ["previous token", "induction", "name mover"]
    classes = dict(zip(heads, words, strict=False))
    assert len(classes) >= 5
    figure = circuit(found, scores, facts=of, classes=classes, width=width)
    with style.context():
        figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0
    (said,) = [t for t in figure.axes[0].texts if "of the circuit" in t.get_text()]
    assert not said.get_window_extent().overlaps(box)


def test_heads_of_a_group_stand_in_its_box():
    """A group's key is read by its heads: by those drawn, or by none."""
    of = facts(**GROUPED)
    edges = ["0.4 -> logits", "0.3 -> logits", "0.8 -> logits", "embed -> 0.kv1.k"]
    figure = circuit(Circuit.of([*edges, "embed -> 3.kv2.v"], model="m"), facts=of)
    group = [p for p in figure.axes[0].patches if p.get_zorder() == 3]
    assert len(group) == 2
    inside = {text.get_text() for text in figure.axes[0].texts}
    assert "3.kv2" in inside and "0.kv1" not in inside
    frame = max(group, key=lambda box: box.get_width()).get_path().get_extents()
    at = {t.get_text(): t.get_position() for t in figure.axes[0].texts}
    assert [frame.contains(*at[head]) for head in ("0.3", "0.4", "0.8")] == [True, True, False]
    (key,) = [c for c in curves(figure) if c.get_linestyle() not in ("-", "solid")]
    x, y = np.asarray(key.get_path().vertices)[-1]
    assert y == pytest.approx(frame.y0, abs=1e-6) and frame.x0 < x < frame.x1


def test_nodes_and_positions():
    of = facts(**SMALL)
    sites = nodes(of)
    parts = [Part(site, place) for site in sites for place in ("end", "s2")]
    scores = scored(parts, np.arange(len(parts)) - 4.0)
    chosen = [p for p in parts if p.of in (Site.parse("0.1"), Site.parse("1.mlp"))]
    figure = circuit(Circuit.of(chosen, model="m"), scores, facts=of)
    assert not curves(figure)
    width = {box.get_linewidth() for box in figure.axes[0].patches}
    both = [
        sum(s for p, s in zip(parts, scores.scores, strict=True) if p.of == c)
        for c in {p.of for p in chosen}
    ]
    largest = max(map(abs, both))
    assert width == {THIN + (THICK - THIN) * abs(s) / largest for s in both}
    assert {"logits", "embed"}.isdisjoint(words(figure))
    assert "all 2 nodes of the circuit" in words(figure)


def test_scores_of_zero_are_drawn():
    of, found, scores = made(5, SMALL)
    flat = scored(scores.parts, np.zeros(len(scores.parts)))
    assert {line.get_linewidth() for line in curves(circuit(found, flat, facts=of))} == {THIN}


def test_refusals():
    of, found, scores = made(40, GROUPED)
    with pytest.raises(ResultsError, match="the circuit is empty"):
        circuit(found.holding(frozenset()), facts=of)
    with pytest.raises(
        ResultsError, match="has 40 parts, more than the n=10 that are drawn, and no"
    ):
        circuit(found, facts=of, n=10)
    with pytest.raises(ArgumentError, match="n=0, and n takes a whole number of at least 1"):
        circuit(found, scores, facts=of, n=0)
    with pytest.raises(ResultsError, match="39 of the circuit's 40 parts have no score, such as"):
        one = next(iter(found.parts))
        circuit(found, scored([one], np.array([1.0])), facts=of)
    with pytest.raises(ResultsError, match="has no node '99.1' to be called 'mover'"):
        circuit(found, scores, facts=of, classes={"99.1": "mover"})
    beyond = Circuit.of([Edge.parse("5.1 -> logits")], model="m")
    with pytest.raises(ValueError, match="layer 5 is outside"):
        circuit(beyond, facts=facts(**SMALL))


def test_two_stacks_stand_on_each_other(clipped):
    """The decoder above the encoder, in a layer cross-attention between the heads and the MLP."""
    of = facts(n_layers=2, n_heads=3, n_kv_heads=3, n_encoder_layers=2)
    edges = [
        *("enc.0.resid_pre -> enc.0.1.q", "enc.0.1 -> enc.1.mlp", "enc.1.mlp -> dec.0.cross.kv2.v"),
        *("dec.0.resid_pre -> dec.0.1.k", "dec.0.1 -> dec.0.cross.2.q"),
        *("dec.0.cross.2 -> dec.0.mlp", "dec.0.mlp -> logits"),
    ]
    drawn = Circuit.of(edges, model="m")
    figure = circuit(drawn, facts=of)
    [axes] = figure.axes
    height = {text.get_text(): text.get_position()[1] for text in axes.texts}
    order = [
        *("enc.0.resid_pre", "enc.0.1", "enc.1.mlp", "dec.0.resid_pre", "dec.0.1"),
        *("dec.0.cross.2", "dec.0.mlp", "logits"),
    ]
    found = [height[name] for name in order]
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert {"enc L0", "enc L1", "dec L0"} <= set(height)
    assert len([patch for patch in axes.patches if isinstance(patch, PathPatch)]) == len(edges)
    assert clipped(figure) == []
