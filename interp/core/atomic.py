"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.core.errors import ResultsError

REMEDY = "Choose a folder that you may write to and that has room."


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
