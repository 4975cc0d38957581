"""One sweep on two models: what does each part do in one, and what in the other?

Both tables are of the same cells on the same prompts, so the difference is paired example by
example. It stands on two scales: the metric's own, and shares of each model's own behaviour, since
a model in which everything is twice as large has the same circuit.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Integer
from numpy import ndarray

from interp.core.door.door import door
from interp.core.door.taken import Seed, a, shown
from interp.core.errors import ResultsError
from interp.core.metrics import called
from interp.core.tables.paired import row_names
from interp.core.tables.results import Results
from interp.core.tables.saved import Saved
from interp.core.tables.wide import CELL, ByExample, kinds_of
from interp.models.model import Model

KEYS = [column for column in CELL if column != "model"]
"""Columns in which the cells of two models agree."""


@door
def compare(first: Model, second: Model, sweep: Callable[[Model], Results]) -> "Comparison":
    """The same sweep on two models, paired by prompt; differences are the second less the first.

    `interp.compare(base, adapted, lambda model: interp.ablate(model, pairs, "heads"))`: what an
    adapter changes in what each head does. The prompts are made once, outside of the sweep.

    Args:
        first, second: two models; one twice has differences of exactly 0.
        sweep: a call that gives Results of the model that it is given, such as `interp.ablate`,
            `patch`, `path_patch` or `evaluate`.

    Returns:
        Both tables, with `summary()`; and their differences as Results of their own, `absolute`
        and `relative`, which figures draw.

    Raises:
        ResultsError: the sweep gives no Results, or those of another model than it was given; the
            two tables differ in their cells, prompts or clusters.
    """
    return Comparison(*(_measured(sweep, model) for model in (first, second)))


@door
@dataclass(frozen=True, eq=False)
class Comparison(Saved):
    """A sweep on two models: the same cells, in the same order, on the same prompts.

    Attributes:
        first, second: its tables.
    """

    first: Results
    second: Results

    def __post_init__(self) -> None:
        mine, theirs = (table.provenance.get("pairs") for table in (self.first, self.second))
        if mine != theirs:
            raise ResultsError(
                f"the two tables are of other prompts (pairs {mine} and {theirs}), so nothing is "
                "paired. Make the pairs once, outside of the sweep. One text in the tokens of two "
                "tokenizers: Results.minus, where you say that it is one."
            )
        _ = self._sides

    @cached_property
    def _sides(self) -> tuple[ByExample, ByExample]:
        """Both tables by example, their cells in the order of the first.

        Raises:
            ResultsError: their cells, examples or clusters are not the same.
        """
        mine, theirs = (ByExample.of(table.frame) for table in (self.first, self.second))
        order = _counterparts(mine.first[KEYS], theirs.first[KEYS])
        same = np.array_equal(mine.examples, theirs.examples)
        same &= len(mine.units) == len(theirs.units)
        if not same or not all(map(np.array_equal, mine.units, theirs.units)):
            raise ResultsError(
                "the two tables were not measured on the same examples of the same clusters, so "
                "nothing is paired. Give both models the same pairs in the sweep."
            )
        rows = cast(pd.DataFrame, theirs.first.iloc[order].reset_index(drop=True))
        measured = {name: values[order] for name, values in theirs.measured.items()}
        return mine, replace(theirs, first=rows, measured=measured)

    @cached_property
    def absolute(self) -> Results:
        """Differences on the metric's own scale, as Results: `base` is the effect in the first
        model, `value` that in the second, and `effect` their difference, example by example.

        The metric is called "effect on logit difference". Where nothing was intervened on
        (`evaluate`) it is the metric itself, and its numbers are compared.
        """
        plain = self._plain
        numbers = [
            np.where(plain[:, None], side.measured["value"], side.measured["effect"])
            for side in self._sides
        ]
        metrics = self._sides[0].first["metric"]
        names = [
            name if none else f"effect on {called(name)}"
            for name, none in zip(metrics, plain, strict=True)
        ]
        known = [table.resolution for table in (self.first, self.second)]
        rounding = {
            name: sum(one[metric] for one in known)
            for name, metric in zip(names, metrics, strict=True)
            if all(metric in one for one in known)
        }
        return self._results(np.arange(len(names)), numbers, names, resolution=rounding)

    @cached_property
    def relative(self) -> Results:
        """Differences of shares of the behaviour, `effect / base` in each model, as Results whose
        means are ratios of means: that of `base` is the first model's share, that of `value` the
        second's, and that of `effect` their difference.

        An example has the ratio and what it moves it by (the ratio's linearisation), so intervals
        and tests know that both bases were measured. The metric is called "share of logit
        difference".

        Raises:
            ResultsError: a base is not apart from 0 (its 95 % interval holds 0), so that a share of
                it would mean nothing; or nothing was intervened on.
        """
        mine, theirs = self._sides
        if not self._apart.all():
            row = int(np.argmin(self._apart))
            metric, method = (mine.first[column][row] for column in ("metric", "method"))
            if self._plain[row]:
                raise ResultsError(
                    f"nothing was intervened on by {method!r}, so {metric!r} has no effect to be a "
                    "share of itself. Its differences are in absolute."
                )
            bases = [side.mean("base")[row] for side in (mine, theirs)]
            raise ResultsError(
                f"the base of {metric!r} is {bases[0]:.3g} in the first model and {bases[1]:.3g} "
                "in the second on average, and not apart from 0 in both (a 95 % interval holds 0), "
                "so a share of it would mean nothing. Compare the effects themselves (absolute), "
                "or take more pairs, or a metric of what both models do."
            )
        return self._shares(np.arange(len(mine.first)))

    @door
    def summary(self, *, seed: Seed = 0) -> pd.DataFrame:
        """Each cell in both models, and the difference, on both scales.

        Columns: those that name the cell, with `kind`, `layer` and `head`; `first` and `second`
        (mean effects), `difference` (the second less the first), `low`, `high` (its 95 % interval
        over clusters), `p` (two-sided sign flip of whole clusters), `q` (Benjamini-Hochberg, over
        the table or what it was chosen from); then the same of the shares of each model's own base,
        `first_share` to `share_q`, NaN where a base is not apart from 0 or nothing was intervened
        on; `n`, `clusters`.
        """
        table = self.absolute.summary(seed=seed)
        found = table[[*CELL, "kind", "layer", "head"]].assign(
            metric=self._sides[0].first["metric"],
            **{name: table[column] for name, column in SHOWN.items()},
        )
        rows = np.flatnonzero(self._apart)
        shares = self._shares(rows)._summarised(seed) if len(rows) else table.iloc[:0]
        shares = shares.set_index(rows).reindex(range(len(table)))
        found = found.assign(
            **{share_of(name): shares[column].astype(float) for name, column in SHOWN.items()}
        )
        return found.assign(n=table["n"], clusters=table["clusters"])

    @cached_property
    def _plain(self) -> Bool[ndarray, " cell"]:
        """Of each cell, was nothing intervened on in it?"""
        return np.isnan(self._sides[0].measured["effect"]).all(axis=1)

    @cached_property
    def _apart(self) -> Bool[ndarray, " cell"]:
        """Of each cell, are the bases of both models apart from 0?"""
        found = ~self._plain
        for side in self._sides:
            bases, cell = np.unique(side.measured["base"][found], axis=0, return_inverse=True)
            if len(bases):
                low, high, _ = side.tested(bases, seed=0)
                found[found] = ((low > 0) | (high < 0))[cell.reshape(-1)]
        return found

    def _shares(self, rows: Integer[ndarray, " row"]) -> Results:
        numbers = [
            _linearised(side.measured["effect"][rows], side.measured["base"][rows])
            for side in self._sides
        ]
        names = [f"share of {called(name)}" for name in self._sides[0].first["metric"].iloc[rows]]
        return self._results(rows, numbers, names, resolution={})

    def _results(
        self,
        rows: Integer[ndarray, " row"],
        numbers: Sequence[Float[ndarray, "row example"]],
        metrics: Sequence[str],
        *,
        resolution: Mapping[str, float],
    ) -> Results:
        """Some cells with two numbers of each example, and their difference."""
        mine, theirs = (side.first.iloc[rows] for side in self._sides)
        of = [*(column for column in KEYS if column != "metric"), "kind", "layer", "head"]
        both = [
            one if one == other else f"{one}, {other}"
            for one, other in zip(mine["engine"], theirs["engine"], strict=True)
        ]
        names = [f"{a} -> {b}" for a, b in zip(mine["model"], theirs["model"], strict=True)]
        tables = {"first": dict(self.first.provenance), "second": dict(self.second.provenance)}
        note = {"model": " -> ".join(str(one.get("model")) for one in tables.values()), **tables}
        note |= {"pairs": self.first.provenance.get("pairs")}
        if families := [one["family"] for one in tables.values() if "family" in one]:
            note["family"] = max(families, key=lambda family: sum(family.values()))
        each = self.first.frame.drop_duplicates("example").sort_values("example")
        units = {kind: each[kind].to_numpy() for kind in kinds_of(each)}
        found = Results.of(
            {
                **{column: list(mine[column]) for column in of},
                **{"model": names, "engine": both, "metric": list(metrics)},
            },
            numbers[1],
            units=units,
            provenance={**note, "resolution": dict(resolution)},
            base=numbers[0],
        )
        examples = np.tile(self._sides[0].examples, len(rows))
        return Results(found.frame.assign(example=examples), found.provenance)


SHOWN = {"first": "base", "second": "value", "difference": "effect"}
SHOWN |= {name: name for name in ("low", "high", "p", "q")}
"""Columns of a summary of a comparison, and of Results that hold one."""


def share_of(name: str) -> str:
    """The column in which the same stands of shares of the behaviour."""
    return f"{name}_share" if name in ("first", "second") else f"share_{name}"


def _linearised(
    effect: Float[ndarray, "cell example"], base: Float[ndarray, "cell example"]
) -> Float[ndarray, "cell example"]:
    """Values whose mean is the ratio of means, and which vary as it does from sample to sample.

    r + (effect - r base) / mean(base), with r = mean(effect) / mean(base): the ratio's influence
    function (Efron & Tibshirani 1993, ch. 21).
    """
    whole = base.mean(axis=1, keepdims=True)
    ratio = effect.mean(axis=1, keepdims=True) / whole
    return ratio + (effect - ratio * base) / whole


def _counterparts(cells: pd.DataFrame, others: pd.DataFrame) -> Integer[ndarray, " cell"]:
    """Of each cell the row of the other model's table.

    Raises:
        ResultsError: one has none, or several.
    """
    mine, theirs = (row_names(table, KEYS) for table in (cells, others))
    for which, names in (("first", mine), ("second", theirs)):
        if len(set(names)) < len(names):
            twice, _ = Counter(names).most_common(1)[0]
            raise ResultsError(
                f"the {which} model's table has {_said(twice)} more than once. Choose one set of "
                "rows in the sweep (results.query)."
            )
    both = {*mine} & {*theirs}
    if alone := [name for name in (*mine, *theirs) if name not in both]:
        which = "first" if alone[0] in mine else "second"
        raise ResultsError(
            f"the two tables have {len(mine)} and {len(theirs)} cells, and of {len(alone)} there "
            f"is no counterpart: of the {which} model alone is {_said(alone[0])}. Give both models "
            "the same sites, positions and metrics in the sweep."
        )
    place = {name: row for row, name in enumerate(theirs)}
    return np.array([place[name] for name in mine], dtype=int)


def _said(cell: tuple) -> str:
    return str({column: x for column, x in zip(KEYS, cell, strict=True) if x not in ("", None)})


def _measured(sweep: Callable[[Model], Results], model: Model) -> Results:
    """What the sweep gives of a model.

    Raises:
        ResultsError: no Results, or not of this model.
    """
    found: object = sweep(model)
    if not isinstance(found, Results):
        raise ResultsError(
            f"the sweep gives {a(type(found).__name__)} ({shown(found)}), and Results are "
            "compared, as interp.ablate, patch, path_patch and evaluate give them. Does it end in "
            "a call of one?"
        )
    of, weights = found.provenance.get("model"), found.provenance.get("weights")
    now = model.weight_hash
    same = weights == now or now != model.weight_hash  # a hook that nobody can read
    if of != model.name or not same:
        raise ResultsError(
            f"the sweep was given {model.name} (weights {now[:8]}) and gives results of {of} "
            f"(weights {str(weights)[:8]}), so they are not that model's. Use the model that the "
            "sweep is given: interp.compare(a, b, lambda model: interp.ablate(model, pairs, "
            "'heads'))."
        )
    return found
