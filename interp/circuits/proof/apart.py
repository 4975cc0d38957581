"""What one circuit or ranking has more than another, by the clusters that both were run on."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from interp.circuits.proof.curves import Curve, cmd, cpr
from interp.circuits.proof.faithfulness import ByCircuit, Faithfulness, by_metric
from interp.core.sampling import stats

WITHOUT = " - "


def ratios(wide: ByCircuit) -> Float[ndarray, "circuit _"]:
    """Faithfulness of each circuit, then without each of the clusters."""
    carried, _ = stats.cluster_sums(wide.value - wide.empty, wide.cluster)
    gaps, _ = stats.cluster_sums((wide.full - wide.empty)[None], wide.cluster)
    clusters = len(gaps[0])
    times = np.concatenate([np.ones((1, clusters)), 1 - np.eye(clusters)])
    with np.errstate(divide="ignore", invalid="ignore"):
        return (carried @ times.T) / (gaps @ times.T)


def interval(found: Float[ndarray, " _"]) -> dict[str, float]:
    """The number itself, and its 95 % interval by the jackknife over clusters."""
    low, high = stats.jackknife_interval(found[:1], found[None, 1:], np.ones(len(found) - 1))
    return {"value": float(found[0]), "low": float(low[0]), "high": float(high[0])}


def gained(curve: Curve, metric: str, better: str, than: str) -> pd.DataFrame:
    """How much more area one ranking has than another: `measure`, `value`, `low`, `high`."""
    wide = by_metric(curve.runs)[metric]
    f = dict(zip(wide.names, ratios(wide), strict=True))
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


def lost(judged: Faithfulness, metric: str) -> pd.DataFrame:
    """How much less faithful circuits are than what they were taken from.

    "circuit - x" is compared with "circuit", and "model - x" with the model, which has 1. Columns:
    `of`, `without`, `value`, `low`, `high`.
    """
    wide = by_metric(judged.runs)[metric]
    f = dict(zip(wide.names, ratios(wide), strict=True))
    rows = []
    for name, found in f.items():
        of, _, without = name.partition(WITHOUT)
        if without:
            rows.append({"of": of, "without": without, **interval(f.get(of, 1.0) - found)})
    return pd.DataFrame(rows, columns=["of", "without", "value", "low", "high"])
