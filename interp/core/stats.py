"""Intervals and tests for per-example effects that come in clusters.

The unit of resampling is the cluster (template, document): prompts of one template share
most of their tokens and are no independent evidence.
"""

import numpy as np
from jaxtyping import Float, Integer
from numpy import ndarray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 10_000
PERMUTATIONS = 9_999


def cluster_sums(
    values: Float[ndarray, "cells examples"], cluster: Integer[ndarray, " examples"]
) -> tuple[Float[ndarray, "cells clusters"], Integer[ndarray, " clusters"]]:
    """Sum of the values in each cluster, and the number of examples in it."""
    members = np.eye(int(cluster.max()) + 1)[cluster]
    return values @ members, members.sum(0).astype(int)


def bootstrap_interval(
    values: Float[ndarray, "cells examples"],
    cluster: Integer[ndarray, " examples"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Float[ndarray, " cells"], Float[ndarray, " cells"]]:
    """95 % percentile interval of the mean over examples, whole clusters drawn with replacement.

    NaN with fewer than two clusters: one cluster says nothing about another.
    """
    sums, counts = cluster_sums(values, cluster)
    if sums.shape[1] < 2:
        return np.full(len(values), np.nan), np.full(len(values), np.nan)
    found = stats.bootstrap(
        (sums, np.broadcast_to(counts, sums.shape)),
        lambda total, n, axis: total.sum(axis) / n.sum(axis),
        paired=True,
        axis=-1,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // sums.size),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return found.confidence_interval.low, found.confidence_interval.high


def sign_flip_p(
    values: Float[ndarray, "cells examples"],
    cluster: Integer[ndarray, " examples"],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Float[ndarray, " cells"]:
    """Two-sided p that the mean is zero, the sign of whole clusters flipped.

    Exact up to 13 clusters (all 2^n flips), else `permutations` random flips. With n clusters
    no p is below 2^(1-n); NaN with fewer than two.
    """
    sums, _ = cluster_sums(values, cluster)
    if sums.shape[1] < 2:
        return np.full(len(values), np.nan)
    found = stats.permutation_test(
        (sums,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, 2_000_000 // sums.size),
        axis=-1,
        rng=np.random.default_rng(seed),
    )
    return found.pvalue


def fdr(p: Float[ndarray, " tests"]) -> Float[ndarray, " tests"]:
    """Benjamini-Hochberg q over one family; NaN (not tested) stays NaN and is not counted."""
    q = np.full(len(p), np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q
