"""Files that are written whole or not at all."""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

from interp.core.door.taken import Told
from interp.core.errors import ResultsError

DAY = 86_400.0
PART = ".part"
_SWEPT: set[Path] = set()
"""Folders in which this process looked for what was left."""
REMEDY = "Choose a folder that you may write to and that has room."


def require_writable(folder: str | os.PathLike[str] | None) -> None:
    """Refuse a folder that cannot be made or written to, before anything is computed for it.

    Nothing is made here: what is looked at is the nearest folder above that there is.

    Raises:
        ResultsError: naming what is in the way.
    """
    if not isinstance(folder, str | os.PathLike):
        return  # none is asked for, or the annotation refuses it
    if not str(folder).strip():
        raise ResultsError(f"{folder!r} names no folder. {REMEDY}")
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        why = "may not be written to" if place.is_dir() else "is no folder"
        raise ResultsError(f"cannot write into {folder}: {place} {why}. {REMEDY}")


Checkpoint = Annotated[Path | None, Told(require_writable)]
"""A folder where what is finished is kept."""


@contextmanager
def whole(
    path: Path,
    *,
    what: str = "",
    remedy: str = REMEDY,
    failures: tuple[type[Exception], ...] = (),
    first: bool = False,
) -> Iterator[Path]:
    """The file to write, beside `path`; it takes the place of `path` if nothing goes wrong.

    It is made under a name that nobody can foresee, and is nobody else's: many processes and
    threads may write one path at a time. What a process that was killed left is swept away by a
    later one, after a day.

    Args:
        what: words before the path in the message.
        failures: what a writing library raises beside OSError.
        first: a file that is at `path` by then, of another process, stays.

    Raises:
        ResultsError: it cannot be written.
    """
    if not path.name or "\0" in str(path):
        raise ResultsError(f"cannot write {what}{str(path)!r}: it names no file. {remedy}")
    try:
        partial = _made(path)
        try:
            yield partial
            _named(partial, path, first=first)
        finally:
            partial.unlink(missing_ok=True)
    except FileNotFoundError as error:
        raise ResultsError(
            f"cannot write {what}{path}: its folder was taken away while it was written. Run this "
            "again; what is kept elsewhere is used."
        ) from error
    except (OSError, *failures) as error:
        raise ResultsError(
            f"cannot write {what}{path}: {getattr(error, 'strerror', None) or error}. {remedy}"
        ) from error


def _made(path: Path) -> Path:
    """An empty file beside `path`: a link that stands there is not followed."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in _SWEPT:
        _SWEPT.add(folder)
        sweep(folder, f".*{PART}")
    partial = folder / f".{path.name}.{secrets.token_hex(8)}{PART}"
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return partial


def _named(partial: Path, path: Path, *, first: bool) -> None:
    if first:
        try:
            os.link(partial, path)
            return
        except FileExistsError:
            return
        except OSError:  # a file system without links
            if path.exists():
                return
    os.replace(partial, path)


def sweep(folder: Path, pattern: str, *, age: float = DAY) -> None:
    """Take away what killed processes left in a folder, where it is older than a day."""
    for left in folder.glob(pattern):
        with suppress(OSError):  # another process was first, or it is somebody else's
            if time.time() - left.lstat().st_mtime < age:
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()
