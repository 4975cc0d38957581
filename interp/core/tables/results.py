"""Results: one row for each intervention and example, with where it came from."""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from interp.core.door.door import door
from interp.core.door.taken import Seed
from interp.core.errors import ResultsError
from interp.core.parts.sites import depth_of
from interp.core.sampling import stats
from interp.core.tables.paired import require_same_prompts
from interp.core.tables.table import Table, filled
from interp.core.tables.wide import (
    CELL,
    COLUMNS,
    MEASURED,
    ByExample,
    Measured,
    cells_of,
    difference,
    kinds_of,
    shares,
)

log = logging.getLogger("interp")

EXACT = 1e-9
"""Rounding under this is that of float64, and nobody has to be told."""
Family = Literal["whole", "rows"]


@door
@dataclass(frozen=True, eq=False, repr=False)
class Results(Table):
    """What interventions did: one row per intervention x example.

    Attributes:
        frame: `base` is the metric on the run that was intervened on, `value` under the
            intervention, `effect = value - base`; `cluster` the independent unit of the example,
            and `crossed`, where there is such a column, that of a second kind. `model`: by default
            the name in the provenance; `named` gives another.
        provenance: also tokens and the null control; `family`, of a table that was chosen from
            others, how many tests those had.
    """

    columns = COLUMNS
    numbers = MEASURED
    cell = CELL
    ranked = ("effect", "value")
    drawn = "effect"

    def __post_init__(self) -> None:
        if "model" not in self.frame:  # a table of an interp that told models apart by nothing
            name = self.provenance.get("model", "")
            told = name if isinstance(name, str) else " and ".join(map(str, name))
            frame = self.frame.copy(deep=False)
            frame.insert(0, "model", np.full(len(frame), told, dtype=object))
            object.__setattr__(self, "frame", frame)
        super().__post_init__()

    @classmethod
    @door
    def of(
        cls,
        cells: Mapping[str, Any],
        value: Float[ndarray, "*cell example"],
        *,
        units: Mapping[str, Sequence[str] | pd.Categorical | ndarray],
        provenance: Mapping[str, Any],
        base: Float[ndarray, "*others"] | Real = np.nan,
        effect: Float[ndarray, "*cell example"] | None = None,
    ) -> "Results":
        """A table of interventions, each on all examples: a row for each, in the order of `value`.

        Args:
            cells: columns, each with one value for each intervention, or a single one for all.
                What no column says of the known ones is "", of layer and head missing; other
                columns stand behind the known ones.
            value: the metric; the axes before the last, taken together, are the interventions.
            units: `cluster` of each example, and `crossed` where there are such: `pairs.units`.
            base: of the run that was intervened on, in any shape that broadcasts to `value`; NaN
                where nothing was.
            effect: by default `value - base`.

        Raises:
            ResultsError: a column, units or a base of another length.
        """
        n, lines = value.shape[-1], math.prod(value.shape[:-1])
        words = dict.fromkeys(COLUMNS[1:12], "") | {"layer": [None] * lines, "head": [None] * lines}
        columns = {name: _each(name, of, lines, n) for name, of in (words | dict(cells)).items()}
        of_units = {kind: _tiled(kind, of, lines, n) for kind, of in units.items()}
        try:
            base = np.broadcast_to(np.asarray(base), value.shape)
        except ValueError:
            raise ResultsError(
                f"base of shape {np.shape(base)} does not broadcast to values of {value.shape}; "
                "give one for each example, or for each value."
            ) from None
        numbers = {"base": base, "value": value, "effect": value - base}
        if effect is not None:
            numbers["effect"] = effect
        example = np.tile(np.arange(n, dtype=np.int32), lines)
        given = {**columns, "example": example, **of_units}
        given |= {name: x.reshape(-1) for name, x in numbers.items()}
        order = [c for c in COLUMNS if c in given] + [*of_units] + [*columns]
        return cls(pd.DataFrame({c: given[c] for c in dict.fromkeys(order)}), provenance)

    @door
    def query(self, expression: str, *, family: Family = "whole") -> "Results":
        """The rows for which a pandas query holds.

        Args:
            expression: a condition on the columns, such as "layer > 3 and direction == 'noise'".
            family: `"whole"`: how many tests there were is kept, so that choosing rows makes no q
                smaller (see `summary`). `"rows"`: only these rows are tested, since they were
                chosen without these numbers, beforehand or on the other half (`split`).

        Raises:
            ResultsError: it is no condition on these columns.
        """
        found = self._chosen(expression)
        if family == "rows":
            return Results(found, {k: v for k, v in self.provenance.items() if k != "family"})
        return Results(found, {**self.provenance, "family": self._families})

    @classmethod
    @door
    def concat(cls, parts: "Sequence[Table]") -> "Results":
        """Several tables as one, as `Table.concat`; of tests that were not chosen, all are counted.

        Args:
            parts: tables of results, at least one.

        Raises:
            ResultsError: no tables, or one of another kind.
        """
        found = super().concat(parts)
        chosen = [p for p in parts if isinstance(p, Results)]
        if not any("family" in part.provenance for part in chosen):
            return found
        families = {name: n for part in chosen for name, n in part._families.items()}
        return Results(found.frame, {**found.provenance, "family": families})

    @property
    def _families(self) -> Mapping[str, int]:
        """Tests of each table that these rows were chosen from, by the hash of what it holds."""
        known = self.provenance.get("family")
        if isinstance(known, Mapping):
            return known
        _, first = cells_of(self.frame)
        tested = self.frame.assign(tested=self.frame["effect"].notna()).groupby(
            CELL, sort=False, dropna=False, observed=True
        )["tested"]
        effect = np.ascontiguousarray(self.frame["effect"], dtype=float)
        digest = hashlib.sha256(effect.tobytes())
        digest.update(first[CELL].astype(str).sort_values(CELL).to_csv(index=False).encode())
        return {digest.hexdigest()[:12]: int(tested.any().sum())}

    @door
    def summary(self, *, seed: Seed = 0) -> pd.DataFrame:
        """Mean effect of each intervention over the examples, with its uncertainty.

        Columns: those that name the intervention, then `base`, `value` and `effect` (means),
        `relative` (the effect as a share of the base; NaN of a base of 0), `low` and `high` (95 %
        interval of the effect over clusters), `p` (two-sided paired sign flip of whole clusters;
        over crossed ones a t test, see `stats.crossed_interval`), `q` (Benjamini-Hochberg over the
        `family`: all tests of the tables that these rows were chosen from by `query`, those that
        are not here counting as p = 1), `n`, `clusters` (of crossed ones those of the kind with
        fewer), and `resolution`: what rounding alone does to the metric, in one example (NaN where
        it was not measured). An effect that is smaller may be rounding, however small its p.
        `depth` is `layer` on the axis of residual streams: layers that what stands there has
        behind it, 0 for the embedding.

        Where nothing was intervened on, so that no example has an effect (methods "evaluate" and
        "attention"), `low` and `high` are of the value, and `p` and `q` are NaN: there is no
        difference to test.

        Raises:
            ResultsError: an intervention that lacks examples, or has one twice.
        """
        if few := self._few():
            log.warning("%s. More templates, or more independent units (cluster=), say more.", few)
        return self._summarised(seed)

    def _summarised(self, seed: int = 0) -> pd.DataFrame:
        wide = ByExample.of(self.frame)
        effect = wide.measured["effect"]
        outcome = np.where(
            np.isnan(effect).all(axis=1, keepdims=True), wide.measured["value"], effect
        )
        low, high, p = wide.tested(outcome, seed=seed)
        means = {name: wide.mean(name) for name in MEASURED}
        p = np.where(np.isnan(means["effect"]), np.nan, p)
        counted = int(np.sum(~np.isnan(p)))
        if "family" in self.provenance:
            counted = sum(self._families.values())
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(means["base"] != 0, means["effect"] / means["base"], np.nan)
        first = wide.first
        return first[[*CELL, "kind", "layer", "head"]].assign(
            depth=pd.array(list(map(depth_of, first["site"])), dtype="Int16"),
            **means,
            relative=relative,
            low=low,
            high=high,
            p=p,
            q=stats.fdr(p, family=counted),
            family=counted,
            n=outcome.shape[1],
            clusters=wide.clusters,
            resolution=first["metric"].map(self.resolution).astype(float),
        )

    @door
    def minus(
        self,
        other: "Results",
        *,
        ignoring: Sequence[str] = (),
        column: Measured = "effect",
        alternative: stats.Alternative = "two-sided",
        seed: Seed = 0,
    ) -> pd.DataFrame:
        """Paired difference of each intervention of this table and its counterpart in the other.

        What an adapter changes is `after.named("after").minus(before, ignoring=["model"])`.

        Args:
            other: measured on the same examples.
            ignoring: columns in which counterparts differ; all others that name an intervention
                agree. A single intervention in `other` is everyone's counterpart.
            column: whose means are compared; where nothing was intervened on, "value".
            alternative: `"greater"` tests only whether this table's means are the higher ones.

        Returns:
            This table's interventions with `value` (the difference of the means), `low`, `high`
            (its 95 % interval over clusters), `p`, `q` (Benjamini-Hochberg over the rows), `n`,
            `clusters`.

        Raises:
            ResultsError: no counterpart, or one that was not measured on the same examples.
        """
        require_same_prompts(self.provenance, other.provenance)
        mine, theirs = ByExample.of(self.frame), ByExample.of(other.frame)
        return difference(
            mine, theirs, ignoring=ignoring, column=column, alternative=alternative, seed=seed
        )

    @door
    def relative(self, ends: "Results | None" = None, *, seed: Seed = 0) -> pd.DataFrame:
        """Effects as shares, as others report them: ratios of means, with intervals.

        Args:
            ends: of `interp.evaluate(model, pairs, metric=...)`, for normalised patching:
                (patched - corrupt) / (clean - corrupt), 0 where the model is as on the corrupt
                prompt and 1 where it is as on the clean one (Heimersheim & Nanda 2024, sec. 4).
                Without it, effect / base.

        Returns:
            The interventions with `value`, `low`, `high` (95 % interval over clusters of the
            ratio of means), `n`, `clusters`. The test of no effect is that of `summary`.

        Raises:
            ResultsError: ends of other examples or metrics; what is divided by is not apart from
                0 (its 95 % interval holds 0), so that no share of it means anything; crossed
                clusters, of which a ratio has no interval here.
        """
        if ends is not None:
            require_same_prompts(self.provenance, ends.provenance, of_one_model=True)
        return shares(ByExample.of(self.frame), None if ends is None else ends.frame, seed=seed)

    @door
    def named(self, model: str) -> "Results":
        """The same with a name for the model: "before" and "after", or that of an adapter.

        Tables of several models can then stand in one (`Results.concat`), and be compared
        (`minus(..., ignoring=["model"])`).
        """
        return Results(self.frame.assign(model=model), self.provenance)

    def _few(self) -> str:
        """What so few clusters cannot say, where something is tested."""
        tested = bool(self.frame["effect"].notna().any())
        kinds = [self.frame[kind].nunique() for kind in kinds_of(self.frame)]
        return stats.few_clusters(min(kinds), crossed=len(kinds) > 1) if tested else ""

    @property
    def resolution(self) -> dict[str, float]:
        """What rounding alone does to each metric in one example, where that was measured."""
        known = self.provenance.get("resolution")
        found = known.items() if isinstance(known, Mapping) else ()
        return {name: float(x) for name, x in found if x is not None}

    def _ranking(self) -> pd.DataFrame:
        return self._summarised()

    def _places(self, column: str) -> tuple[pd.DataFrame, np.ndarray]:
        values = self._numbers(cast(pd.DataFrame, self.frame[MEASURED]), column)
        cell, first = cells_of(self.frame)
        return first, pd.Series(values).groupby(cell).mean().to_numpy()

    def _doubled(self, layer: object, across: str, rows: pd.DataFrame) -> str:
        return f"layer {layer}, {across} {rows[across][0]} has {len(rows)} interventions"

    def _notes(self) -> list[str]:
        """What is said under a table: of few clusters, and of numbers that are not exact."""
        notes, known = [], {m: x for m, x in self.resolution.items() if x > EXACT}
        if few := self._few():
            notes.append(f"{few.capitalize()}.")
        if known:
            each = ", ".join(f"{metric} by {x:.1g}" for metric, x in known.items())
            notes.append(f"Rounding alone moves {each}: smaller effects may be rounding.")
        return notes

    def _shown(self) -> pd.DataFrame:
        """The strongest interventions, or the first rows of a table that has no summary."""
        try:
            table = self.top()[[*CELL, *MEASURED, "low", "high", "q", "n"]]
            table = table.drop(columns="model") if table["model"].nunique() == 1 else table
        except ResultsError:
            table = self.frame.head(10)
        return filled(cast(pd.DataFrame, table))


def _each(name: str, of: Any, lines: int, n: int) -> Any:
    """A column of which each intervention has one value, for n examples of each."""
    if isinstance(of, str) or not hasattr(of, "__len__"):
        if name not in ("layer", "head"):
            return of
        of = [of] * lines
    if len(of) != lines:
        raise ResultsError(
            f"column {name!r} has {len(of)} values for {lines} interventions; give one for each, "
            "or a single one for all."
        )
    if name in ("layer", "head"):
        return pd.array(of, dtype="Int16").repeat(n)
    if isinstance(of, pd.Categorical):
        return of.repeat(n)
    found = np.asarray(of)
    return np.repeat(found.astype(object) if found.dtype.kind == "U" else found, n)


def _tiled(kind: str, of: Any, lines: int, n: int) -> Any:
    """The units of the examples, for so many interventions."""
    if len(of) != n:
        raise ResultsError(f"{len(of)} units of {kind!r} and {n} examples; give the unit of each.")
    if isinstance(of, pd.Categorical):
        return of.take(np.tile(np.arange(n), lines))
    return np.tile(np.asarray(of, dtype=object), lines)
