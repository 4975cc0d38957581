import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection, QuadMesh

from interp.core.errors import ResultsError
from interp.figures.head_types import head_types

NAMES = ("previous", "duplicate", "induction", "entropy")


def build(layers: int = 7, heads: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    layer, head = (x.ravel() for x in np.indices((layers, heads)))
    parts = [
        pd.DataFrame(
            {
                "metric": name,
                "layer": pd.array(layer, "Int16"),
                "head": pd.array(head, "Int16"),
                "effect": rng.uniform(-0.3, 0.9, layers * heads),
                "passes": rng.random(layers * heads) < share,
            }
        )
        for name, share in zip(NAMES, (0.1, 0.3, 0.6, 0), strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def panels(figure):
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_cells_and_dots_are_those_of_the_table(clipped):
    table = build()
    figure = head_types(table.sample(frac=1, random_state=1), detectors=NAMES[:3], title="types")
    assert [axes.get_title() for axes in panels(figure)] == list(NAMES[:3])
    limits = set()
    for axes, name in zip(panels(figure), NAMES, strict=False):
        part = table[table["metric"] == name]
        [mesh] = axes.findobj(QuadMesh)
        np.testing.assert_array_equal(mesh.get_array(), part["effect"].to_numpy().reshape(7, 4))
        dots = {tuple(xy) for c in axes.findobj(PathCollection) for xy in c.get_offsets().tolist()}
        passing = part[part["passes"]]
        assert dots == set(
            zip(passing["head"].astype(float), passing["layer"].astype(float), strict=True)
        )
        limits.add(mesh.get_clim())
    assert len(limits) == 1
    assert clipped(figure) == []


def test_by_default_the_types_that_there_are_most_of():
    figure = head_types(build())
    assert [axes.get_title() for axes in panels(figure)] == ["induction", "duplicate", "previous"]


def test_bad_input():
    with pytest.raises(ResultsError, match="needs the columns \\['passes'\\]"):
        head_types(build().drop(columns="passes"))
    with pytest.raises(ResultsError, match="no scores of 'inducton'.*'induction'"):
        head_types(build(), detectors=["inducton"])
    with pytest.raises(ResultsError, match="0 detectors"):
        head_types(build(), detectors=[])
