"""Faithfulness: how much of the behaviour a circuit carries by itself.

Ratios of means, never means of ratios: a prompt whose gap is near 0 has a ratio that is anything
(Miller et al. 2024, sec. 4.3). The distribution over prompts stands beside it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Unpack

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Integer
from numpy import ndarray

from interp.circuits.proof.run import warn_of_unconnected
from interp.circuits.proof.setting import Given, Mask, Setting
from interp.core.door.door import door
from interp.core.door.taken import Seed
from interp.core.errors import ResultsError, Unsupported, nearest
from interp.core.metrics import Metrics
from interp.core.parts.circuit import Circuit
from interp.core.prompts.pairs import Pairs
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.core.tables.saved import Saved
from interp.engine.sweep.sweep import Running
from interp.models.model import Model

log = logging.getLogger("interp")

EMPTY = "(nothing)"
"""The name of the circuit without parts: the ablated run."""
METRICS = ("logit_diff", "kl", "accuracy")
ROUNDING = 10
"""Units of rounding that a gap must exceed: with equal sides it is noise of one sign."""


@door
@dataclass(frozen=True, eq=False, repr=False)
class Faithfulness(Saved):
    """Circuits beside the full model and the one without any part.

    Attributes:
        runs: as `run_circuits` gives them, with the circuit named `EMPTY` among them.
    """

    runs: Results

    def __post_init__(self) -> None:
        if EMPTY not in set(self.runs.frame["site"]):
            raise ResultsError(
                f"the table has no circuit {EMPTY!r}, which says what a model without the circuit "
                "does. Make it with interp.circuits.faithfulness."
            )

    @door
    def summary(self, *, seed: Seed = 0) -> pd.DataFrame:
        """Each circuit by each metric m, over the examples.

        Columns: `circuit`, `size`, `metric`, then means: `full`, m of the clean model; `empty`, m
        with everything ablated; `value`, m of the circuit. `faithfulness`, (value - empty) /
        (full - empty), a ratio of means, with `low` and `high` (95 %, clusters drawn again).
        `difference`, full - value (Wang et al. 2022 give its absolute value), with
        `difference_low` and `difference_high`. `median`, `lower`, `upper`: quartiles of the
        examples' own ratios. `n`, `clusters`.

        Where the interval of full - empty holds 0, or it is no more than rounding, there is nothing
        to be faithful to: `faithfulness` and its interval are NaN, and a warning is logged.

        Raises:
            ResultsError: examples of one cluster only, which have no interval.
        """
        rows = []
        for metric, wide in by_metric(self.runs).items():
            gap = wide.full - wide.empty
            low, high = stats.mean_interval(gap[None], wide.cluster, seed=seed)
            distinct = wide.distinct(metric, seed=seed)
            carried = wide.value - wide.empty
            ratio = carried.mean(1) / gap.mean() if distinct else np.full(len(carried), np.nan)
            ends = _ratio_interval(carried, gap, wide.cluster, seed) if distinct else (ratio, ratio)
            lost = wide.full - wide.value
            lost_low, lost_high = stats.mean_interval(lost, wide.cluster, seed=seed)
            quartiles = _quartiles(carried, gap)
            rows.append(
                pd.DataFrame(
                    {
                        "circuit": wide.names,
                        "size": wide.sizes,
                        "metric": metric,
                        "full": wide.full.mean(),
                        "empty": wide.empty.mean(),
                        "gap_low": low[0],
                        "gap_high": high[0],
                        "value": wide.value.mean(1),
                        "faithfulness": ratio,
                        "low": ends[0],
                        "high": ends[1],
                        "difference": lost.mean(1),
                        "difference_low": lost_low,
                        "difference_high": lost_high,
                        "lower": quartiles[0],
                        "median": quartiles[1],
                        "upper": quartiles[2],
                        "n": len(gap),
                        "clusters": int(wide.cluster.max()) + 1,
                    }
                )
            )
        return pd.concat(rows, ignore_index=True)

    @door
    def each(self, circuit: str, metric: str) -> Float[ndarray, " example"]:
        """The ratio of each example: NaN where full and empty are equal, wild where nearly so.

        Raises:
            ResultsError: no such circuit or metric in the table.
        """
        wide = of_metric(self.runs, metric)
        if circuit not in wide.names:
            raise ResultsError(f"no circuit {circuit!r} was run; {nearest(circuit, wide.names)}")
        gap = wide.full - wide.empty
        with np.errstate(divide="ignore", invalid="ignore"):
            found = (wide.value[wide.names.index(circuit)] - wide.empty) / gap
        return np.where(gap == 0, np.nan, found)

    def __repr__(self) -> str:
        try:
            shown = self.summary()[["circuit", "size", "metric", "faithfulness", "low", "high"]]
        except ResultsError:  # of one cluster: the runs are there all the same
            return f"Faithfulness, without intervals\n{self.runs!r}"
        return f"Faithfulness\n{shown.to_string(float_format='{:.3g}'.format)}"


class ByCircuit(NamedTuple):
    """One metric of a table of circuits, without the empty one."""

    names: list[str]
    sizes: list[int]
    value: Float[ndarray, "circuit example"]
    full: Float[ndarray, " example"]
    empty: Float[ndarray, " example"]
    cluster: Integer[ndarray, " example"]
    eps: float
    """Of the model's dtype."""

    def distinct(self, metric: str, *, seed: int = 0) -> bool:
        """Does what is ablated do anything on the whole? Says so if not.

        Raises:
            ResultsError: examples of one cluster only.
        """
        if len(np.unique(self.cluster)) < 2:
            raise ResultsError(
                f"the {len(self.full)} prompts are of one cluster, so no interval can tell whether "
                "the circuit explains anything. Take prompts of several templates, or give each "
                "row a cluster of its own if they are independent (Pairs(cluster=...))."
            )
        gap = (self.full - self.empty)[None]
        low, high = stats.mean_interval(gap, self.cluster, seed=seed)
        largest = max(np.abs(self.full).mean(), np.abs(self.empty).mean())
        known = np.abs(self.full).max() > self.eps  # of a divergence it is 0, and no scale
        noise = ROUNDING * self.eps * (largest if known else 1.0)
        # a divergence from the full model has one sign, so few clusters leave nothing open
        told = not known and bool((np.abs(gap) > noise).all())
        if (low[0] <= 0 <= high[0] and not told) or abs(gap.mean()) <= noise:
            log.warning(
                "The full and the empty model differ by %.3g in %s (95 %% interval %.3g to %.3g): "
                "there is nothing that a circuit could explain, and no faithfulness. Take prompts "
                "that the model answers, or another corruption.",
                *(gap.mean(), metric, low[0], high[0]),
            )
            return False
        return True


