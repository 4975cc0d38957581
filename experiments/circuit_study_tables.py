"""Differences over the same bootstrap draws: of areas, and of circuits without some heads."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from interp.causal.curves import Curve, cmd, cpr
from interp.causal.faithfulness import Faithfulness, Wide, by_metric, drawn
from interp.core import stats

WITHOUT = " - "


def ratios(wide: Wide, seed: int) -> Float[ndarray, "circuit 1+draws"]:
    """Faithfulness of each circuit, then in each draw of the clusters."""
    carried, _ = stats.cluster_sums(wide.value - wide.empty, wide.cluster)
    gaps, _ = stats.cluster_sums((wide.full - wide.empty)[None], wide.cluster)
    clusters = len(gaps[0])
    times = np.concatenate([np.ones((1, clusters)), drawn(clusters, seed)])
    with np.errstate(divide="ignore", invalid="ignore"):
        return (carried @ times.T) / (gaps @ times.T)


def interval(found: Float[ndarray, " 1+draws"]) -> dict[str, float]:
    """The number itself, and 95 % of the draws."""
    low, high = np.nanquantile(found[1:], [0.025, 0.975])
    return {"value": float(found[0]), "low": float(low), "high": float(high)}


def gained(curve: Curve, metric: str, better: str, than: str, *, seed: int) -> pd.DataFrame:
    """How much more area one ranking has than another: `measure`, `value`, `low`, `high`."""
    wide = by_metric(curve.runs)[metric]
    f = dict(zip(wide.names, ratios(wide, seed), strict=True))
    rows = []
    for by, area, measure in (("signed", cpr, "CPR"), ("abs", cmd, "CMD")):
        areas = []
        for ranking in (better, than):
            own = curve.runs.frame.query(f"ranking == {ranking!r} and by == {by!r}")
            own = own.drop_duplicates("site").sort_values("fraction")
            nested = np.stack([f[name] for name in own["site"]], axis=-1)
            areas.append(area(own["fraction"].to_numpy(dtype=float), nested))
        rows.append({"measure": measure, **interval(areas[0] - areas[1])})
    return pd.DataFrame(rows)


def lost(judged: Faithfulness, metric: str, *, seed: int) -> pd.DataFrame:
    """How much less faithful circuits are than what they were taken from.

    "circuit - x" is compared with "circuit", and "model - x" with the model, which has 1. Columns:
    `of`, `without`, `value`, `low`, `high`.
    """
    wide = by_metric(judged.runs)[metric]
    f = dict(zip(wide.names, ratios(wide, seed), strict=True))
    rows = []
    for name, found in f.items():
        of, _, without = name.partition(WITHOUT)
        if without:
            rows.append({"of": of, "without": without, **interval(f.get(of, 1.0) - found)})
    return pd.DataFrame(rows, columns=["of", "without", "value", "low", "high"])
