"""Results: one row for each intervention and example, with where it came from."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from interp.core import stats
from interp.core.errors import ResultsError

VERSION = 1
CELL = ["method", "site", "position", "receiver", "direction", "metric"]
"""Columns that together name one intervention; the rest of a row is its example and numbers."""
COLUMNS = [
    *CELL,
    *("kind", "layer", "head", "through", "engine"),
    *("example", "cluster", "base", "value", "effect"),
]


@dataclass(frozen=True, eq=False)
class Results:
    """A long table and its provenance.

    Attributes:
        frame: one row per intervention x example. `base` is the metric on the run that was
            intervened on, `value` under the intervention, `effect = value - base`. What was
            not measured is absent or NaN, never 0.
        provenance: model, weight hash, dtype, tokens, versions, null control.
    """

    frame: pd.DataFrame
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        missing = [c for c in COLUMNS if c not in self.frame]
        if missing:
            raise ResultsError(f"a results table needs the columns {COLUMNS}; {missing} are absent")

    def __len__(self) -> int:
        return len(self.frame)

    def summary(self, *, seed: int = 0) -> pd.DataFrame:
        """Mean effect of each intervention over the examples, with its uncertainty.

        Columns: those that name the intervention, then `base` and `value` (means), `effect`
        (mean), `low` and `high` (95 % cluster bootstrap), `p` (two-sided paired sign flip of
        whole clusters), `q` (Benjamini-Hochberg over all rows of this table), `n`, `clusters`.
        """
        frame = self.frame.reset_index(drop=True)
        cell, first = _cells(frame)
        example, _ = pd.factorize(frame["example"], sort=True)
        grid = np.full((cell.max() + 1, example.max() + 1), np.nan)
        grid[cell, example] = frame["effect"]
        if np.isnan(grid).any():
            raise ResultsError(
                "the interventions were not all measured on the same examples; summarise each "
                "set by itself (results.query(...).summary())"
            )
        clusters = np.empty(grid.shape[1], dtype=int)
        clusters[example] = pd.factorize(frame["cluster"], sort=True)[0]
        low, high = stats.bootstrap_interval(grid, clusters, seed=seed)
        p = stats.sign_flip_p(grid, clusters, seed=seed)
        table = first[[*CELL, "kind", "layer", "head"]].reset_index(drop=True)
        means = frame.groupby(cell)[["base", "value", "effect"]].mean()
        return table.assign(
            **means,
            low=low,
            high=high,
            p=p,
            q=stats.fdr(p),
            n=grid.shape[1],
            clusters=clusters.max() + 1,
        )

    def top(self, n: int = 10, *, by: str = "effect") -> pd.DataFrame:
        """The n rows of `summary()` with the largest absolute value of column `by`."""
        table = self.summary()
        order = table[by].abs().sort_values(ascending=False, kind="stable").index
        return table.loc[order[:n]].reset_index(drop=True)

    def grid(self, column: str = "effect") -> np.ndarray:
        """Mean of a column as an array: layers x heads, or layers x positions, or layers.

        A place that was not measured is NaN.

        Raises:
            ResultsError: the table holds several interventions for one place.
        """
        cell, first = _cells(self.frame)
        first = first.assign(mean=self.frame.groupby(cell)[column].mean().to_numpy())
        first = first[first["layer"].notna()]
        across = "head" if first["head"].notna().any() else "position"
        keys = first.set_index(["layer", across])["mean"]
        if keys.index.has_duplicates:
            raise ResultsError(
                f"the table holds more than one intervention for a layer and {across}; choose "
                "one set first: results.query(\"position == 'end'\").grid()"
            )
        table = keys.unstack(across, sort=False).sort_index()
        rows = range(int(table.index.max()) + 1)
        columns = range(int(max(table.columns)) + 1) if across == "head" else list(table.columns)
        array = table.reindex(index=rows, columns=columns).to_numpy(dtype=float)
        return array[:, 0] if across == "position" and array.shape[1] == 1 else array

    def query(self, expression: str) -> "Results":
        """The rows for which a pandas query holds."""
        return type(self)(self.frame.query(expression).reset_index(drop=True), self.provenance)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write parquet with the provenance in its metadata; atomic.

        Raises:
            ResultsError: the folder cannot be written.
        """
        path = Path(path)
        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        note = json.dumps({"version": VERSION, "provenance": dict(self.provenance)}, sort_keys=True)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"interp": note})
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, partial)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ResultsError(
                f"cannot write {path}: {error.strerror or error}. Choose a folder that you may "
                "write to and that has room."
            ) from error
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Results":
        """Read what `save` wrote.

        Raises:
            ResultsError: absent, no results file, or one of another version.
        """
        path = Path(path)
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise ResultsError(f"there is no results file at {path}") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise ResultsError(f"{path} is no readable parquet file: {error}") from error
        note = (table.schema.metadata or {}).get(b"interp")
        if note is None:
            raise ResultsError(f"{path} was not written by interp (it carries no provenance)")
        found = json.loads(note)
        if found["version"] != VERSION:
            raise ResultsError(
                f"{path} has results version {found['version']}; this interp reads version "
                f"{VERSION}. Run the experiment again, or read it with the interp that wrote it "
                f"({found['provenance'].get('versions', {}).get('interp', 'version unknown')})."
            )
        return cls(table.to_pandas(), found["provenance"])

    @classmethod
    def concat(cls, parts: Sequence["Results"]) -> "Results":
        """Several tables as one; the provenance of the first, and every null control."""
        provenance = dict(parts[0].provenance)
        provenance["null"] = max(part.provenance.get("null", 0.0) for part in parts)
        return cls(pd.concat([part.frame for part in parts], ignore_index=True), provenance)

    def __repr__(self) -> str:
        return f"Results: {len(self)} rows\n{self.top().to_string(float_format='{:.4g}'.format)}"

    def _repr_html_(self) -> str:
        shown = self.top()[["method", "site", "position", "receiver", "effect", "low", "high", "q"]]
        return (
            f"<p><b>{len(self)} rows</b>, {self.provenance.get('model', '')}: "
            f"the strongest interventions</p>{shown.to_html(float_format='{:.3g}'.format)}"
        )


def _cells(frame: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """A number for the intervention of each row, and the first row of each, in table order."""
    keys = pd.MultiIndex.from_frame(frame[CELL].astype(str))
    cell, _ = pd.factorize(keys)
    return cell, frame.loc[~pd.Series(cell, index=frame.index).duplicated()]
