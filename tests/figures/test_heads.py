import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.patches import Rectangle

from interp import figures
from interp.core.errors import ResultsError, SiteError
from interp.core.tables.results import Results
from interp.figures.drawing.table import label


def meshes(figure) -> list[QuadMesh]:
    return [m for axes in figure.axes for m in axes.findobj(QuadMesh) if axes.get_label() != CBAR]


CBAR = "<colorbar>"


def hatched(axes) -> list[tuple[float, float]]:
    return [
        (p.get_y() + 0.5, p.get_x() + 0.5)
        for p in axes.patches
        if isinstance(p, Rectangle) and p.get_hatch()
    ]


def dots(axes) -> set[tuple[int, int]]:
    found = [c for c in axes.collections if isinstance(c, PathCollection)]
    return {(int(y), int(x)) for c in found for x, y in c.get_offsets()}


def test_cells_are_the_means_of_the_table(heads_and_mlps):
    figure = figures.heads(heads_and_mlps)
    head, mlp = meshes(figure)
    only = heads_and_mlps.query("kind == 'z'")
    np.testing.assert_allclose(head.get_array(), only.grid())
    np.testing.assert_allclose(
        mlp.get_array()[:, 0], heads_and_mlps.query("kind == 'mlp_out'").grid()
    )


def test_one_symmetric_scale_for_heads_and_mlps(heads_and_mlps):
    summary = heads_and_mlps.summary()
    for mesh in meshes(figures.heads(heads_and_mlps)):
        low, high = mesh.get_clim()
        assert low == -high
        assert high == pytest.approx(summary["effect"].abs().max())


def test_layer_zero_is_at_the_top_and_axes_are_named(heads_and_mlps):
    left, right, bar = figures.heads(heads_and_mlps).axes
    assert left.get_ylim()[0] > left.get_ylim()[1]
    assert (left.get_xlabel(), left.get_ylabel()) == ("head", "layer")
    assert [t.get_text() for t in left.get_xticklabels()] == ["0", "1", "2", "3"]
    assert [t.get_text() for t in right.get_xticklabels()] == ["MLP"]
    assert bar.get_ylabel().replace("\n", " ") == "change in logit difference"


def test_not_measured_is_hatched_and_never_zero(heads_and_mlps):
    kept = heads_and_mlps.query("site not in ['2.1', '5.3', '4.mlp']")
    figure = figures.heads(kept)
    left, right = figure.axes[:2]
    assert set(hatched(left)) == {(2, 1), (5, 3)}
    assert set(hatched(right)) == {(4, 0)}
    assert meshes(figure)[0].get_array().mask.sum() == 2
    assert "not measured" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_nan_effects_are_not_measured(heads_and_mlps):
    frame = heads_and_mlps.frame.copy()
    frame.loc[frame["site"] == "3.0", "effect"] = np.nan
    figure = figures.heads(Results(frame, heads_and_mlps.provenance))
    assert hatched(figure.axes[0]) == [(3, 0)]


def test_dots_are_the_cells_with_small_q(heads_and_mlps):
    summary = heads_and_mlps.summary()
    chosen = summary[(summary["q"] < 0.05) & (summary["kind"] == "z")]
    assert 0 < len(chosen) < 24
    figure = figures.heads(heads_and_mlps)
    assert dots(figure.axes[0]) == set(
        zip(chosen["layer"].astype(int), chosen["head"].astype(int), strict=True)
    )
    assert dots(figures.heads(heads_and_mlps, column="value").axes[0]) == set()


def test_marks_outline_their_cells(heads_and_mlps):
    figure = figures.heads(heads_and_mlps, mark=["3.2", "5.mlp"])
    frames = [
        [(p.get_y() + 0.5, p.get_x() + 0.5) for p in axes.patches if not p.get_hatch()]
        for axes in figure.axes[:2]
    ]
    assert frames == [[(3, 2)], [(5, 0)]]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("shape", [(30, 9), (12, 12), (1, 1), (2, 2), (48, 32)])
@pytest.mark.parametrize("metric", ["logit_diff", "log_prob"])
def test_nothing_is_clipped_at_any_size(table, clipped, shape, metric):
    layers, width = shape
    sites = [f"{layer}.{head}" for layer in range(layers) for head in range(width)]
    results = table([*sites, *(f"{i}.mlp" for i in range(layers))], metric=metric)
    column = "effect" if metric == "logit_diff" else "value"  # the longest label
    figure = figures.heads(results, column=column, mark=[f"{layers - 1}.0"], title="A title")
    assert clipped(figure) == []
    assert sum(m.get_array().size for m in meshes(figure)) == layers * (width + 1)


def test_settings_and_pyplot_are_left_alone(heads_and_mlps):
    from matplotlib import pyplot

    before = dict(mpl.rcParams)
    figures.heads(heads_and_mlps)
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == []


def test_several_interventions_for_one_head_are_refused(table):
    results = table(["0.0", "0.1"], positions=["end", "s2"])
    with pytest.raises(ResultsError) as error:
        figures.heads(results)
    assert str(error.value) == (
        "layer 0, head 0 has 2 interventions, and the table holds several (position: end, s2). "
        "Choose one set first: results.query(\"position == 'end'\")."
    )
    figures.heads(results.query("position == 'end'"))


def test_two_metrics_are_refused(table):
    both = Results.concat([table(["0.0"]), table(["0.1"], metric="prob")])
    with pytest.raises(ResultsError, match="one scale.*metric: logit_diff, prob"):
        figures.heads(both)


def test_no_heads_no_effect_no_such_mark(table, heads_and_mlps, looks):
    with pytest.raises(ResultsError, match="no heads; its sites are of kind mlp_out"):
        figures.heads(table(["0.mlp"]))
    with pytest.raises(ResultsError, match="figures.attention"):
        figures.heads(looks(["0.0"]))
    with pytest.raises(ResultsError, match="cannot mark '9.9'"):
        figures.heads(heads_and_mlps, mark=["9.9"])
    with pytest.raises(SiteError):
        figures.heads(heads_and_mlps, mark=["L3H2"])


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("logit_diff@mid", "change in logit difference at mid"),
        ("next_token_loss", "change in next-token loss (nats)"),
        ("rank", "change in rank"),
        ("of my own@home", "change in of my own@home"),
    ],
)
def test_an_axis_says_what_was_read_and_where(metric, says):
    assert label(pd.DataFrame({"metric": [metric]})) == says
