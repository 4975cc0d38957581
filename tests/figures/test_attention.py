import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh

from interp import figures
from interp.core.errors import ResultsError
from interp.core.sampling import stats
from interp.core.tables.results import Results

HEADS = ["23.3", "22.1", "9.10"]


def causal(n: int) -> np.ndarray:
    scores = np.tril(np.random.default_rng(0).gamma(0.4, size=(n, n)) + 1e-6)
    return scores / scores.sum(1, keepdims=True)


def test_bars_are_means_with_the_interval_of_the_mean(looks, clipped):
    results = looks(HEADS)
    figure = figures.attention(results, title="Where they look")
    axes = figure.axes[0]
    keys = ["io", "s1", "s2", "first"]
    assert [t.get_text() for t in axes.get_xticklabels()] == HEADS
    assert [t.get_text() for t in figure.legends[0].get_texts()] == keys
    lines = [c for c in axes.collections if isinstance(c, LineCollection)]
    for key, bars, arms in zip(keys, axes.containers[::2], lines, strict=True):
        for head, bar, arm in zip(HEADS, bars, arms.get_segments(), strict=True):
            rows = results.query(f"site == {head!r} and position == {key!r}").frame
            assert bar.get_height() == pytest.approx(rows["value"].mean())
            low, high = stats.mean_interval(
                rows["value"].to_numpy()[None], rows["cluster"].to_numpy()
            )
            assert (arm[0][1], arm[1][1]) == pytest.approx((low[0], high[0]), abs=0.01)
    assert axes.get_ylim() == (0, 1)
    assert "24 examples, 95 % interval over 8 clusters" in axes.get_xlabel()
    assert clipped(figure) == []


def test_sixteen_heads_fit_and_more_are_refused(looks, clipped):
    assert clipped(figures.attention(looks([f"2{i}.10" for i in range(16)], ["io", "s1"]))) == []
    with pytest.raises(ResultsError, match=r"17 heads; 16 fit.*site in \['0.0', '0.1'\]"):
        figures.attention(looks([f"0.{i}" for i in range(17)]))


def test_other_tables_are_refused(table, looks):
    with pytest.raises(ResultsError, match="no attention probabilities .*path_patch"):
        figures.attention(table(["0.0"]))
    scores = looks(["0.0"])
    frame = scores.frame.assign(value=scores.frame["value"] * 9)
    with pytest.raises(ResultsError, match="outside 0 to 1.*before the softmax"):
        figures.attention(Results(frame, {}))
    ragged = scores.frame.drop(index=[3])
    with pytest.raises(ResultsError, match="same examples"):
        figures.attention(Results(ragged, {}))
    twice = [scores.frame.assign(receiver=r) for r in ("end", "s2")]
    with pytest.raises(ResultsError, match="receiver: end, s2"):
        figures.attention(Results.concat([Results(f, {}) for f in twice]))


def test_pattern_keeps_tokens_as_they_are(clipped):
    tokens = ["<|im_start|>", "␣Mary", "␣$5", "␣and", "$", "␣drink", "an_extraordinarily_long"]
    figure = figures.pattern(causal(7), tokens, title="23.3 on $5 and $")
    axes = figure.axes[0]
    shown = [t.get_text() for t in axes.get_xticklabels()]
    assert shown == [*tokens[:-1], "an_extraordin…"]
    assert not any(t.get_parse_math() for t in [*axes.get_xticklabels(), *axes.get_yticklabels()])
    (mesh,) = axes.findobj(QuadMesh)
    np.testing.assert_array_equal(mesh.get_array(), causal(7))
    assert mesh.get_clim() == (0, 1)
    assert clipped(figure) == []


def test_long_pattern_is_cropped_with_a_note(clipped):
    matrix = causal(57)
    figure = figures.pattern(matrix, [f"␣t{i}" for i in range(57)])
    axes = figure.axes[0]
    (mesh,) = axes.findobj(QuadMesh)
    np.testing.assert_array_equal(mesh.get_array(), matrix[17:, 17:])
    assert axes.get_xticklabels()[0].get_text() == "␣t17"
    hidden = f"{matrix[17:, :17].sum(1).mean():.0%}"
    assert f"on average {hidden} of a query's attention" in axes.get_xlabel()
    assert clipped(figure) == []


@pytest.mark.parametrize("n", [1, 2, 24, 40])
def test_pattern_of_any_size_is_not_clipped(clipped, n):
    assert clipped(figures.pattern(causal(n), ["␣token"] * n)) == []


def test_pattern_of_other_queries_and_hatched_cells(clipped):
    matrix = np.array([[0.5, 0.5, np.nan]])
    figure = figures.pattern(matrix, ["a", "b", "c"], ["q"])
    assert len([p for p in figure.axes[0].patches if p.get_hatch()]) == 1
    assert clipped(figure) == []


def test_pattern_refuses_wrong_shapes_and_scores():
    with pytest.raises(ResultsError, match=r"shape \(3, 3\).*2 queries and 2 keys"):
        figures.pattern(causal(3), ["a", "b"])
    with pytest.raises(ResultsError, match=r"shape \(1, 2, 2\)"):
        figures.pattern(causal(2)[None], ["a", "b"])
    with pytest.raises(ResultsError, match="runs from -3 to 4.*softmax"):
        figures.pattern([[-3, 0], [1, 4]], ["a", "b"])
