from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from interp.core.sampling import stats


def clustered(cells: int, sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values that share a part within a cluster; the rows of a cluster do not stand together."""
    rng = np.random.default_rng(seed)
    cluster = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    shared = rng.normal(0, 1, (cells, len(sizes)))[:, cluster]
    return 0.5 + shared + rng.normal(0, 0.3, (cells, len(cluster))), cluster


def test_sums_and_sizes():
    values, cluster = clustered(3, [4, 1, 2])
    sums, counts = stats.cluster_sums(values, cluster)
    assert counts.tolist() == [4, 1, 2]
    expected = [[row[cluster == c].sum() for c in range(3)] for row in values]
    np.testing.assert_allclose(sums, expected)


def by_hand(sums: np.ndarray, counts: np.ndarray, draws: np.ndarray) -> tuple[float, float]:
    """The studentised bootstrap of one ratio, draw by draw."""

    def linear_error(sums: np.ndarray, counts: np.ndarray) -> float:
        ratio = sums.sum() / counts.sum()
        return scipy_stats.sem((sums - ratio * counts) / counts.mean())

    ratio, clusters = sums.sum() / counts.sum(), range(len(sums))
    left_out = [np.delete(sums, g).sum() / np.delete(counts, g).sum() for g in clusters]
    error = np.sqrt((len(sums) - 1) / len(sums) * np.square(left_out - ratio).sum())
    drawn = [(sums[d], counts[d]) for d in draws]
    t = [(s.sum() / n.sum() - ratio) / linear_error(s, n) for s, n in drawn]
    low, high = np.quantile(t, [0.025, 0.975])
    return ratio - high * error, ratio - low * error


def test_interval_against_a_loop_over_the_same_draws():
    values, cluster = clustered(2, [3, 1, 5, 2, 4, 2, 7, 3, 6])
    low, high = stats.mean_interval(values, cluster, resamples=300, seed=7)
    times = np.random.default_rng(7).multinomial(9, np.full(9, 1 / 9), 300)
    draws = [np.repeat(np.arange(9), t) for t in times]
    sums, counts = stats.cluster_sums(values, cluster)
    for cell in range(2):
        expected = by_hand(sums[cell], counts, draws)
        np.testing.assert_allclose([low[cell], high[cell]], expected, rtol=1e-9)


def test_of_many_clusters_it_is_students():
    values, _ = clustered(1, [1] * 400)
    low, high = stats.mean_interval(values, np.arange(400))
    peer = scipy_stats.ttest_1samp(values[0], 0).confidence_interval(0.95)
    np.testing.assert_allclose([low[0], high[0]], [peer.low, peer.high], rtol=0.03)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_of_few_equal_clusters_it_is_students(n):
    values, cluster = clustered(3, [4] * n)
    low, high = stats.mean_interval(values, cluster)
    means = np.stack([values[:, cluster == c].mean(1) for c in range(n)], 1)
    for cell in range(3):
        peer = scipy_stats.ttest_1samp(means[cell], 0).confidence_interval(0.95)
        np.testing.assert_allclose([low[cell], high[cell]], [peer.low, peer.high])


@pytest.mark.parametrize("clusters", [3, 5, 10])
@pytest.mark.parametrize("kind", ["normal", "skewed", "sizes"])
def test_interval_covers_the_truth(kind, clusters):
    """As often as benchmarks/coverage.py says, of 1,000 simulated tables."""
    rng, shape = np.random.default_rng([5, clusters]), (1_000, clusters)
    counts = np.full(shape, 8.0)
    if kind == "normal":
        sums = 8 * rng.normal(size=shape)
    elif kind == "skewed":
        sums = 8 * (rng.exponential(size=shape) - 1)
    else:
        counts = np.ceil(rng.lognormal(3, 1.3, size=shape))
        sums = rng.binomial(counts.astype(int), rng.beta(8, 2, size=shape)) - 0.8 * counts
    low, high = stats.ratio_interval(sums, counts, resamples=2_000)
    covered = np.mean((low <= 0) & (high >= 0))
    least = {"normal": 0.93, "skewed": 0.87 if clusters < stats.FEW else 0.91, "sizes": 0.9}[kind]
    assert least <= covered <= 0.985


def test_p_of_nothing_is_small_as_often_as_it_says():
    rng = np.random.default_rng(2)
    for clusters in (8, 20):
        p = stats.sign_flip_p(rng.standard_t(4, size=(2_000, clusters)), np.arange(clusters))
        assert 0.03 < np.mean(p < 0.05) < 0.07


def test_clusters_are_the_unit_and_examples_the_weight():
    values, cluster = clustered(1, [7, 7, 7, 7, 7, 7])
    low, high = stats.mean_interval(values, cluster)
    assert low[0] < values.mean() < high[0]
    alone_low, alone_high = stats.mean_interval(values, np.arange(42))
    assert alone_high[0] - alone_low[0] < high[0] - low[0]


def test_draws_that_say_nothing_make_no_endless_interval():
    """Nine clusters agree, one does not: most draws have no spread at all."""
    values = np.array([[1.0] * 9 + [0.0]])
    low, high = stats.mean_interval(values, np.arange(10))
    error = values.std(ddof=1) / np.sqrt(10)
    most = stats.FARTHEST * scipy_stats.t.ppf(0.975, 9) * error
    assert 0.9 - most - 1e-12 <= low[0] < 0.9 < high[0] <= 0.9 + most + 1e-12
    low, high = stats.mean_interval(np.full((1, 10), 0.3), np.arange(10))
    np.testing.assert_allclose([low[0], high[0]], 0.3, rtol=1e-12)


def test_jackknife_of_a_mean_is_students():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 8))
    left_out = (values.sum(1, keepdims=True) - values) / 7
    low, high = stats.jackknife_interval(values.mean(1), left_out, np.ones(8))
    found = scipy_stats.ttest_1samp(values, 0, axis=1).confidence_interval()
    np.testing.assert_allclose([low, high], [found.low, found.high])
    one = stats.jackknife_interval(values.mean(1), left_out[:, :1], np.ones(1))
    assert np.isnan(one).all()


def test_a_cell_that_few_clusters_have():
    """Whatever else is in the table: a cell of four clusters is as if there were no others."""
    rng = np.random.default_rng(0)
    sums, counts = rng.normal(size=(1, 4)), np.array([[3.0, 5.0, 2.0, 4.0]])
    alone = stats.ratio_interval(sums, counts)
    wide = np.zeros((1, 9))
    wide[:, [0, 3, 5, 8]] = sums
    held = np.zeros((1, 9))
    held[:, [0, 3, 5, 8]] = counts
    np.testing.assert_allclose(stats.ratio_interval(wide, held), alone)
    one = np.zeros((1, 9))
    one[:, 2] = 3.0
    assert np.isnan(stats.ratio_interval(one, one)).all()


@settings(max_examples=30)
@given(
    arrays(float, (3, 8), elements=st.floats(-100, 100)),
    st.floats(-10, 10),
    st.floats(0.1, 10),
)
def test_interval_moves_and_scales_with_the_values(values, shift, scale):
    cluster = np.array([0, 0, 1, 2, 2, 2, 3, 4])
    low, high = stats.mean_interval(values, cluster, resamples=100)
    assert (low <= high).all()
    moved = np.array(stats.mean_interval(scale * values + shift, cluster, resamples=100))
    np.testing.assert_allclose(moved, scale * np.array([low, high]) + shift, atol=1e-9)
    flipped = np.array(stats.mean_interval(-values, cluster, resamples=100))
    np.testing.assert_allclose(flipped, [-high, -low], atol=1e-9)


def test_one_cluster_says_nothing():
    values, cluster = np.arange(6.0).reshape(2, 3), np.zeros(3, dtype=int)
    found = [*stats.mean_interval(values, cluster), stats.sign_flip_p(values, cluster)]
    assert np.isnan(found).all()
    assert np.shape(found) == (3, 2)


def brute_force_p(values: np.ndarray, cluster: np.ndarray) -> float:
    """All signs of all clusters: how many make a mean as far from 0 as the one found?"""
    n = cluster.max() + 1
    found = abs(values.mean())
    far = [
        abs((np.array(signs)[cluster] * values).mean()) >= found - 1e-12
        for signs in product([1, -1], repeat=n)
    ]
    return float(np.mean(far))


@pytest.mark.parametrize("sizes", [[1, 1], [3, 1, 2], [1, 4, 2, 2, 1], [2, 1] * 5])
def test_sign_flip_is_exact_for_few_clusters(sizes):
    values, cluster = clustered(4, sizes)
    values[1] += 5
    values[2] = np.round(values[2])
    expected = [brute_force_p(row, cluster) for row in values]
    np.testing.assert_allclose(stats.sign_flip_p(values, cluster), expected, rtol=1e-12)


@pytest.mark.parametrize("sizes", [[1, 1], [3, 1, 2], [2, 1] * 5])
def test_one_side_is_exact_for_few_clusters(sizes):
    values, cluster = clustered(4, sizes)
    values[1] -= 5
    values[2] = np.round(values[2])
    flips = np.array(list(product([1, -1], repeat=len(sizes))))[:, cluster]
    means = values @ flips.T
    expected = (means >= values.sum(1, keepdims=True) - 1e-12).mean(1)
    p = stats.sign_flip_p(values, cluster, alternative="greater")
    np.testing.assert_allclose(p, expected, rtol=1e-12)
    assert p[1] > 0.5


@pytest.mark.parametrize("n", [2, 3, 6, 13])
def test_smallest_p(n):
    rng = np.random.default_rng(n)
    values = rng.uniform(0.1, 1, (5, n))
    values[1::2] *= -1
    np.testing.assert_allclose(stats.sign_flip_p(values, np.arange(n)), 2.0 ** (1 - n))
    one = stats.sign_flip_p(values, np.arange(n), alternative="greater")
    np.testing.assert_allclose(one[::2], 2.0**-n)


@given(arrays(float, 6, elements=st.integers(-4, 4)), st.sampled_from([1.0, 0.25, 2.0**-60]))
def test_ties_are_counted(values, scale):
    expected = brute_force_p(values, np.arange(6))
    assert stats.sign_flip_p(scale * values[None], np.arange(6))[0] == pytest.approx(expected)


@pytest.mark.parametrize("n", [5, 8, 13])
def test_p_does_not_depend_on_the_order_of_the_clusters(n):
    # sums that nearly cancel: the last bit of a float sum would decide what ties with what
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (100, n))
    values[:, -1] -= values.sum(1) * (1 - 1e-7)
    p = stats.sign_flip_p(values, np.arange(n))
    np.testing.assert_array_equal(stats.sign_flip_p(values[:, ::-1], np.arange(n)), p)
    np.testing.assert_array_equal(stats.sign_flip_p(values, rng.permutation(n)), p)
    np.testing.assert_array_equal(stats.sign_flip_p(-values, np.arange(n)), p)


def test_many_clusters_take_random_flips():
    values, cluster = clustered(3, [2] * 14)
    values[0] += 10
    p = stats.sign_flip_p(values, cluster, permutations=999)
    assert p[0] == pytest.approx(2 / 1000)  # never 0
    exact = [brute_force_p(row, cluster) for row in values[1:]]
    np.testing.assert_allclose(p[1:], exact, atol=0.06)


@pytest.mark.parametrize("clusters", [10, 30])
def test_p_is_uniform_under_the_null(clusters):
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(clusters), 3)
    shared = rng.standard_t(3, (1_000, clusters))[:, cluster]
    p = stats.sign_flip_p(shared + rng.normal(0, 0.5, shared.shape), cluster, permutations=999)
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.035 < (p <= 0.05).mean() < 0.065
    # examples taken for independent would be far from it
    naive = stats.sign_flip_p(shared, np.arange(3 * clusters), permutations=999)
    assert (naive <= 0.05).mean() > 0.15


def test_the_seed_and_nothing_else_decides():
    values, cluster = clustered(7, [2, 1, 3] * 6)
    for one in (stats.mean_interval, stats.sign_flip_p):
        first, again = one(values, cluster, seed=1), one(values, cluster, seed=1)
        np.testing.assert_array_equal(first, again)
        assert (np.array(first) != np.array(one(values, cluster, seed=2))).any()
        # a cell gets the same number whatever stands beside it in the table
        alone = np.array(one(values[3:4], cluster, seed=1))
        np.testing.assert_allclose(alone[..., 0], np.array(first)[..., 3], rtol=1e-12)


def test_blocks_of_cells_change_no_number(monkeypatch):
    values, cluster = clustered(7, [2, 1, 3] * 6)
    whole = np.array(stats.mean_interval(values, cluster, resamples=200))
    p = stats.sign_flip_p(values, cluster, permutations=200)
    monkeypatch.setattr(stats, "BLOCK", 3)
    blocks = np.array(stats.mean_interval(values, cluster, resamples=200))
    np.testing.assert_allclose(blocks, whole, rtol=1e-12)
    np.testing.assert_array_equal(stats.sign_flip_p(values, cluster, permutations=200), p)


def test_nan_stays_with_its_cell():
    values, cluster = clustered(3, [2, 1, 3])
    low, high = stats.mean_interval(values, cluster)
    p = stats.sign_flip_p(values, cluster)
    values[1, 2] = np.nan
    for found, before in zip(stats.mean_interval(values, cluster), (low, high), strict=True):
        np.testing.assert_allclose(found, [before[0], np.nan, before[2]])
    np.testing.assert_array_equal(stats.sign_flip_p(values, cluster), [p[0], np.nan, p[2]])


def test_no_cells():
    values, cluster = np.empty((0, 4)), np.array([0, 0, 1, 2])
    assert [x.shape for x in stats.mean_interval(values, cluster)] == [(0,), (0,)]
    assert stats.sign_flip_p(values, cluster).shape == (0,)


@given(arrays(float, st.integers(1, 12), elements=st.floats(0, 1)))
def test_fdr_by_its_definition(p):
    m = len(p)
    rank = np.argsort(np.argsort(p, kind="stable"), kind="stable") + 1
    expected = [min(1, min(p[j] * m / rank[j] for j in range(m) if p[j] >= p[i])) for i in range(m)]
    q = stats.fdr(p)
    np.testing.assert_allclose(q, expected)
    assert (q >= p - 1e-12).all()


def test_fdr_by_hand_and_nan_is_not_counted():
    q = stats.fdr(np.array([0.01, np.nan, 0.04, 0.03, np.nan, 0.5]))
    np.testing.assert_allclose(q, [0.04, np.nan, 0.16 / 3, 0.16 / 3, np.nan, 0.5])
    assert np.isnan(stats.fdr(np.array([np.nan, np.nan]))).all()
    assert stats.fdr(np.array([])).shape == (0,)