def of_metric(runs: Results, metric: str) -> ByCircuit:
    """A table of circuits as arrays, by one metric.

    Raises:
        ResultsError: it was not measured, or as `by_metric`.
    """
    found = by_metric(runs)
    if metric not in found:
        raise ResultsError(f"no run was scored by {metric!r}; {nearest(metric, found)}")
    return found[metric]


def by_metric(runs: Results) -> dict[str, ByCircuit]:
    """A table of circuits as arrays, metric by metric.

    Raises:
        ResultsError: a table of something else, or circuits that were not all run on the same
            examples.
    """
    if "size" not in runs.frame:
        raise ResultsError(
            "the table has no column 'size', so it is not of circuits; run_circuits, faithfulness "
            "and null_test make one."
        )
    found = {}
    dtype = getattr(torch, str(runs.provenance.get("dtype")), torch.float32)
    for metric, frame in runs.frame.groupby("metric", sort=False):
        site, names = pd.factorize(frame["site"])
        example, examples = pd.factorize(frame["example"], sort=True)
        cluster, _ = pd.factorize(frame["cluster"].astype(str), sort=True)
        shape = len(names), len(examples)
        of_example, sizes = np.empty(shape[1], dtype=int), np.empty(shape[0], dtype=int)
        of_example[example], sizes[site] = cluster, frame["size"]
        whole = len(frame) == shape[0] * shape[1] and (of_example[example] == cluster).all()
        if not whole or frame.duplicated(["site", "example"]).any() or EMPTY not in names:
            raise ResultsError(
                "the circuits were not all run on the same examples, or one stands twice in the "
                f"table: {len(frame)} rows of {metric} for {shape[0]} circuits ({EMPTY!r} must be "
                f"one) and {shape[1]} examples. Choose with query()."
            )
        value, base = np.empty(shape), np.empty(shape[1])
        value[site, example], base[example] = frame["value"], frame["base"]
        at = list(names).index(EMPTY)
        rest = [i for i in range(shape[0]) if i != at]
        found[str(metric)] = ByCircuit(
            [str(names[i]) for i in rest],
            sizes[rest].tolist(),
            value[rest],
            base,
            value[at],
            of_example,
            torch.finfo(dtype).eps,
        )
    return found


