"""Intervals and tests for per-example effects that come in clusters.

The unit of resampling is the cluster (template, document): prompts of one template share
most of their tokens and are no independent evidence.
"""

import warnings
from typing import Literal

import numpy as np
from jaxtyping import Float, Integer
from numpy import ndarray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 10_000
PERMUTATIONS = 9_999
Alternative = Literal["two-sided", "greater"]
BLOCK = 250
"""Cells at once, which bounds the memory. The draws are the same for every cell."""
FEW = 5
"""Clusters under which a bootstrap has too few different draws."""
FARTHEST = 3.0
ALPHA, ENOUGH = 0.05, 10
"""With so many clusters some p may stay under alpha after a correction for a few dozen tests."""


def cluster_sums(
    values: Float[ndarray, "cells examples"], cluster: Integer[ndarray, " examples"]
) -> tuple[Float[ndarray, "cells clusters"], Integer[ndarray, " clusters"]]:
    """Sum of the values in each cluster, and the number of examples in it."""
    members = np.eye(int(cluster.max(initial=-1)) + 1)[cluster]
    return values @ members, members.sum(0).astype(int)


def mean_interval(
    values: Float[ndarray, "cells examples"],
    cluster: Integer[ndarray, " examples"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Float[ndarray, " cells"], Float[ndarray, " cells"]]:
    """95 % interval of the mean over examples, with clusters as independent units; as
    `ratio_interval`.
    """
    sums, counts = cluster_sums(values, cluster)
    return ratio_interval(sums, counts.astype(float), resamples=resamples, seed=seed)


def ratio_interval(
    sums: Float[ndarray, "cells clusters"],
    counts: Float[ndarray, "*cells clusters"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Float[ndarray, " cells"], Float[ndarray, " cells"]]:
    """95 % interval of a ratio of sums over clusters: a studentised cluster bootstrap.

    Whole clusters are drawn with replacement, and in each draw the ratio's distance from the one
    found is divided by its own standard error (Efron & Tibshirani 1993, sec. 12.5), that of a
    ratio of sums by linearisation. The quantiles of this are multiplied with the jackknife's
    standard error, which tells more of clusters of unlike sizes. Differences from the book: draws
    without any spread, and quantiles beyond `FARTHEST` times Student's, count as that far.

    With fewer than `FEW` clusters the quantiles are Student's, with as many degrees of freedom as
    clusters of equal size would weigh as much, less one (Carter, Schnepel & Steigerwald 2017).
    `benchmarks/coverage.py` measures how often the truth lies inside.

    The draws are the same for every cell. NaN where fewer than two clusters have any examples (one
    says nothing about another), or a sum is NaN. An interval may leave the range of the values.
    """
    counts = np.broadcast_to(counts, sums.shape)
    clusters = sums.shape[1]
    if clusters < 2:
        return np.full(len(sums), np.nan), np.full(len(sums), np.nan)
    held = (counts != 0).sum(axis=1)
    unknown = np.isnan(sums).any(axis=1) | (held < 2)
    known = np.where(unknown[:, None], 0.0, sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = known.sum(axis=1) / counts.sum(axis=1)
    error = _jackknife_error(known, counts, ratio)
    weights = counts / counts.sum(axis=1, keepdims=True)
    free = np.maximum(1 / np.square(weights).sum(axis=1) - 1, 1)
    low = high = stats.t.ppf((1 + CONFIDENCE) / 2, free)
    if clusters >= FEW:
        rng = np.random.default_rng(seed)
        times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), resamples).astype(float)
        drawn = [
            _studentised(known[part], counts[part], ratio[part], times)
            for part in np.array_split(np.arange(len(sums)), max(1, -(-len(sums) // BLOCK)))
        ]
        below, above = np.concatenate(drawn, axis=1)
        low, high = np.where(held < FEW, (low, high), (above, -below))
    # of values without any spread the quantiles say nothing
    spread = np.where(error > 0, error, 0.0)
    return (
        np.where(unknown, np.nan, ratio - low * spread),
        np.where(unknown, np.nan, ratio + high * spread),
    )


def crossed_interval(
    values: Float[ndarray, "cells examples"],
    cluster: Integer[ndarray, " examples"],
    crossed: Integer[ndarray, " examples"],
    *,
    alternative: Alternative = "two-sided",
) -> tuple[Float[ndarray, " cells"], Float[ndarray, " cells"], Float[ndarray, " cells"]]:
    """95 % interval of the mean, and the p that it is zero, over two crossed kinds of units.

    The variance over units of one kind, plus that over the other, less that over what both have in
    common (Cameron, Gelbach & Miller 2011, eq. 2.11), each by the jackknife, and no smaller than
    the larger of the first two; t with as many degrees of freedom as the kind with fewer units has
    units, less one. Signs cannot be flipped here: no flip of rows keeps both kinds together.

    Returns:
        Low, high and p; NaN where a kind has fewer than two units, or a value is NaN.
    """
    unknown = np.isnan(values).any(axis=1)
    known = np.where(unknown[:, None], 0.0, values)
    both = cluster * (int(crossed.max(initial=-1)) + 1) + crossed
    squares = []
    for unit in (cluster, crossed, np.unique(both, return_inverse=True)[1]):
        sums, counts = cluster_sums(known, unit)
        sizes = np.broadcast_to(counts.astype(float), sums.shape)
        squares.append(np.square(_jackknife_error(sums, sizes, known.mean(axis=1))))
    of_one, of_other, of_both = squares
    error = np.sqrt(np.maximum.reduce([of_one + of_other - of_both, of_one, of_other]))
    free = min(len(np.unique(cluster)), len(np.unique(crossed))) - 1
    if free < 1:
        return (np.full(len(values), np.nan),) * 3
    mean, reach = known.mean(axis=1), stats.t.ppf((1 + CONFIDENCE) / 2, free) * error
    sides, far = (2, np.abs(mean)) if alternative == "two-sided" else (1, mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, far / error, np.where(far == 0, 0.0, np.sign(far) * np.inf))
    # effects that are all the same say no more than their signs do
    least = np.where(error > 0, 0.0, least_p(free + 1))
    p = np.clip(sides * stats.t.sf(t, free), least, 1.0)
    found = (mean - reach, mean + reach, p)
    low, high, p = (np.where(unknown, np.nan, x) for x in found)
    return low, high, p


def jackknife_interval(
    value: Float[ndarray, " cells"],
    left_out: Float[ndarray, "cells clusters"],
    weights: Float[ndarray, " clusters"],
) -> tuple[Float[ndarray, " cells"], Float[ndarray, " cells"]]:
    """95 % interval of a smooth statistic that is no ratio of sums: Student's t by the jackknife.

    Args:
        left_out: its value without each cluster.
        weights: of the clusters, such as their examples; the degrees of freedom are those of
            `ratio_interval` with few clusters.

    NaN where a value is, and with fewer than two clusters.
    """
    clusters = left_out.shape[1]
    if clusters < 2:
        return np.full(len(value), np.nan), np.full(len(value), np.nan)
    free = max(1 / np.square(weights / weights.sum()).sum() - 1, 1)
    off = np.square(left_out - value[:, None]).sum(axis=1)
    wide = stats.t.ppf((1 + CONFIDENCE) / 2, free) * np.sqrt(off * (clusters - 1) / clusters)
    return value - wide, value + wide


def _jackknife_error(
    sums: Float[ndarray, "cells clusters"],
    counts: Float[ndarray, "cells clusters"],
    ratio: Float[ndarray, " cells"],
) -> Float[ndarray, " cells"]:
    """Standard error of a ratio of sums, each cluster left out once."""
    there = counts != 0
    n = there.sum(axis=1)
    rest = counts.sum(axis=1, keepdims=True) - counts
    left_out = (sums.sum(axis=1, keepdims=True) - sums) / np.where(rest == 0, np.nan, rest)
    off = np.where(there, left_out - ratio[:, None], 0.0)
    return np.sqrt(np.nansum(np.square(off), axis=1) * (n - 1) / np.maximum(n, 1))


def _studentised(
    sums: Float[ndarray, "cells clusters"],
    counts: Float[ndarray, "cells clusters"],
    ratio: Float[ndarray, " cells"],
    times: Float[ndarray, "draws clusters"],
) -> Float[ndarray, "two cells"]:
    """Lower and upper quantile of the ratio's distance from the one found, in standard errors."""
    clusters = sums.shape[1]
    same = bool((counts == counts[:1]).all())
    held = counts[:1] if same else counts
    off = sums - np.nan_to_num(ratio)[:, None] * counts
    off = np.where(np.abs(off) > 1e-12 * np.abs(sums).max(axis=1, keepdims=True), off, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = off @ times.T
        by = moved / (held @ times.T)  # of a draw without examples: not a number
        squares = np.square(off) @ times.T - 2 * by * ((off * held) @ times.T)
        squares += np.square(by) * (np.square(held) @ times.T)
        spread = np.sqrt(np.maximum(squares, 0) * clusters / (clusters - 1))
        farthest = FARTHEST * stats.t.ppf((1 + CONFIDENCE) / 2, clusters - 1)
        t = np.where(spread > 1e-9 * np.abs(moved), moved / spread, np.sign(moved) * farthest)
    t = np.where(np.isnan(by), np.nan, np.clip(t, -farthest, farthest))
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    if np.isnan(t).any():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a cell of NaN only
            return np.nanquantile(t, tails, axis=1)
    return np.quantile(t, tails, axis=1)


def sign_flip_p(
    values: Float[ndarray, "cells examples"],
    cluster: Integer[ndarray, " examples"],
    *,
    alternative: Alternative = "two-sided",
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Float[ndarray, " cells"]:
    """p that the mean is zero, the sign of whole clusters flipped.

    Exact up to 13 clusters (all 2^n flips), else `permutations` random flips. With n clusters
    no p is below 2^(1-n), or 2^(-n) of one side; NaN with fewer than two, and where a value is NaN.

    Args:
        alternative: `"greater"` asks on one side only whether the mean is above zero. Where that
            is the question, two-sided p of cells far below zero would loosen `fdr` for all.
    """
    sums, _ = cluster_sums(values, cluster)
    if sums.shape[1] < 2:
        return np.full(len(values), np.nan)
    # whole numbers of at most 40 bits: their sums are exact, in whatever order they are added up
    _, bits = np.frexp(np.abs(sums).sum(axis=1, keepdims=True))
    whole = np.rint(np.ldexp(sums, 40 - bits))

    def p_values(sums: ndarray) -> ndarray:
        found = stats.permutation_test(
            (np.ones(sums.shape[1]),),
            lambda signs, axis: signs @ sums.T,
            permutation_type="samples",
            vectorized=True,
            alternative=alternative,
            n_resamples=permutations,
            batch=1_000,
            axis=-1,
            rng=np.random.default_rng(seed),
        )
        return np.asarray(found.pvalue)

    p = np.concatenate([p_values(block) for block in _blocks(whole)])
    return np.where(np.isnan(sums).any(axis=1), np.nan, p)


def least_p(clusters: int) -> float:
    """The smallest p that `sign_flip_p` can give, two-sided; NaN with fewer than two."""
    return 2.0 ** (1 - clusters) if clusters > 1 else np.nan


def few_clusters(clusters: int, *, crossed: bool = False) -> str:
    """What so few clusters cannot say, for people; nothing of `ENOUGH` and more."""
    if clusters >= ENOUGH:
        return ""
    if crossed and clusters > 1:
        return f"{clusters} clusters of one of the two crossed kinds: intervals are wide"
    if clusters < 2:
        return "one cluster: no interval and no test"
    nothing = ", so nothing can be significant" if least_p(clusters) > ALPHA else ""
    return f"{clusters} clusters: no p can be under {least_p(clusters):.3g}{nothing}"


def fdr(p: Float[ndarray, " tests"], *, family: int | None = None) -> Float[ndarray, " tests"]:
    """Benjamini-Hochberg q over one family; NaN (not tested) stays NaN and is not counted.

    Args:
        family: tests that there were, if more than are shown. Those that are not shown count as
            p = 1, so that q is never less than with all of them.
    """
    q = np.full(len(p), np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        more = max(0, (family or 0) - int(tested.sum()))
        every = np.concatenate([p[tested], np.ones(more)])
        q[tested] = np.asarray(stats.false_discovery_control(every))[: int(tested.sum())]
    return q


def _blocks(sums: Float[ndarray, "cells clusters"]) -> list[ndarray]:
    return np.array_split(sums, max(1, -(-len(sums) // BLOCK)))
