"""What a figure reads from a table, and why it refuses one."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from interp.core.errors import ResultsError
from interp.core.metrics import called
from interp.core.sampling import stats
from interp.core.tables.results import CELL, Results

Column = Literal["effect", "value", "base"]

_PHRASES = {"effect": "change in {}", "value": "{} under the intervention", "base": "{} before it"}


def summarise(results: Results) -> pd.DataFrame:
    """`results.summary()` of the rows that were measured.

    Raises:
        ResultsError: no row has an effect, or the rows are of several metrics.
    """
    frame = results.frame
    known = frame[frame["effect"].notna()]
    if known.empty:
        methods = ", ".join(map(repr, frame["method"].unique())) or "none"
        raise ResultsError(
            f"none of the {len(frame)} rows has an effect to draw (methods: {methods}). "
            "Attention probabilities have no base run: draw them with figures.attention; else "
            "the query that chose these rows found nothing measured."
        )
    table = Results(known, results.provenance).summary()
    if table["metric"].nunique() > 1:
        raise _several(table, ["metric"], "a figure has one scale")
    return table


def one_each(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The table, when it holds one intervention for each combination of the keys.

    Raises:
        ResultsError: it holds several; names the columns in which they differ.
    """
    twice = table[table.duplicated(keys, keep=False)]
    if twice.empty:
        return table
    first = twice.iloc[:1][keys].merge(twice, on=keys)
    place = ", ".join(f"{key} {_plain(first[key].iloc[0])}" for key in keys)
    varied = [c for c in [*CELL, "kind"] if c not in keys and first[c].nunique(dropna=False) > 1]
    raise _several(first, varied or keys, f"{place} has {len(first)} interventions")


def label(table: pd.DataFrame, column: Column = "effect") -> str:
    """What the numbers of a column are, with their unit: "change in logit difference"."""
    return _PHRASES[column].format(called(str(table["metric"].iloc[0])))


def sample(table: pd.DataFrame) -> str:
    """How many examples and clusters stand behind each number."""
    n, clusters = int(table["n"].iloc[0]), int(table["clusters"].iloc[0])
    examples = f"{n} example{'s' if n > 1 else ''}"
    if clusters < 2:
        return f"{examples} in one cluster: no interval, no test"
    tested = "p" in table and bool(table["p"].notna().any())
    few = stats.few_clusters(clusters).partition(": ")[2] if tested else ""
    return f"{examples}, 95 % interval over {clusters} clusters" + (f"\n({few})" if few else "")


def spread(
    table: pd.DataFrame, column: str, *, rows: int, across: str, columns: Sequence[object]
) -> np.ndarray:
    """A column of the summary as layers x heads (or positions); NaN where nothing was measured."""
    wide = table.pivot(index="layer", columns=across, values=column)
    return wide.reindex(index=range(rows), columns=columns).to_numpy(dtype=float)


def _several(table: pd.DataFrame, columns: list[str], fact: str) -> ResultsError:
    found = "; ".join(
        f"{c}: {', '.join(str(_plain(v)) for v in table[c].unique()[:6])}" for c in columns
    )
    value = table[columns[0]].iloc[0]
    chosen = f"{columns[0]} == {value!r}" if pd.notna(value) else f"{columns[0]}.isna()"
    return ResultsError(
        f"{fact}, and the table holds several ({found}). Choose one set first: "
        f'results.query("{chosen}").'
    )


def _plain(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
