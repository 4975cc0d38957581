import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from interp import figures
from interp.core.errors import ResultsError

POSITIONS = ["first", "io", "s1", "s1+1", "s2", "end"]  # in the prompt's order, not the alphabet's


def test_a_panel_for_each_kind_in_the_order_of_the_prompt(table, clipped):
    sites = [f"{i}.{kind}" for kind in ("resid_pre", "attn", "mlp") for i in range(5)]
    results = table(sites, positions=POSITIONS).query("not (site == '3.attn' and position == 'io')")
    figure = figures.positions(results, title="Where")
    panels = figure.axes[:3]
    assert [axes.get_title() for axes in panels] == ["resid pre", "attention", "MLP"]
    for axes, kind in zip(panels, ("resid_pre", "attn_out", "mlp_out"), strict=True):
        (mesh,) = axes.findobj(QuadMesh)
        assert [t.get_text() for t in axes.get_xticklabels()] == POSITIONS
        for j, position in enumerate(POSITIONS):
            grid = results.query(f"kind == {kind!r} and position == {position!r}").grid()
            column = mesh.get_array().filled(np.nan)[:, j]
            np.testing.assert_allclose(column, grid)
        assert mesh.get_clim()[0] == -mesh.get_clim()[1]
    hatched = [p for p in panels[1].patches if p.get_hatch()]
    assert [(p.get_y(), p.get_x()) for p in hatched] == [(2.5, 0.5)]
    assert clipped(figure) == []


def test_array_equals_the_grid_of_the_results(table):
    results = table([f"{i}.resid_post" for i in range(4)], positions=POSITIONS)
    (mesh,) = figures.positions(results).axes[0].findobj(QuadMesh)
    np.testing.assert_allclose(mesh.get_array(), results.grid())


@pytest.mark.parametrize("layers,count", [(30, 6), (1, 1), (48, 24)])
def test_nothing_is_clipped(table, clipped, layers, count):
    names = [f"subject+{i}" for i in range(count)]
    results = table([f"{i}.resid_pre" for i in range(layers)], positions=names)
    assert clipped(figures.positions(results)) == []


def test_heads_and_unnamed_positions_are_refused(table):
    with pytest.raises(ResultsError, match="kinds: z; positions: end.*figures.heads"):
        figures.positions(table(["0.0"]))
    with pytest.raises(ResultsError, match="no layer at a named position"):
        figures.positions(table(["0.mlp"], positions=[None]))
