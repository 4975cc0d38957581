"""What lies at a path: files by their content, folders by their names."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from interp.core.files.identity.unreadable import unreadable

SMALL = 1 << 24
"""Bytes of a file that is read; a larger one is its size and its date."""
MANY = 10_000
"""Files of a folder that are looked at."""
_RUN = "provenance.json"
"""What marks the folder of a run, where stages are written."""
_PARTS = ".checkpoint"
"""The folder in it where stages keep finished parts."""


def lying_at(named: str | Path) -> Iterator[str]:
    """What lies at a path: a file, or a model's folder; others may be where things are written."""
    path = _path(named)
    if path is None:
        return
    with suppress(OSError, ValueError):  # no name of a file
        if path.is_file():
            yield _file(path)
        elif (path / "config.json").is_file() and not (path / _RUN).is_file():
            for file in sorted(islice((f for f in path.rglob("*") if f.is_file()), MANY)):
                yield f"{file.relative_to(path)} {_file(file)}"


def lying_in(named: str | Path) -> Iterator[str]:
    """What lies in a folder: the name, size and date of each file that is not hidden.

    Of the folder of a run only its results, as its stages are written there; none in a folder
    above it, and nothing of where a stage keeps its finished parts. A text of dots and slashes
    alone separates words, and names no folder.

    Raises:
        Unreadable: it holds too much.
    """
    path = _path(named)
    if path is None or (isinstance(named, str) and not named.strip("./\\ ")):
        return
    found: list[str] = []
    with suppress(OSError, ValueError):  # no name of a folder
        if any((above.parent / _RUN).is_file() for above in path.parents if above.name == _PARTS):
            return
        if (path / _RUN).is_file():
            found = [_dated(path, f) for f in [path / "results.parquet"] if f.exists()]
        elif path.is_dir():
            found = [_dated(path, file) for file in islice(_within(path), MANY + 1)]
    if len(found) > MANY:
        raise unreadable(
            f"{path} holds more than {MANY:,} files. Name the folder farther down that is read."
        )
    yield from sorted(found)


def _path(named: str | Path) -> Path | None:
    """Of a text that could be a name of a file."""
    if isinstance(named, str) and (len(named) > 1_000 or "\n" in named or not named.strip()):
        return None
    return Path(named)


def _within(folder: Path) -> Iterator[Path]:
    """The files in a folder, and in the folders in it."""
    met: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)  # links may lead in a circle
        if _RUN in files or real in met:
            folders.clear()
            continue
        met.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        yield from (Path(here, name) for name in files if not name.startswith("."))


def _dated(folder: Path, file: Path) -> str:
    known = file.stat() if file.exists() else file.lstat()  # of a link that leads nowhere
    return f"{file.relative_to(folder)} {known.st_size} {known.st_mtime_ns}"


def _file(path: Path) -> str:
    known = path.stat()
    if known.st_size > SMALL:
        return f"{known.st_size} {known.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()
