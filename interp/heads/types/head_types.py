"""Which heads are of a known type: one call, one table of all heads.

A head is of a type where, on half of the rows, its score is at least `least` above the null (of a
positional detector: at least 0.9, Voita et al. 2019), and where on the other half the score is
above its null with q < 0.05 over all heads and detectors. Scores, intervals and tests of the table
are those of the second half, on which nothing was chosen.

An induction head (Olsson et al. 2022) matches prefixes by that rule, and copies: on both halves its
copying score is above its null, on the second with q < 0.05. (How far above says little: the score
is also low where a head raises tokens beside the attended-to one.) A head that only matches
prefixes is called "prefix matching"; also where copying could not be measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Bool
from numpy import ndarray

from interp.core.door.door import door
from interp.core.door.taken import Count, Finite, NotEmpty, Seed
from interp.core.errors import ResultsError, nearest
from interp.core.sampling.halves import halves
from interp.core.tables.results import Results
from interp.core.tables.saved import Saved
from interp.engine.engines.protocol import EngineName
from interp.engine.plain.prompts import Tokens
from interp.heads.looking.patterns import require_patterns
from interp.heads.types.activation_copying import COPYING
from interp.heads.types.detect import detect
from interp.heads.types.detectors import DETECTORS, ENTROPY, INDUCTION, Detector, Null
from interp.heads.types.repeats import repeated_tokens
from interp.models.bridge.tokens import Bos
from interp.models.model import Model

LEAST = 0.3
POSITIONAL = 0.9
ALPHA = 0.05
PREFIX_MATCHING = "prefix matching"
MEASURED = ["choosing", "value", "null", "effect", "low", "high", "p", "q", "n", "clusters"]
SCORES = ["metric", "site", "layer", "head", *MEASURED, "passes"]
TABLE = ["site", "layer", "head", "types"]


@door
@dataclass(frozen=True, eq=False, repr=False)
class HeadTypes(Saved):
    """The types of a model's heads.

    Attributes:
        results: one row for each detector, head and example, as `detect` returns them.
        scores: one row for each detector (`metric`) and head: `choosing` (mean `value - null` on
            the half that is chosen on); on the other half `value`, `null`, `effect` (their
            difference), its 95 % interval `low`, `high`, `p`, `q`, `n` and `clusters`; `passes`.
        table: one row for each head: `types` (words with commas between), then its score by each
            detector.
    """

    results: Results
    scores: pd.DataFrame
    table: pd.DataFrame

    def __post_init__(self) -> None:
        for name, needed in (("scores", SCORES), ("table", TABLE)):
            if lacking := [c for c in needed if c not in getattr(self, name)]:
                raise ResultsError(
                    f"{name} of HeadTypes has no column {lacking[0]!r}. Likely it is another "
                    "table: interp.heads.types_of makes HeadTypes of what detect() returns."
                )

    @door
    def heads(self, kind: str) -> list[str]:
        """The sites of one type, strongest first.

        Raises:
            ResultsError: no such type.
        """
        metrics = self.scores["metric"].unique().tolist()
        known = [m for m in metrics if m != ENTROPY]
        known += [PREFIX_MATCHING] * (INDUCTION.name in known)
        if kind not in known:
            raise ResultsError(f"there is no type {kind!r}; {nearest(kind, known)}")
        of_kind = self.table[[kind in types.split(", ") for types in self.table["types"]]]
        metric = INDUCTION.name if kind == PREFIX_MATCHING else kind
        return of_kind.sort_values(metric, ascending=False, kind="stable")["site"].tolist()

    def __repr__(self) -> str:
        typed = self._typed()
        counts = f"{len(typed)} of {len(self.table)} heads have a type"
        return f"HeadTypes: {counts}\n{typed.to_string(index=False, float_format='{:.2f}'.format)}"

    def _repr_html_(self) -> str:
        return self._typed().to_html(index=False, float_format="{:.2f}".format)

    def _typed(self) -> pd.DataFrame:
        return self.table[self.table["types"] != ""].drop(columns=["layer", "head"])


@door
def head_types(
    model: Model,
    tokens: Tokens | None = None,
    *,
    n: Count = 32,
    detectors: Annotated[Sequence[Detector], NotEmpty()] = DETECTORS,
    null: Null = "rows",
    least: Finite = LEAST,
    bos: Bos = "model",
    seed: Seed = 0,
    engine: EngineName = "auto",
) -> HeadTypes:
    """Run rows of random tokens that repeat, and say of each head what types it is of.

    Args:
        tokens: rows of your own, as `detect` takes them; by default
            `repeated_tokens(model, n)`, which fit the model.
        null: see `detect`.
        least: how far above its null a head must score on the half that is chosen on.
        seed: of the rows, of the null's draw and of the split.

    Raises:
        PairsError: a model too small for random rows, or rows that `detect` refuses.
        ResultsError: fewer than 11 clusters, see `types_of`.
        Unsupported: attention patterns that cannot be read.
    """
    given = repeated_tokens(model, n, bos=bos, seed=seed) if tokens is None else tokens
    rows = require_patterns(model, given, "head_types()")
    _choosing(np.asarray(rows.cluster), seed)  # refuses too few before anything runs
    results = detect(model, rows, detectors=detectors, null=null, seed=seed, engine=engine)
    return types_of(results, least=least, seed=seed)


@door
def types_of(results: Results, *, least: Finite = LEAST, seed: Seed = 0) -> HeadTypes:
    """The types that scores make, chosen on half of the clusters and tested on the other half.

    Args:
        results: what `detect` or `detect_across` returned, for one model.
        least: how far above its null a head must score on the half that is chosen on.
        seed: of the split.

    Raises:
        ResultsError: another table, or two in one; fewer than 11 clusters, of which 6 test: with
            fewer no p is below 0.05, so no head could be of any type.
    """
    frame = results.frame
    odd = sorted(set(map(str, frame["method"].unique())) - {"detect"})
    if odd or frame.empty or frame.duplicated(["metric", "site", "example"]).any():
        why = f"of {', '.join(odd)}" if odd else "empty, or of more than one call"
        raise ResultsError(
            f"the table is {why}, and heads get their types from what one call of detect() "
            "returns. Give that, or call head_types(model)."
        )
    choosing = _choosing(frame["cluster"].astype(str).to_numpy(), seed)
    halves = [Results(frame[half].reset_index(drop=True), results.provenance) for half in choosing]
    cell = ["metric", "site"]
    chosen = halves[0].frame.groupby(cell, sort=False, observed=True)[["value", "effect"]].mean()
    found = halves[1].summary(seed=seed).rename(columns={"base": "null"})
    found = found.astype({"metric": str, "site": str})
    at = pd.MultiIndex.from_frame(found[cell])
    chosen.index = pd.MultiIndex.from_frame(chosen.index.to_frame().astype(str))
    chosen = chosen.loc[at]
    positional = found["metric"].str.startswith("positional").to_numpy()
    enough = np.where(positional, chosen["value"] >= POSITIONAL, chosen["effect"] >= least)
    above = (found["effect"] > 0) & (found["q"] < ALPHA)
    passes = enough & above & (found["metric"] != ENTROPY)
    scores = found.assign(choosing=chosen["effect"].to_numpy(), passes=passes)
    copies = scores[above & (scores["choosing"] > 0) & (scores["metric"] == COPYING)]["site"]
    scores = scores[SCORES]
    return HeadTypes(results, scores, _wide(scores, set(copies)))


def _choosing(cluster: ndarray, seed: int) -> tuple[Bool[ndarray, " row"], Bool[ndarray, " row"]]:
    names = np.unique(cluster)
    tests = len(names) - len(names) // 2
    if 2.0 ** (1 - tests) >= ALPHA:
        raise ResultsError(
            f"the scores are of {len(names)} clusters ({', '.join(map(str, names))}), {tests} of "
            f"them in the half that tests, where no p is below {2.0 ** (1 - tests):.2g}: no head "
            f"could be found. Detect on {_clusters(ALPHA)} rows at least, or, as q is over all "
            f"heads and detectors, on {_clusters(ALPHA / 10)} for when one score in ten is above "
            "its null (32 are usual); or give pairs with a cluster for each."
        )
    return halves([pd.Series(cluster)], seed=seed)


def _clusters(least: float) -> int:
    """How many it takes for a p below this in the half that tests: with n there, 2^(1 - n)."""
    return 2 * (math.floor(1 - math.log2(least)) + 1) - 1


def _wide(scores: pd.DataFrame, copies: set[str]) -> pd.DataFrame:
    """One row for each head, in the order of the layers; some heads copy."""
    metrics = scores["metric"].unique().tolist()
    values, passes = (
        scores.pivot(index=["layer", "head", "site"], columns="metric", values=column)[metrics]
        for column in ("value", "passes")
    )
    if INDUCTION.name in metrics:
        copying = passes.index.get_level_values("site").isin(copies)
        passes[PREFIX_MATCHING] = passes[INDUCTION.name] & ~copying
        passes[INDUCTION.name] &= copying
    types = [
        ", ".join(name for name, of_it in zip(passes.columns, row, strict=True) if of_it)
        for row in passes.to_numpy()
    ]
    table = values.rename_axis(columns=None).reset_index()
    table.insert(3, "types", types)
    return table[["site", *(c for c in table.columns if c != "site")]]
