"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from interp.core.errors import ResultsError
from interp.core.taken import Told

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
    path: Path, *, what: str = "", remedy: str = REMEDY, failures: tuple[type[Exception], ...] = ()
) -> Iterator[Path]:
    """The file to write, beside `path`; it takes the place of `path` if nothing goes wrong.

    Args:
        what: words before the path in the message.
        failures: what a writing library raises beside OSError.

    Raises:
        ResultsError: it cannot be written.
    """
    if not path.name or "\0" in str(path):
        raise ResultsError(f"cannot write {what}{str(path)!r}: it names no file. {remedy}")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, *failures) as error:
        raise ResultsError(
            f"cannot write {what}{path}: {getattr(error, 'strerror', None) or error}. {remedy}"
        ) from error
