"""Tables as parquet: a frame with a note in its metadata, sealed, and read with suspicion."""

import json
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from interp.core.errors import ResultsError, said
from interp.core.files.atomic import whole
from interp.core.files.sealed import BLANK, is_sealed, parsed, seal, told, unsealed

VERSION, UNSEALED = 2, 1
"""Of files; the older one carries no checksum."""
REMEDY = "Take it from a copy, or compute it again."
FEW, ROWS = 1_000_000, 10
"""Rows that any file may hold, and by each of its bytes: a measured number takes more than one."""


def write(path: Path, frame: pd.DataFrame, note: Mapping[str, Any]) -> None:
    """Write a frame and what stands beside it, whole or not at all.

    Raises:
        ResultsError: the folder cannot be written, or the frame or the note holds what a file
            cannot.
    """
    table = arrow(path, frame)
    words = as_json(path, {**note, "version": VERSION})
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"interp": words})
    with whole(path) as partial:
        with pq.ParquetWriter(partial, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"interp seal": BLANK.decode()})
        seal(partial)


def packed(path: Path, frame: pd.DataFrame) -> bytes:
    """A frame as the bytes of a parquet file, to be part of the file at `path`."""
    page = BytesIO()
    pq.write_table(arrow(path, frame), page)
    return page.getvalue()


def arrow(path: Path, frame: pd.DataFrame) -> pa.Table:
    """A frame as Arrow has it.

    Raises:
        ResultsError: it holds what a file cannot.
    """
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise unwritable(path, error) from error


def as_json(path: Path, note: Mapping[str, Any]) -> str:
    """A note as text.

    Raises:
        ResultsError: it holds what JSON cannot.
    """
    try:
        return json.dumps(note, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> ResultsError:
    """The refusal of what no file can hold."""
    return ResultsError(
        f"cannot write {path}: the table or its provenance holds what a file cannot "
        f"({said(error)}). Keep numbers, texts and lists of them in columns, and in a "
        "provenance what JSON has too."
    )


def read(path: Path) -> tuple[pq.ParquetFile, Mapping[str, Any]]:
    """A file in memory, as it was written, and its note.

    Raises:
        ResultsError: absent, no such file, damaged, or of another version.
    """
    if path.is_dir():
        raise ResultsError(f"{path} is a folder, not a results file; name a file that save wrote.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ResultsError(f"there is no results file at {path}; see what save wrote.") from None
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {said(error)}.") from error
    sealed = is_sealed(data, path, REMEDY)
    held = unpacked(path, data)
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
            stacklevel=5,
        )
    return held, found


def unpacked(path: Path, data: bytes) -> pq.ParquetFile:
    """The bytes of a parquet file, opened.

    Raises:
        ResultsError: they are none, or say that they hold more rows than they can.
    """
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
    return held
