import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb

from interp import figures
from interp.core.errors import ResultsError


def intervals(axes) -> list[tuple[float, float]]:
    lines = [c for c in axes.collections if isinstance(c, LineCollection)]
    return [(s[0][0], s[1][0]) for c in lines for s in c.get_segments() if len(s)]


def points(axes) -> list[PathCollection]:
    return [c for c in axes.collections if isinstance(c, PathCollection)]


def test_intervals_are_those_of_the_summary_in_sorted_order(heads_and_mlps):
    summary = heads_and_mlps.summary().sort_values("effect", ascending=False)
    axes = figures.bars(heads_and_mlps, n=100).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == list(summary["site"])
    drawn = {
        round(y): x for x, y in points(axes)[0].get_offsets()
    }  # row number -> effect, in any order of drawing
    np.testing.assert_allclose([drawn[i] for i in range(len(summary))], summary["effect"])
    np.testing.assert_allclose(
        sorted(intervals(axes)), sorted(zip(summary["low"], summary["high"], strict=True))
    )


def test_full_dots_are_those_with_small_q(heads_and_mlps):
    summary = heads_and_mlps.summary()
    (dots,) = points(figures.bars(heads_and_mlps, n=100).axes[0])
    hollow = [to_rgb(c[:3]) == (1, 1, 1) for c in dots.get_facecolors()]
    assert sum(hollow) == (summary["q"] >= 0.05).sum() > 0


def test_the_axis_says_how_many_stand_behind_it(heads_and_mlps):
    axes = figures.bars(heads_and_mlps, n=5).axes[0]
    assert axes.get_ylabel() == "site (5 largest of 30)"
    assert axes.get_xlabel() == (
        "change in logit difference\n24 examples, 95 % interval over 8 clusters\n"
        "(no p can be under 0.00781)"
    )
    assert any(np.allclose(line.get_xdata(), 0) for line in axes.lines)


def test_hue_groups_by_receiver(table, clipped):
    results = table(["0.0", "0.1", "1.0"], receivers=["logits", "3.1.q", None])
    figure = figures.bars(results, hue="receiver", title="Paths")
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend == ["q < 0.05", "q ≥ 0.05", "logits", "3.1.q", "none"]
    assert len(points(figure.axes[0])) == 3
    assert clipped(figure) == []


def test_one_cluster_has_no_interval_and_says_so(table, clipped):
    results = table(["0.0", "0.1"])
    alone = type(results)(results.frame.assign(cluster=0), results.provenance)
    figure = figures.bars(alone)
    assert "24 examples in one cluster: no interval, no test" in figure.axes[0].get_xlabel()
    assert intervals(figure.axes[0]) == []
    assert clipped(figure) == []


@pytest.mark.parametrize("count", [1, 20, 60])
def test_nothing_is_clipped(table, clipped, count):
    results = table([f"{i}.mlp[{1000 + i}]" for i in range(count)], metric="kl")
    assert clipped(figures.bars(results, n=count)) == []


def test_several_interventions_for_one_site_are_refused(table):
    results = table(["0.0", "0.1"], receivers=["logits", "3.1.q"])
    with pytest.raises(ResultsError, match=r"site 0.0 has 2 .*receiver: logits, 3.1.q"):
        figures.bars(results)
