"""A long table and where it came from: written whole, read back with its provenance."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from interp.core.atomic import whole
from interp.core.errors import ResultsError

VERSION = 1
T = TypeVar("T", bound="Table")


@dataclass(frozen=True, eq=False)
class Table:
    """What every kind of results has.

    Attributes:
        frame: the rows. What was not measured is absent or NaN, never 0.
        provenance: model, weight hash, dtype, data, versions.
    """

    frame: pd.DataFrame
    provenance: Mapping[str, Any]

    columns: ClassVar[Sequence[str]]

    def __post_init__(self) -> None:
        missing = [c for c in self.columns if c not in self.frame]
        if missing:
            raise ResultsError(
                f"a {type(self).__name__.lower()} table needs the columns {list(self.columns)}; "
                f"{missing} are absent"
            )

    def __len__(self) -> int:
        return len(self.frame)

    def query(self: T, expression: str) -> T:
        """The rows for which a pandas query holds."""
        return type(self)(self.frame.query(expression).reset_index(drop=True), self.provenance)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write parquet with the provenance in its metadata; atomic.

        Raises:
            ResultsError: the folder cannot be written.
        """
        path = Path(path)
        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        note = {"version": VERSION, "kind": _kind(type(self)), "provenance": dict(self.provenance)}
        metadata = {**(table.schema.metadata or {}), b"interp": json.dumps(note, sort_keys=True)}
        with whole(path) as partial:
            pq.write_table(table.replace_schema_metadata(metadata), partial)
        return path

    @classmethod
    def load(cls: type[T], path: str | os.PathLike[str]) -> T:
        """Read what `save` wrote.

        Raises:
            ResultsError: absent, no such file, of another kind, or of another version.
        """
        found = open_table(path)
        if not isinstance(found, cls):
            other = type(found).__name__
            raise ResultsError(f"{path} holds {other}; read it with interp.{other}.load")
        return found

    @classmethod
    def concat(cls: type[T], parts: Sequence[T]) -> T:
        """Several tables as one.

        Provenance that differs between them becomes a list; of null controls the largest.

        Raises:
            ResultsError: no tables.
        """
        if not parts:
            raise ResultsError("no tables were given to concat; at least one is needed")
        provenance: dict[str, Any] = {}
        for key in dict.fromkeys(key for part in parts for key in part.provenance):
            given = [part.provenance[key] for part in parts if key in part.provenance]
            distinct = [x for i, x in enumerate(given) if x not in given[:i]]
            provenance[key] = distinct[0] if len(distinct) == 1 else distinct
            if key == "null":
                provenance[key] = max(given)
        return cls(pd.concat([part.frame for part in parts], ignore_index=True), provenance)


def _kind(table: type[Table]) -> str:
    return table.__name__.lower()


def open_table(path: str | os.PathLike[str]) -> Table:
    """Read a table of whatever kind was saved there.

    Raises:
        ResultsError: absent, no such file, or of another version.
    """
    path = Path(path)
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ResultsError(f"there is no results file at {path}; see what save wrote") from None
    except (pa.ArrowException, OSError) as error:
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
    kinds = {_kind(table): table for table in Table.__subclasses__()}
    kind = found.get("kind", "results")  # files from before there were several kinds
    return kinds[kind](table.to_pandas(), found["provenance"])
