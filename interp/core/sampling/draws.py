"""What one intervention does beside several draws of its control, over clusters and over draws.

A single draw says what that draw does. Of several one sees how far draws differ, and only what is
farther from their mean than draws are from one another is more than a control does.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from numpy import ndarray
from scipy import stats

from interp.core.errors import ResultsError
from interp.core.sampling.stats import CONFIDENCE, cluster_sums

LEAST = 3
"""Draws: of two, the test has p < 0.05 in up to 12 % where nothing is there, of three in 8 %."""


@dataclass(frozen=True)
class Beside:
    """Differences from a control, one for each cell.

    Attributes:
        effect: mean over examples of the value less the mean of the draws.
        low, high: 95 % interval of the difference from one more draw, on more clusters.
        p: two-sided, that the intervention is as one of the draws.
    """

    effect: Float[ndarray, " cells"]
    low: Float[ndarray, " cells"]
    high: Float[ndarray, " cells"]
    p: Float[ndarray, " cells"]


def beside_draws(
    values: Float[ndarray, "cells examples"],
    drawn: Float[ndarray, "cells draws examples"],
    cluster: Integer[ndarray, " examples"],
) -> Beside:
    """The difference between an intervention and one more draw of its control.

    Clusters and draws are crossed, and both are random: a draw does more or less everywhere
    (variance B), and more or less in each cluster. The variance of the difference is

        J + (1 + 1 / draws) B,    B = max(0, s^2 - I)

    with J that of the difference from the mean of the draws over clusters (jackknife, paired), s^2
    that of the draws' means, and I what the clusters alone put into s^2 (jackknife of each draw's
    distance from their mean): the expected mean squares of a two-way layout (Searle, Casella &
    McCulloch 1992, sec. 4.3). The quantiles are Student's, with Satterthwaite's degrees of freedom
    for the sum of J and (1 + 1 / draws) s^2, but no fewer than the smaller of draws - 1 and the
    clusters', since B may come out as next to nothing. That supposes means of draws that are about
    normal, which so few cannot show; `benchmarks/coverage.py` measures what comes of it: among
    eight draws p < 0.05 in 3 to 6 %, and in up to 8 % where they are as skewed as an exponential.

    NaN of p and the interval with fewer than two clusters.

    Raises:
        ResultsError: fewer than `LEAST` draws.
    """
    cells, draws, examples = drawn.shape
    if draws < LEAST:
        raise ResultsError(
            f"{draws} draw{'s' * (draws > 1)} of a control cannot say how far draws differ, and "
            f"with fewer than {LEAST} the test errs too often. Take more, about 8."
        )
    both = np.concatenate([values[:, None], drawn], axis=1)
    sums, counts = cluster_sums(both.reshape(-1, examples), cluster)
    sums = sums.reshape(cells, draws + 1, -1)
    held, clusters = counts / counts.sum(), len(counts)
    means = sums.sum(-1) / counts.sum()
    effect = means[:, 0] - means[:, 1:].mean(1)
    if clusters < 2:
        unknown = np.full(cells, np.nan)
        return Beside(effect, unknown, unknown, unknown)
    left_out = (sums.sum(-1, keepdims=True) - sums) / (counts.sum() - counts)

    def jackknife(of: Float[ndarray, "*cells clusters"], at: ndarray) -> ndarray:
        return np.square(of - at[..., None]).sum(-1) * (clusters - 1) / clusters

    middle = left_out[:, 1:].mean(1)
    over_clusters = jackknife(left_out[:, 0] - middle, effect)
    apart = means[:, 1:] - means[:, 1:].mean(1, keepdims=True)
    own = jackknife(left_out[:, 1:] - middle[:, None], apart).mean(1) * draws / (draws - 1)
    seen = means[:, 1:].var(1, ddof=1)
    over_draws = (1 + 1 / draws) * np.maximum(seen - own, 0)
    variance = over_clusters + over_draws
    # as many degrees of freedom as clusters of equal size would weigh as much, less one
    weighed = max(1 / np.square(held).sum() - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        by_draws = np.square((1 + 1 / draws) * seen) / (draws - 1)
        free = np.square(variance) / (np.square(over_clusters) / weighed + by_draws)
        free = np.where(over_draws > 0, np.maximum(free, min(draws - 1, weighed)), weighed)
        t = np.abs(effect) / np.sqrt(variance)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, free) * np.sqrt(variance)
    p = np.where(effect == 0, 1.0, 2 * stats.t.sf(t, free))
    return Beside(effect, effect - reach, effect + reach, p)