@door
def faithfulness(
    model: Model,
    pairs: Pairs,
    circuits: Circuit | Mapping[str, Circuit],
    *,
    reference: Given = "corrupt",
    metric: Metrics = METRICS,
    **running: Unpack[Running],
) -> Faithfulness:
    """Run circuits, and the model without any part, and judge them by several metrics.

    Args:
        circuits, reference, metric: as in `run_circuits`.

    Raises:
        ResultsError: a circuit of another model, or one that is called `EMPTY`.
        Unsupported: circuits of edges and of nodes in one call.
        Others: as `run_circuits`.
    """
    named = {"circuit": circuits} if isinstance(circuits, Circuit) else dict(circuits)
    if EMPTY in named or not named:
        raise ResultsError(
            f"give at least one circuit, and none the name {EMPTY!r}: it is that of the empty one."
        )
    if len(kinds := sorted({circuit.granularity for circuit in named.values()})) > 1:
        raise Unsupported(
            f"circuits of {' and of '.join(kinds)} stand in one call, and what they are faithful "
            "against is not the same: without parts, those of nodes still have the embedding. "
            "Judge each kind by itself."
        )
    setting = Setting.of(model, pairs, list(named.values()), reference)
    kept = [setting.kept(name, circuit) for name, circuit in named.items()]
    runs = setting.run(
        [*kept, empty(setting, next(iter(named.values())))],
        metric=metric,
        **running,
    )
    warn_of_unconnected(runs, named)
    return Faithfulness(runs)


def empty(setting: Setting, like: Circuit) -> Mask:
    """The circuit without parts; of nodes it still has the embedding."""
    return setting.kept(EMPTY, like.holding(frozenset()))


def _ratio_interval(
    carried: Float[ndarray, "circuit example"],
    gap: Float[ndarray, " example"],
    cluster: Integer[ndarray, " example"],
    seed: int,
) -> tuple[Float[ndarray, " circuit"], Float[ndarray, " circuit"]]:
    sign = np.sign(gap.mean())
    sums, _ = stats.cluster_sums(sign * carried, cluster)
    gaps, _ = stats.cluster_sums(sign * gap[None], cluster)
    return stats.ratio_interval(sums, gaps, seed=seed)


def _quartiles(
    carried: Float[ndarray, "circuit example"], gap: Float[ndarray, " example"]
) -> Float[ndarray, "three circuit"]:
    known = gap != 0
    if not known.any():
        return np.full((3, len(carried)), np.nan)
    return np.quantile(carried[:, known] / gap[known], [0.25, 0.5, 0.75], axis=1)


def ratio_of_means(wide: ByCircuit) -> Float[ndarray, " circuit"]:
    """The faithfulness of each circuit, without intervals."""
    return (wide.value - wide.empty).mean(1) / (wide.full - wide.empty).mean()
