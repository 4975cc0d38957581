"""A long table and where it came from: written whole, read back with its provenance."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from interp.core.door.door import door
from interp.core.door.taken import Seed, a, no_numbers, shown
from interp.core.errors import ResultsError, said
from interp.core.files.atomic import whole
from interp.core.files.sealed import BLANK, is_sealed, parsed, seal, told, unsealed
from interp.core.sampling.halves import halves

VERSION, UNSEALED = 2, 1
"""Of files; the older one carries no checksum."""
REMEDY = "Take it from a copy, or compute it again."
T = TypeVar("T", bound="Table")
QUERY_FAULTS = (
    *(SyntaxError, NameError, TypeError, ValueError, KeyError, IndexError, AttributeError),
    NotImplementedError,
)
"""What pandas raises where an expression of a user's cannot be read or computed."""


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
    numbers: ClassVar[Sequence[str]] = ()
    """Those of the columns that hold numbers."""

    def __post_init__(self) -> None:
        missing = [c for c in self.columns if c not in self.frame]
        if missing:
            raise ResultsError(
                f"{a(_kind(type(self)))} table needs the columns {list(self.columns)}; "
                f"{missing} are absent. Name the columns of the frame so."
            )
        for name in self.numbers:
            if odd := no_numbers(self.frame[name]):
                raise ResultsError(
                    f"column {name!r} of {type(self).__name__} holds numbers, and here "
                    f"{shown(odd[0])}. Make numbers of them (pandas.to_numeric); what was not "
                    "measured is NaN."
                )

    def __len__(self) -> int:
        return len(self.frame)

    @door
    def query(self: T, expression: str) -> T:
        """The rows for which a pandas query holds.

        Args:
            expression: a condition on the columns, such as "layer > 3 and direction == 'noise'".

        Raises:
            ResultsError: it is no condition on these columns.
        """
        return type(self)(self._chosen(expression), self.provenance)

    def _chosen(self, expression: str) -> pd.DataFrame:
        try:
            holds = self.frame.eval(expression)
        except QUERY_FAULTS as error:
            raise self._no_condition(expression, said(error)) from error
        if not isinstance(holds, pd.Series) or not pd.api.types.is_bool_dtype(holds.dtype):
            raise self._no_condition(expression, f"it gives {shown(holds)}, and no row is chosen")
        return cast(pd.DataFrame, self.frame[holds].reset_index(drop=True))

    @door
    def split(self: T, *, seed: Seed = 0) -> tuple[T, T]:
        """Two halves that share no cluster: choose on the first, report on the second.

        The same clusters and seed give the halves of `Pairs.split`. Of crossed clusters the halves
        share none of either kind; what mixes them is in no half.

        Raises:
            ResultsError: a table without clusters, or of one only.
        """
        kinds = [kind for kind in ("cluster", "crossed") if kind in self.frame]
        counts = {kind: self.frame[kind].nunique() for kind in kinds}
        if not kinds or min(counts.values()) < 2:
            had = f"{min(counts.values())} cluster(s)" if kinds else "no column 'cluster'"
            raise ResultsError(
                f"the {len(self)} rows of this {type(self).__name__} have {had}, so they cannot "
                "be split into independent halves. Measure on more templates or documents; numbers "
                "that come from weights alone have no examples to split."
            )
        parts = halves([self.frame[kind] for kind in kinds], seed=seed)
        if not all(part.any() for part in parts):
            raise ResultsError(
                "no row is of the first, or none of the second half of both kinds of clusters "
                f"({' x '.join(map(str, counts.values()))}). Cross more of them, or drop the "
                "column 'crossed' from the frame to split by one kind."
            )
        first, second = (
            type(self)(cast(pd.DataFrame, self.frame[half].reset_index(drop=True)), self.provenance)
            for half in parts
        )
        return first, second

    def _no_condition(self, expression: str, why: str) -> ResultsError:
        return ResultsError(
            f"{expression!r} is no condition on the columns {', '.join(map(str, self.frame))}: "
            f"{why}. Write one such as \"layer > 3 and direction == 'noise'\", texts in quotes of "
            "their own; a value of yours is put in by an f-string."
        )

    @door
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write parquet with the provenance in its metadata; atomic.

        Raises:
            ResultsError: the folder cannot be written, or the table holds what a file cannot.
        """
        return self.write(Path(path), {})

    def write(self, path: Path, beside: Mapping[str, Any]) -> Path:
        """The same; `beside` stands in the file, and is no part of the table."""
        known = {"version": VERSION, "kind": _kind(type(self))}
        note = {**beside, **known, "provenance": dict(self.provenance)}
        try:
            told = json.dumps(note, sort_keys=True)
            table = pa.Table.from_pandas(self.frame, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ResultsError(
                f"cannot write {path}: the table or its provenance holds what a file cannot "
                f"({said(error)}). Keep numbers, texts and lists of them in columns, and in a "
                "provenance what JSON has too."
            ) from error
        metadata = {**(table.schema.metadata or {}), b"interp": told}
        table = table.replace_schema_metadata(metadata)
        with whole(path) as partial:
            with pq.ParquetWriter(partial, table.schema) as writer:
                writer.write_table(table)
                writer.add_key_value_metadata({"interp seal": BLANK.decode()})
            seal(partial)
        return path

    @classmethod
    @door
    def load(cls: type[T], path: str | os.PathLike[str]) -> T:
        """Read what `save` wrote.

        Raises:
            ResultsError: absent, no such file, of another kind, or of another version.
        """
        found = open_table(path)
        if not isinstance(found, cls):
            other = type(found).__name__
            raise ResultsError(f"{path} holds {other}; read it with interp.{other}.load.")
        return found

    @classmethod
    @door
    def concat(cls: type[T], parts: "Sequence[Table]") -> T:
        """Several tables as one.

        Provenance that differs between them becomes a list; of null controls, and of what rounding
        does to a metric, the largest.

        Args:
            parts: tables of one kind, at least one.

        Raises:
            ResultsError: no tables, or one of another kind.
        """
        if not parts:
            raise ResultsError("no tables were given to concat; at least one is needed.")
        if other := [part for part in parts if not isinstance(part, cls)]:
            raise ResultsError(
                f"{cls.__name__}.concat takes a list of {cls.__name__}, and in it stands "
                f"{shown(other[0])}, a {type(other[0]).__name__}. Join tables of one kind."
            )
        provenance: dict[str, Any] = {}
        for key in dict.fromkeys(key for part in parts for key in part.provenance):
            given = [part.provenance[key] for part in parts if key in part.provenance]
            distinct = [x for i, x in enumerate(given) if x not in given[:i]]
            provenance[key] = distinct[0] if len(distinct) == 1 else distinct
            if key == "null":
                provenance[key] = max(given)
            if key == "resolution":
                provenance[key] = _largest(given)
        return cls(pd.concat([part.frame for part in parts], ignore_index=True), provenance)


def _largest(given: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Of each metric the largest number that any part knows."""
    names = dict.fromkeys(name for one in given for name in one)
    known = {name: [one[name] for one in given if one.get(name) is not None] for name in names}
    return {name: max(found, default=None) for name, found in known.items()}


