"""Are the estimates right? The top of an attribution measured, and parts at random beside it."""

from dataclasses import dataclass
from html import escape
from typing import Unpack

import numpy as np
import pandas as pd
from jaxtyping import Float, Integer
from numpy import ndarray
from scipy import stats as scipy_stats

from interp.causal.averages import Averaging, averaged
from interp.causal.ranking.exact import exact
from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import ResultsError
from interp.core.metrics import OneMetric, resolve_metric
from interp.core.prompts.pairs import Pairs
from interp.core.sampling import stats
from interp.core.tables.attribution import Attribution
from interp.core.tables.saved import Saved
from interp.engine.sweep.sweep import Running
from interp.models.model import Model

FEWEST = 3
"""Parts of which a rank correlation says anything."""
STATISTICS = ["spearman", "slope", "intercept", "r2"]


@dataclass(frozen=True, eq=False, repr=False)
class Verified(Saved):
    """Estimates beside what was measured, of the same parts on the same examples.

    The top k are chosen by the estimates: among them correlations are of a narrow range, and an
    overestimate is likelier than an underestimate (regression to the mean). The parts at random
    are chosen by nothing; of most of them both numbers are about 0.

    Attributes:
        top, top_exact: the k parts of the largest absolute estimate, and their measured effects.
        random, random_exact: k others, drawn at random; None where fewer than three are left.
    """

    top: Attribution
    top_exact: Attribution
    random: Attribution | None
    random_exact: Attribution | None

    @property
    def table(self) -> pd.DataFrame:
        """One row for each part: `drawn` ("top", "random"), `site`, `position`, `estimate`,
        `exact`, and its 95 % interval over clusters `low`, `high`.
        """
        rows = []
        for drawn, estimate, measured in self._sets:
            _, cluster = np.unique(measured.cluster, return_inverse=True)
            low, high = stats.mean_interval(measured.each.astype(float), cluster)
            rows.append(
                pd.DataFrame(
                    {
                        "drawn": drawn,
                        "site": estimate.frame["site"],
                        "position": estimate.frame["position"],
                        "estimate": estimate.scores,
                        "exact": measured.scores,
                        "low": low,
                        "high": high,
                    }
                )
            )
        return pd.concat(rows, ignore_index=True)

    @door
    def summary(self) -> pd.DataFrame:
        """How well the estimates agree with what was measured, of each set of parts.

        Columns: `drawn`, `parts`, `clusters`; `spearman`, rank correlation of the means over
        examples; `slope` and `intercept` of the least-squares line of exact on estimate (1 and 0
        where estimates are right), `r2` of it; each with `..._low`, `..._high`, 95 %
        intervals over clusters of examples (Student's t with the jackknife; NaN with fewer than
        two), for these parts. What examples differ by lowers every agreement, and most of all
        `r2`: with few examples its interval lies under what many would give.
        """
        rows = []
        for drawn, estimate, measured in self._sets:
            found = agreement(estimate.scores, measured.scores)
            spread = _spread(estimate, measured)
            row = {"drawn": drawn, "parts": len(estimate), "clusters": len(set(measured.cluster))}
            for i, name in enumerate(STATISTICS):
                row |= {name: found[i], f"{name}_low": spread[0, i], f"{name}_high": spread[1, i]}
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def _sets(self) -> list[tuple[str, Attribution, Attribution]]:
        found = [("top", self.top, self.top_exact)]
        if self.random is not None and self.random_exact is not None:
            found.append(("random", self.random, self.random_exact))
        return found

    def __repr__(self) -> str:
        return f"Verified\n{self._shown().to_string(float_format='{:.3g}'.format)}"

    def _repr_html_(self) -> str:
        title = f"<p><b>{escape(self.top.frame['method'].iloc[0])}</b>, measured</p>"
        return title + self._shown().to_html(float_format="{:.3g}".format)

    def _shown(self) -> pd.DataFrame:
        return self.summary().drop(columns=["intercept", "intercept_low", "intercept_high"])


