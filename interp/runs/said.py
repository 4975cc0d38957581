"""A run from the command line, and what is said of it in words."""

import sys
from collections.abc import Callable
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from tqdm.auto import tqdm

from interp.core.door.door import door
from interp.core.door.taken import Index
from interp.core.errors import InterpError, ResultsError, nearest
from interp.core.files.sealed import Damaged, checksum, read_note
from interp.runs.run import FINISHED, SUMMARY

AGAIN = "Take results.parquet away and run it again: stages that are finished are loaded."


def script(main: Callable[[Any], None], config: type) -> None:
    """An experiment from the command line: `main` with a config of its arguments.

    What goes wrong ends in a sentence on standard error and exit code 1, not in a stack trace; so
    does an interruption, with exit code 130.
    """
    try:
        main(tyro.cli(config))
    except InterpError as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        tqdm.write("interrupted. What is finished is kept: run the same command again.", sys.stderr)
        raise SystemExit(130) from None


@door
def interval(row: pd.Series, column: str = "value", *, digits: Index = 3) -> str:
    """A number of a summary with its interval, for a sentence: "0.893 [0.865, 0.927]".

    Args:
        row: of a summary, with "low" and "high".
        column: of the number: "value", "effect".
        digits: after the point.

    Raises:
        ResultsError: the row has no such number, or no interval.
    """
    known = [str(name) for name, value in row.items() if isinstance(value, Real)]
    if lost := [name for name in (column, "low", "high") if name not in known]:
        raise ResultsError(f"the row has no number {lost[0]!r}; {nearest(lost[0], known)}")
    value, low, high = (f"{row[name]:.{digits}f}" for name in (column, "low", "high"))
    return f"{value} [{low}, {high}]"


@door
def report(folder: Path) -> str:
    """The summary of a finished run, and the paths of what it wrote.

    Args:
        folder: of the run.

    Raises:
        ResultsError: it holds no finished run, or its summary was damaged.
    """
    if not (folder / SUMMARY).is_file():
        raise ResultsError(
            f"{folder} holds no finished run: it has no summary.md. Give the folder of a run "
            "(run.folder) after run.finish(...)."
        )
    page = (folder / SUMMARY).read_bytes()
    with suppress(FileNotFoundError):  # of interp 0.1
        known = read_note(folder / FINISHED, remedy=AGAIN).get("summary")
        if known != checksum(page):
            raise Damaged(f"{folder / SUMMARY} is not as it was written. {AGAIN}")
    found = sorted([*folder.glob("*.*"), *folder.glob("*/*.*")])  # no checkpoints farther down
    files = [path.relative_to(folder) for path in found]
    shown = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    lines = [f"wrote {folder / path}" for path in shown]
    return "\n".join(["", page.decode(errors="replace"), *lines])
