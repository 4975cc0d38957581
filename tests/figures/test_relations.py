import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from interp.core.errors import ResultsError
from interp.figures.relations import relation_bars, relations

DIRECTIONS = ("dependent -> head", "head -> dependent")
NAMES = ("all", "nsubj", "amod", "nmod:poss", "compound:prt", "advcl:relcl")


def build(
    layers: int = 4,
    heads: int = 3,
    *,
    names=NAMES,
    directions=DIRECTIONS,
    model: str = "trained",
    seed: int = 0,
) -> pd.DataFrame:
    """What compare_heads returns, without a model."""
    rng = np.random.default_rng(seed)
    parts = []
    for name in names:
        for direction in directions:
            value, baseline = rng.random(layers * heads), rng.random()
            best = int(rng.integers(layers * heads))
            value[best] = 0.5 + 0.5 * rng.random()
            part = pd.DataFrame(
                {
                    "task": f"{name}: {direction}" if direction else name,
                    "relation": name,
                    "direction": direction,
                    "site": [f"{i // heads}.{i % heads}" for i in range(layers * heads)],
                    "layer": pd.array(np.arange(layers * heads) // heads, dtype="Int16"),
                    "head": pd.array(np.arange(layers * heads) % heads, dtype="Int16"),
                    "model": model,
                    "choosing": value,
                    "value": value,
                    "baseline": "offset -1",
                    "baseline_value": baseline,
                    "difference": value - baseline,
                    "q": np.where(rng.random(layers * heads) < 0.5, 0.01, 0.6),
                    "chosen": np.arange(layers * heads) == best,
                }
            )
            for column in ("value", "baseline_value", "difference"):
                stem = column.removesuffix("value")
                stem = "difference_" if column == "difference" else stem
                part[f"{stem}low"] = np.where(part["chosen"], part[column] - 0.05, np.nan)
                part[f"{stem}high"] = np.where(part["chosen"], part[column] + 0.1, np.nan)
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


def meshes(figure) -> list[QuadMesh]:
    return [
        m
        for axes in figure.axes
        for m in axes.findobj(QuadMesh)
        if axes.get_label() != "<colorbar>"
    ]


def labels(axes) -> list[str]:
    return [t.get_text() for t in axes.get_yticklabels()]


def test_cells_are_the_differences_of_the_table():
    table = build()
    figure = relations(table.sample(frac=1, random_state=0).sort_values("task", kind="stable"))
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert [axes.get_title(loc="left") for axes in panels] == list(DIRECTIONS)
    for axes, mesh, direction in zip(panels, meshes(figure), DIRECTIONS, strict=True):
        shown = mesh.get_array()
        for row, name in enumerate(labels(axes)):
            part = table[(table["relation"] == name) & (table["direction"] == direction)]
            np.testing.assert_array_equal(shown[row], part["difference"])
        assert sorted(labels(axes)) == sorted(NAMES)
    limit = table["difference"].abs().max()
    assert {mesh.get_clim() for mesh in meshes(figure)} == {(-limit, limit)}


def test_chosen_heads_are_outlined():
    table = build()
    figure = relations(table)
    for axes, direction in zip(figure.axes, DIRECTIONS, strict=False):
        chosen = table[table["chosen"] & (table["direction"] == direction)]
        frames = {
            (p.get_y() + 0.5, p.get_x() + 0.5) for p in axes.patches if isinstance(p, Rectangle)
        }
        rows = [labels(axes).index(name) for name in chosen["relation"]]
        columns = chosen["layer"].astype(int) * 3 + chosen["head"].astype(int)
        assert frames == set(zip(rows, columns, strict=True))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["chosen on the other half"]


def test_many_heads_are_ringed_and_layers_are_numbered():
    figure = relations(build(30, 9))
    axes = figure.axes[1]
    rings = [c for c in axes.collections if isinstance(c, PathCollection)]
    assert sum(len(c.get_offsets()) for c in rings) == len(NAMES)
    ticks = [(t.get_position()[0], t.get_text()) for t in axes.get_xticklabels()]
    assert ticks[:3] == [(4, "0"), (22, "2"), (40, "4")]
    assert axes.get_xlabel() == "heads, by layer"


def test_relations_that_one_direction_lacks_are_not_in_its_panel():
    table = build()
    table = table[~((table["relation"] == "amod") & (table["direction"] == DIRECTIONS[0]))]
    first, second = relations(table).axes[:2]
    assert "amod" not in labels(first) and "amod" in labels(second)


def test_heads_that_were_not_measured_are_hatched():
    table = build()
    lost = (table["site"] == "2.1") & (table["task"] == "amod: dependent -> head")
    figure = relations(table[~lost])
    assert meshes(figure)[0].get_array().mask.sum() == 1
    assert "not measured" in [t.get_text() for t in figure.legends[0].get_texts()]


def points(axes) -> list[PathCollection]:
    return [c for c in axes.collections if isinstance(c, PathCollection)]


def test_bars_are_the_chosen_heads_and_their_baselines():
    table = build()
    chosen = table[table["chosen"]]
    figure = relation_bars(chosen)
    assert labels(figure.axes[0]) == list(NAMES)
    for axes, direction in zip(figure.axes, DIRECTIONS, strict=True):
        part = chosen[chosen["direction"] == direction]
        heads, baselines = points(axes)
        np.testing.assert_allclose(heads.get_offsets()[:, 0], part["value"])
        np.testing.assert_allclose(baselines.get_offsets()[:, 0], part["baseline_value"])
        lines = [c for c in axes.collections if isinstance(c, LineCollection)]
        ends = [(s[0][0], s[1][0]) for c in lines for s in c.get_segments()]
        truth = [*zip(part["low"], part["high"], strict=True)]
        truth += zip(part["baseline_low"], part["baseline_high"], strict=True)
        np.testing.assert_allclose(ends, truth)
        full = [to_rgb(c[:3]) != (1, 1, 1) for c in heads.get_facecolors()]
        assert full == list((part["q"] < 0.05) & (part["difference"] > 0))
        notes = [t.get_text() for t in axes.texts]
        assert notes == [f"{site} | offset -1" for site in part["site"]]


def test_two_models_have_two_colours_and_one_baseline():
    both = pd.concat([build(), build(model="random", seed=1)])
    figure = relation_bars(both[both["chosen"]])
    for axes in figure.axes:
        assert [len(c.get_offsets()) for c in points(axes)] == [len(NAMES)] * 3
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend[:3] == [
        "best head, trained weights",
        "best head, random weights",
        "best baseline",
    ]
    assert legend[3:] == ["better than the baseline (q < 0.05)", "no better"]


def test_antecedents_have_a_panel_of_their_own():
    table = build(names=("antecedent", "antecedent of pronoun"), directions=("",))
    (axes,) = relation_bars(table[table["chosen"]]).axes
    assert axes.get_title() == "anaphor -> antecedent"
    assert relations(table).axes[0].get_title(loc="left") == "anaphor -> antecedent"


@pytest.mark.parametrize(("shape", "count"), [((1, 1), 1), ((6, 12), 6), ((30, 9), 30)])
def test_nothing_is_clipped(clipped, shape, count):
    names = [*NAMES, *(f"acl:relation{i}" for i in range(30))][:count]
    table = build(*shape, names=names)
    assert clipped(relations(table, title="A title")) == []
    both = pd.concat([table, table.assign(model="random")])
    assert clipped(relation_bars(both[both["chosen"]], title="A title")) == []


def test_what_is_no_such_table_is_refused():
    table = build()
    with pytest.raises(
        ResultsError, match=r"needs the columns \['difference', 'chosen'\], .*Draw what"
    ):
        relations(table.drop(columns=["chosen", "difference"]))
    with pytest.raises(ResultsError, match=r"needs the columns \['baseline_low'\]"):
        relation_bars(table.drop(columns="baseline_low"))
    with pytest.raises(ResultsError, match="needs at least one row"):
        relations(table[:0])
    with pytest.raises(
        ResultsError, match=r"'all: dependent -> head' has several heads; draw what"
    ):
        relation_bars(table)
    with pytest.raises(
        ResultsError, match=r"head 0.0 of the trained model stands twice for 'all: dep"
    ):
        relations(pd.concat([table, table]))
    both = pd.concat([table, build(model="random")])
    with pytest.raises(
        ResultsError,
        match=r"2 models \(trained, random\); draw one: table.query\(\"model == 'trained'",
    ):
        relations(both)
