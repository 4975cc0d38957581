"""An intervention beside draws of its control: size and coverage where the truth is known."""

import numpy as np
import pytest
from scipy import stats

from interp.core.errors import ResultsError
from interp.core.sampling.draws import LEAST, beside_draws


def made(
    *, draws: int, clusters: int, between: float, inside: float, cells: int = 1500, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An intervention that is itself one of the draws, on clusters of one to four examples.

    Each draw does more or less everywhere (`between`) and in each cluster (`inside`); the clusters
    themselves differ, which is the same for all.
    """
    rng = np.random.default_rng([seed, draws, clusters])
    cluster = np.repeat(np.arange(clusters), 1 + np.arange(clusters) % 4)
    all_ = rng.normal(size=(cells, 1, clusters)) + between * rng.normal(size=(cells, draws + 1, 1))
    all_ = all_ + inside * rng.normal(size=(cells, draws + 1, clusters))
    values = all_[:, :, cluster] + 0.3 * rng.normal(size=(cells, draws + 1, len(cluster)))
    return values[:, 0], values[:, 1:], cluster


@pytest.mark.parametrize("clusters", [8, 40])
@pytest.mark.parametrize("between", [0.0, 0.3, 2.0])
def test_one_draw_against_others_has_p_under_five_percent_that_often(between, clusters):
    value, drawn, cluster = made(draws=8, clusters=clusters, between=between, inside=1.0)
    found = beside_draws(value, drawn, cluster)
    # a binomial of 1,500 at 0.05 has a standard deviation of 0.0056
    assert 0.02 <= (found.p < 0.05).mean() <= 0.065
    inside = (found.low <= 0) & (found.high >= 0)
    np.testing.assert_array_equal(inside, found.p >= 0.05)


def test_paired_with_one_draw_it_would_be_far_more_often():
    """What was wrong: documents alone say nothing of how far another draw is."""
    value, drawn, cluster = made(draws=8, clusters=40, between=0.3, inside=1.0)
    less = value - drawn[:, 0]
    sums = np.stack([less[:, cluster == c].sum(1) for c in range(40)], 1)
    p = stats.ttest_1samp(sums, 0, axis=1).pvalue
    assert (p < 0.05).mean() > 0.15


@pytest.mark.parametrize(("clusters", "between"), [(10, 0.3), (40, 1.0)])
def test_the_interval_covers_the_difference_from_one_more_draw(clusters, between):
    """An intervention that does 2 more than the mean draw, and in some clusters more than that."""
    rng = np.random.default_rng(5)
    cluster = np.repeat(np.arange(clusters), 1 + np.arange(clusters) % 4)
    shared = rng.normal(size=(1500, 1, clusters))
    drawn = shared + between * rng.normal(size=(1500, 8, 1))
    drawn = drawn + 0.5 * rng.normal(size=(1500, 8, clusters))
    value = shared[:, 0] + 2 + rng.normal(size=(1500, clusters))
    found = beside_draws(value[:, cluster], drawn[:, :, cluster], cluster)
    truth = 2 - between * rng.normal(size=1500)
    covered = ((found.low <= truth) & (found.high >= truth)).mean()
    assert 0.92 <= covered <= 0.985


def test_effects_that_are_there_are_found():
    value, drawn, cluster = made(draws=8, clusters=40, between=0.3, inside=1.0)
    found = beside_draws(value + 2.0, drawn, cluster)
    assert (found.p < 0.05).mean() > 0.9
    np.testing.assert_allclose(found.effect, (value + 2.0).mean(1) - drawn.mean((1, 2)))
    np.testing.assert_allclose(found.high - found.effect, found.effect - found.low)


def test_draws_that_do_not_differ_leave_the_interval_over_clusters():
    """With draws that are the same: Student's interval of the paired difference."""
    rng = np.random.default_rng(0)
    value, control = rng.normal(size=(3, 12)), rng.normal(size=(3, 12))
    drawn = np.repeat(control[:, None], 5, axis=1)
    found = beside_draws(value, drawn, np.arange(12))
    truth = stats.ttest_1samp(value - control, 0, axis=1)
    np.testing.assert_allclose(found.p, truth.pvalue)
    np.testing.assert_allclose(found.low, truth.confidence_interval().low)


def test_clusters_that_do_not_differ_leave_the_t_test_of_one_draw_among_others():
    rng = np.random.default_rng(0)
    level = rng.normal(size=(4, 7))
    values = np.repeat(level[:, :, None], 10, axis=2)
    found = beside_draws(values[:, 0], values[:, 1:], np.arange(10))
    off = level[:, 0] - level[:, 1:].mean(1)
    t = off / (level[:, 1:].std(1, ddof=1) * (1 + 1 / 6) ** 0.5)
    np.testing.assert_allclose(found.p, 2 * stats.t.sf(np.abs(t), 5))


def test_nothing_at_all_is_no_difference():
    found = beside_draws(np.ones((2, 6)), np.ones((2, 4, 6)), np.arange(6) // 2)
    assert (found.effect == 0).all() and (found.p == 1).all()
    assert (found.low == 0).all() and (found.high == 0).all()


def test_what_cannot_be_told():
    one = beside_draws(np.zeros((2, 6)), np.ones((2, 4, 6)), np.zeros(6, dtype=int))
    assert (one.effect == -1).all() and np.isnan([one.low, one.high, one.p]).all()
    with pytest.raises(ResultsError, match="1 draw of a control cannot say how far draws differ"):
        beside_draws(np.zeros((2, 6)), np.ones((2, 1, 6)), np.arange(6))
    with pytest.raises(ResultsError, match=f"2 draws .*fewer than {LEAST}.*Take more, about 8"):
        beside_draws(np.zeros((2, 6)), np.ones((2, 2, 6)), np.arange(6))