FEW, ROWS = 1_000_000, 10
"""Rows that any file may hold, and by each of its bytes: a measured number takes more than one."""


def _kind(table: type[Table]) -> str:
    return table.__name__.lower()


@door
def open_table(path: str | os.PathLike[str]) -> Table:
    """Read a table of whatever kind was saved there.

    Raises:
        ResultsError: absent, no such file, or of another version.
    """
    path = Path(path)
    held, found = _opened(path)
    kinds = {_kind(table): table for table in Table.__subclasses__()}
    kind = found.get("kind", "results")  # files from before there were several kinds
    if kind not in kinds:
        raise ResultsError(
            f"{path} holds a table of kind {kind!r}, and this interp knows {', '.join(kinds)}. "
            "Read it with the interp that wrote it, or import interp first, which knows all."
        )
    return kinds[kind](held.read().to_pandas(), found["provenance"])


def noted(path: Path) -> Mapping[str, Any]:
    """What stands in a file beside the table: its kind, its provenance, and what `write` was given.

    Raises:
        ResultsError: absent, no such file, damaged, or of another version.
    """
    return _opened(path)[1]


def _opened(path: Path) -> tuple[pq.ParquetFile, Mapping[str, Any]]:
    """A file in memory, as it was written, and its note."""
    if path.is_dir():
        raise ResultsError(f"{path} is a folder, not a results file; name a file that save wrote.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ResultsError(f"there is no results file at {path}; see what save wrote.") from None
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {said(error)}.") from error
    sealed = is_sealed(data, path, REMEDY)
    try:
        held = pq.ParquetFile(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise ResultsError(f"{path} is no readable parquet file: {said(error)}.") from error
    rows, most = held.metadata.num_rows, FEW + ROWS * len(data)
    if rows > most:
        raise ResultsError(
            f"{path} has {len(data):,} bytes and says that it holds {rows:,} rows, which no table "
            "of numbers that differ does. Do not trust where it came from."
        )
    note = (held.schema_arrow.metadata or {}).get(b"interp")
    if note is None:
        raise ResultsError(
            f"{path} was not written by interp (it carries no provenance); give a file that "
            "save wrote."
        )
    found = parsed(note, path, REMEDY)
    told(found, path, REMEDY, {"version": int, "provenance": dict})
    if found["version"] not in (VERSION, UNSEALED):
        raise ResultsError(
            f"{path} has results version {found['version']}; this interp reads version "
            f"{VERSION}. Run the experiment again, or read it with the interp that wrote it "
            f"({found['provenance'].get('versions', {}).get('interp', 'version unknown')})."
        )
    if not sealed and found["version"] == VERSION:
        raise unsealed(path, REMEDY)
    if not sealed:
        warnings.warn(
            f"{path} is of interp 0.1 and carries no checksum, so damage to it would not show. "
            "Load and save it again, and it has one.",
            stacklevel=4,
        )
    return held, found
