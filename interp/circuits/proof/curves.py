"""Faithfulness against size: nested circuits along a ranking, and the two areas of MIB.

CPR is the area under faithfulness f over the share k of parts that is kept, CMD that between f and
1: how much works in the behaviour's favour, and how close to the whole model small circuits are
(Mueller et al. 2025, sec. 3). By the trapezoid rule over the standard sizes on a linear axis; where
f <= 1 they add up to the width of the axis, 0.999.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from interp.circuits.discovery.closure import Wires
from interp.circuits.discovery.top import By, Closure, circuit_of, merit
from interp.circuits.proof.faithfulness import ByCircuit, Faithfulness, by_metric, empty
from interp.circuits.proof.setting import Given, Mask, Setting
from interp.core.door.door import door
from interp.core.door.taken import Index, Seed
from interp.core.errors import ResultsError
from interp.core.metrics import Metrics
from interp.core.prompts.pairs import Pairs
from interp.core.sampling import stats
from interp.core.tables.attribution import Attribution
from interp.core.tables.results import Results
from interp.core.tables.saved import Saved
from interp.engine.sweep.sweep import Running
from interp.models.model import Model

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
RANKINGS: tuple[By, ...] = ("signed", "abs")
RANDOM = "random"
BOTH = "both"
"""How random rankings are ordered: they have no sign."""


def cpr(fraction: Float[ndarray, " size"], f: Float[ndarray, "*rows size"]) -> ndarray:
    """Circuit performance ratio: the area under f. Higher is better, and it has no bound."""
    return np.asarray(np.trapezoid(f, fraction, axis=-1))


def cmd(fraction: Float[ndarray, " size"], f: Float[ndarray, "*rows size"]) -> ndarray:
    """Circuit-model distance: the area between f and 1. 0 is best."""
    return np.asarray(np.trapezoid(np.abs(1 - f), fraction, axis=-1))


@door
@dataclass(frozen=True, eq=False, repr=False)
class Curve(Saved):
    """Faithfulness of nested circuits, of attributions and of random rankings.

    Attributes:
        runs: as `run_circuits` gives them, `EMPTY` among them, with the columns `ranking` (name of
            the attribution, or "random 3"), `by` ("signed", "abs" or "both") and `fraction`.
    """

    runs: Results

    @door
    def table(self, *, by: By = "abs", seed: Seed = 0) -> pd.DataFrame:
        """What `interp.figures.faithfulness` draws: `method`, `fraction`, `value`, `low`, `high`.

        Of an attribution with 95 % intervals over clusters; "random" is the mean and the range
        of the middle 95 % of the random rankings.

        Raises:
            ResultsError: examples of one cluster only.
        """
        found = Faithfulness(self.runs).summary(seed=seed)
        keys = self.runs.frame[["site", "ranking", "by", "fraction"]].drop_duplicates("site")
        found = found.merge(keys, left_on="circuit", right_on="site")
        found = found[found["by"].isin([by, BOTH])].rename(columns={"ranking": "method"})
        random = found["by"] == BOTH
        columns = ["method", "metric", "fraction", "value", "low", "high"]
        own = found[~random].drop(columns="value").rename(columns={"faithfulness": "value"})
        chance = found[random].groupby(["metric", "fraction"], sort=False)["faithfulness"]
        if not random.any():
            return own[columns].reset_index(drop=True)
        band = pd.DataFrame(
            {
                "value": chance.mean(),
                "low": chance.quantile(0.025),
                "high": chance.quantile(0.975),
            }
        ).reset_index()
        return pd.concat([own[columns], band.assign(method=RANDOM)[columns]], ignore_index=True)

    @door
    def areas(self, *, seed: Seed = 0) -> pd.DataFrame:
        """CPR of the signed rankings, CMD of those by absolute value.

        Columns: `method`, `metric`, `measure`, `value`, `low`, `high`. Intervals: of an
        attribution Student's t with the jackknife over clusters, of "random" the range of the
        random rankings. NaN where the full and the empty model do not differ.

        Raises:
            ResultsError: examples of one cluster only.
        """
        rows = []
        keys = self.runs.frame.drop_duplicates("site").set_index("site")
        for metric, wide in by_metric(self.runs).items():
            distinct = wide.distinct(metric, seed=seed)
            of = keys.loc[wide.names, ["ranking", "by", "fraction"]].reset_index(drop=True)
            for by, area, measure in (("signed", cpr, "CPR"), ("abs", cmd, "CMD")):
                chance = []
                for name, part in of[of["by"].isin([by, BOTH])].groupby("ranking", sort=False):
                    nested = part.sort_values("fraction")
                    at, k = nested.index.to_numpy(), nested["fraction"].to_numpy()
                    found = _area(wide, at, k, area) if distinct else (np.nan,) * 3
                    if part["by"].iloc[0] == BOTH:
                        chance.append(found[0])
                    else:
                        rows.append((name, metric, measure, *found))
                if chance:
                    middle = np.quantile(chance, [0.025, 0.975])
                    rows.append((RANDOM, metric, measure, np.mean(chance), *middle))
        columns = ["method", "metric", "measure", "value", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        try:
            return f"Curve\n{self.areas().to_string(float_format='{:.3g}'.format)}"
        except ResultsError:  # of one cluster
            return f"Curve, without intervals\n{self.runs!r}"


def _area(
    wide: ByCircuit, at: Int[ndarray, " size"], k: Float[ndarray, " size"], area
) -> tuple[float, float, float]:
    """An area, and its interval by the jackknife over clusters."""
    gap = wide.full - wide.empty
    sign = np.sign(gap.mean())
    carried, _ = stats.cluster_sums(sign * (wide.value[at] - wide.empty), wide.cluster)
    gaps, _ = stats.cluster_sums(sign * gap[None], wide.cluster)
    value = area(k, carried.sum(1) / gaps.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        left_out = area(k, (carried.sum(1)[:, None] - carried).T / (gaps.sum() - gaps).T)
    low, high = stats.jackknife_interval(np.atleast_1d(value), left_out[None], np.abs(gaps[0]))
    return float(value), float(low[0]), float(high[0])


@door
def faithfulness_curve(
    model: Model,
    pairs: Pairs,
    attributions: Attribution | Mapping[str, Attribution],
    *,
    sizes: Sequence[float] = SIZES,
    closure: Closure = "greedy",
    random: Index = 10,
    seed: Seed = 0,
    reference: Given = "corrupt",
    metric: Metrics = "logit_diff",
    **running: Unpack[Running],
) -> Curve:
    """Run nested circuits of the best parts of each ranking, and of random rankings.

    Attribute on other prompts than these: a circuit is proved where it was not chosen.

    Args:
        attributions: one (called by its method), or by name. Each is ranked by signed score (the
            most helpful first, as `top_circuit` has it; its area is CPR) and by absolute score
            (CMD). All of the same parts.
        sizes: shares of the parts, in rising order.
        closure: `"greedy"`: from the logits on, always the best edge whose reader's node is in
            already (Hanna et al. 2024); `"none"` or `"prune"`: the best edges wherever they are.
        random: how many random rankings, closed likewise.
        reference, metric: as in `run_circuits`.

    Raises:
        ResultsError: attributions of different parts, models or ablations; one with a NaN, or
            called "random"; sizes that do not rise from above 0 to at most 1.
        Others: as `run_circuits`.
    """
    if isinstance(attributions, Attribution):
        attributions = {str(attributions.frame["method"].iloc[0]): attributions}
    if not attributions:
        raise ResultsError("the mapping of attributions is empty; give at least one ranking.")
    shares = np.asarray(sizes, dtype=float)
    if not (len(shares) > 1 and shares[0] > 0 and shares[-1] <= 1 and (np.diff(shares) > 0).all()):
        raise ResultsError(
            f"sizes={list(sizes)} are shares of the parts: two or more that rise, from above 0 to "
            "at most 1."
        )
    if taken := [name for name in attributions if name.partition(" ")[0] == RANDOM]:
        raise ResultsError(
            f"an attribution is called {taken[0]!r}, and so are the random rankings it is shown "
            "beside. Give it another name."
        )
    first = next(iter(attributions.values()))
    n = len(first)
    edges = bool((first.frame["writer"] != "").all())
    granularity = "edges" if edges else "nodes"
    whole = circuit_of(first, np.arange(n), granularity)
    setting = Setting.of(model, pairs, [whole], reference)
    marks = setting.marks(first.parts)
    for name, other in attributions.items():
        whole.require_like(circuit_of(other, np.arange(0), granularity))
        same = other.frame[["site", "position"]].equals(first.frame[["site", "position"]])
        if not same:
            raise ResultsError(
                f"the attribution {name!r} is of other parts than the first one, or has them in "
                "another order; make both of the same selection."
            )
    wires = Wires.of(first.frame) if edges and closure == "greedy" else None
    rng = np.random.default_rng(seed)
    rankings = [(name, by, merit(one, by)) for name, one in attributions.items() for by in RANKINGS]
    rankings += [(f"{RANDOM} {i}", BOTH, rng.random(n)) for i in range(random)]
    kept: list[Mask] = []
    about: list[tuple[str, str, float]] = []
    for name, by, helps in rankings:
        order = _order(helps, wires)
        for share in shares.tolist():
            chosen = order[: max(1, round(share * n))]
            kept.append(setting.holding(f"{name}, {by}, {share:g}", marks[chosen], granularity))
            about.append((name, by, share))
    runs = setting.run(
        [*kept, empty(setting, whole)],
        metric=metric,
        **running,
    )
    at = runs.frame["site"].map({k.name: i for i, k in enumerate(kept)})
    known = [(*about[int(i)],) if i == i else ("", "", np.nan) for i in at]
    columns = pd.DataFrame(known, columns=["ranking", "by", "fraction"])
    return Curve(Results(runs.frame.join(columns), runs.provenance))


def _order(merit: Float[ndarray, " part"], wires: Wires | None) -> Int[ndarray, " part"]:
    """The parts, best first; with wires, those that the closure never reaches stand last."""
    plain = np.argsort(-merit, kind="stable")
    if wires is None:
        return plain
    taken = np.fromiter(wires.greedy(merit), dtype=int)
    return np.concatenate([taken, plain[~np.isin(plain, taken)]])