@door
def verify(
    attribution: Attribution,
    model: Model,
    pairs: Pairs,
    *,
    k: Count = 100,
    reference: Averaging = "corrupt",
    metric: OneMetric | None = None,
    seed: Seed = 0,
    **running: Unpack[Running],
) -> Verified:
    """Measure the k parts of the largest absolute estimate, and k others at random.

    Args:
        attribution: of this model and these pairs; its ablation and metric are taken again.
        k: how many of each; fewer of the second where there are not as many.
        reference: as it was given to `attribute`.
        metric: only if it was one of your own, which a table cannot hold.
        seed: of the parts at random.

    Raises:
        ResultsError: an attribution of another model, of other pairs, another reference or metric;
            of several methods or ablations; of examples drawn again; or fewer than three parts.
    """
    own = attribution.provenance
    ablation, methods = own.get("ablation"), attribution.frame["method"].unique().tolist()
    if not isinstance(ablation, str) or len(methods) != 1:
        raise ResultsError(
            f"the attribution has methods {methods} and ablation {ablation!r}: estimates are "
            "verified of one method and one ablation at a time. Give what attribute returned, or "
            "choose one: attribution.query(\"method == 'eap'\")."
        )
    metric = resolve_metric(attribution.frame["metric"].iloc[0] if metric is None else metric)
    again = {"weights": model.weight_hash, "pairs": pairs.fingerprint, "metric": metric.name}
    if ablation == "mean":
        again["reference"] = averaged(pairs, reference).fingerprint
    for what, value in again.items():
        if own.get(what) != value:
            raise ResultsError(
                f"the attribution has {what} {own.get(what)!r}, and this is {value!r}: an estimate "
                "is compared with what is measured on the same model and prompts, in the same way. "
                "Give what attribute was given."
            )
    if attribution.cluster != list(pairs.cluster):
        raise ResultsError(
            f"the attribution has {len(attribution.cluster)} examples in other clusters than the "
            f"{len(pairs)} pairs: likely they were drawn again (resampled), and so are not those "
            "that are measured. Give what attribute returned."
        )
    if min(k, len(attribution)) < FEWEST:
        raise ResultsError(
            f"k={k} of {len(attribution)} parts: of fewer than {FEWEST} no correlation says "
            "anything. Measure them: interp.causal.exact."
        )
    order = np.argsort(-np.abs(attribution.scores), kind="stable")
    others = np.random.default_rng(seed).permutation(order[k:])[:k]
    drawn = [order[:k]] + ([others] if len(others) >= FEWEST else [])
    estimates = [_rows(attribution, np.sort(rows)) for rows in drawn]
    measured = exact(
        model,
        pairs,
        [part for estimate in estimates for part in estimate.parts],
        ablation=ablation,
        reference=reference,
        metric=metric,
        **running,
    )
    first = len(estimates[0])
    found = [_rows(measured, np.arange(first))]
    if len(estimates) == 1:
        return Verified(estimates[0], found[0], None, None)
    found.append(_rows(measured, np.arange(first, len(measured))))
    return Verified(estimates[0], found[0], estimates[1], found[1])


def _rows(attribution: Attribution, rows: Integer[ndarray, " rows"]) -> Attribution:
    frame = attribution.frame.iloc[rows].reset_index(drop=True)
    return Attribution(frame, attribution.provenance)


def agreement(
    estimate: Float[ndarray, "*draws parts"], measured: Float[ndarray, "*draws parts"]
) -> Float[ndarray, "*draws statistic"]:
    """Spearman's rank correlation, slope and intercept of measured on estimate, and R².

    NaN where one of them is constant.
    """
    ranks = scipy_stats.rankdata(estimate, axis=-1), scipy_stats.rankdata(measured, axis=-1)
    spearman = _correlation(*ranks)
    mean, centred = estimate.mean(-1), estimate - estimate.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (centred * measured).sum(-1) / np.square(centred).sum(-1)
    intercept = measured.mean(-1) - slope * mean
    return np.stack([spearman, slope, intercept, _correlation(estimate, measured) ** 2], axis=-1)


def _correlation(
    x: Float[ndarray, "*draws parts"], y: Float[ndarray, "*draws parts"]
) -> Float[ndarray, "*draws"]:
    x, y = (t - t.mean(-1, keepdims=True) for t in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (x * y).sum(-1) / np.sqrt(np.square(x).sum(-1) * np.square(y).sum(-1))
    return np.asarray(found)


def _spread(estimate: Attribution, measured: Attribution) -> Float[ndarray, "2 4"]:
    """Intervals of the agreement: Student's t with the jackknife over clusters."""
    names, cluster = np.unique(measured.cluster, return_inverse=True)
    if len(names) < 2:
        return np.full((2, 4), np.nan)
    means, left_out = [], []
    for table in (estimate, measured):
        sums, counts = stats.cluster_sums(table.each.astype(float), cluster)
        means.append(sums.sum(1) / counts.sum())
        left_out.append((sums.sum(1, keepdims=True) - sums).T / (counts.sum() - counts)[:, None])
    low, high = stats.jackknife_interval(
        agreement(*means), agreement(*left_out).T, counts.astype(float)
    )
    least, most = np.array([[-1, -np.inf, -np.inf, 0], [1, np.inf, np.inf, 1]])
    return np.clip(np.stack([low, high]), least, most)
