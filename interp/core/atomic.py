"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.core.errors import ResultsError

REMEDY = "Choose a folder that you may write to and that has room."


def require_writable(folder: str | os.PathLike[str] | None) -> None:
    """Refuse a folder that cannot be made or written to, before anything is computed for it.

    Nothing is made here: what is looked at is the nearest folder above that there is.

    Raises:
        ResultsError: naming what is in the way.
    """
    if not isinstance(folder, str | os.PathLike):
        return  # none is asked for, or the annotation refuses it
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        why = "may not be written to" if place.is_dir() else "is no folder"
        raise ResultsError(f"{folder} cannot be written: {place} {why}. {REMEDY}")


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
    if not path.name:
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
