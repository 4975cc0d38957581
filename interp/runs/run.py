"""A run's folder: what was asked, on what, and every result so far.

    runs/<name>/<config-hash>/
        config.json  provenance.json  results.parquet  summary.md
        stages/*.parquet  figures/*.pdf *.svg *.png *.csv

The same config opens the same folder: what is finished there is loaded, not computed again, as long
as what it was computed from is still the same. A file under its final name is whole; it is written
beside it and then renamed.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, cast

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from interp.core.door.door import door
from interp.core.errors import ResultsError
from interp.core.files.atomic import whole
from interp.core.files.identity import Unreadable, identity, source
from interp.core.files.sealed import Damaged, checksum, read_note, told, write_note
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.core.tables.table import Table, noted, open_table
from interp.runs.config import config_hash, files_of, plain
from interp.runs.machine import provenance

log = logging.getLogger("interp")

REMEDY = (
    "A run keeps its results there; choose a root folder that you may write to and that has room."
)
SUMMARY, FINISHED = "summary.md", "files.json"
MOVE = "Move it away, or take another root folder."
T = TypeVar("T", bound=Table)
OUTPUT = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "interp"}
"""Matplotlib settings that are read when a file is written; interp.figures draws with the same."""
UNDATED: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}
"""Metadata left out, so that the same figure gives the same bytes."""


@door
@dataclass(frozen=True)
class Run:
    """The folder of one config. Made by `open_run`.

    Attributes:
        folder: that everything is written to.
        files: a hash of what lies in the files and folders that the config names. If a model's
            folder is written anew the run is no longer finished; its stages tell what is.
    """

    folder: Path
    files: str = ""

    def __identity__(self) -> str:
        return ""  # where something is written is no part of what it is

    @property
    def finished(self) -> bool:
        """`finish` was called: `results` loads instead of computing."""
        if not (self.folder / "results.parquet").exists():
            return False
        try:
            return read_note(self.folder / FINISHED, remedy=REMEDY).get("files") == self.files
        except FileNotFoundError:
            return True  # of interp 0.1
        except Damaged as error:
            log.warning("%s The run is finished again.", error)
            return False

    def results(self) -> Results:
        """The results of a finished run.

        Raises:
            ResultsError: not finished, or written by another version.
        """
        return Results.load(self._results())

    def scores(self) -> Scores:
        """The same of an experiment that scores what can be read off."""
        return Scores.load(self._results())

    def table(self) -> Table:
        """The same of whatever kind it is."""
        return open_table(self._results())

    def _results(self) -> Path:
        path = self.folder / "results.parquet"
        of = noted(path).get("run", self.folder.name)
        if of != self.folder.name:
            raise ResultsError(
                f"{path} has the results of the run {of}: a file was exchanged. Take it away to "
                "compute those of this run, or put it back."
            )
        return path

    @door
    def stage(self, name: str, compute: Callable[[Path], T], *, of: Any = None) -> T:
        """The table of one step: loaded if it is there, else computed and kept.

        A table is loaded for the same question only. The question is all that `compute` reads: its
        code, what it closes over and the globals it names, models by their weights as they are,
        prompts, arrays and named files by what they hold. Of another one the log tells the date,
        and it is computed again.

        Args:
            name: of the file, `stages/<name>.parquet`.
            compute: gives Results or Scores; is given a folder that outlives an interruption, to
                keep finished parts in; the folder goes when the stage is done.
            of: what it computes from, where `compute` holds what cannot be read, such as a
                generator: then this, and no more, tells one question from another.

        Raises:
            ResultsError: the file is there but unreadable or of another version, or `compute`
                returned no table.
            Unreadable: what `compute` reads cannot be told from something else.
        """
        path = self.folder / "stages" / f"{_named(name, 'a stage')}.parquet"
        checkpoint = self.folder / ".checkpoint" / name
        asked = _question(name, compute, of)
        if not path.exists() or not _is_of(path, name, asked):
            _make(checkpoint)
            try:
                found = compute(checkpoint)
            except Exception:
                # what it kept may have gone because another process was first
                if not path.exists() or not _is_of(path, name, asked):
                    raise
                log.info("stage %r was finished by another process; its table is taken.", name)
                return cast(T, open_table(path))
            if not isinstance(found, Table):
                with suppress(OSError):  # what holds finished parts stays
                    os.removedirs(checkpoint)
                raise ResultsError(
                    f"stage {name!r} gave a {type(found).__name__}, not Results or Scores; does "
                    "its function end in `return`?"
                )
            # what was read may have changed meanwhile: a cache was filled, a list has grown
            found.write(path, {"of": sorted({asked, _question(name, compute, of)})})
        shutil.rmtree(checkpoint, ignore_errors=True)
        # also after computing: the table of a resumed run and of an unbroken one are then the same
        return cast(T, open_table(path))

    @door
    def figure(self, name: str, figure: Figure, table: pd.DataFrame) -> list[Path]:
        """Write `figures/<name>` as .pdf, .svg and .png, and the table it shows as .csv.

        The same figure gives the same bytes on the same machine.

        Args:
            name: of the files, without their ends.
            figure: of matplotlib, as all functions of interp.figures give it.
            table: what it shows, such as `results.summary()`.

        Raises:
            ResultsError: a name that no file can have, or a folder that cannot be written.
        """
        base = self.folder / "figures" / _named(name, "a figure")
        pages = {"csv": table.to_csv(index=False, lineterminator="\n").encode()}
        with mpl.rc_context(OUTPUT):
            for kind, undated in UNDATED.items():
                page = BytesIO()
                figure.savefig(page, format=kind, metadata=undated)
                pages[kind] = page.getvalue()
        return [
            _write(base.with_name(f"{base.name}.{kind}"), pages[kind]) for kind in sorted(pages)
        ]

    @door
    def finish(self, results: Table, summary: str) -> None:
        """Write `summary.md`, then `results.parquet`, whose presence says that all is done.

        Args:
            results: Results or Scores.
            summary: in words, as markdown.

        Raises:
            ResultsError: a folder that cannot be written, or a table that no file can hold.
        """
        page = (summary.rstrip() + "\n").encode()
        _write(self.folder / SUMMARY, page)
        note = {"files": self.files, "summary": checksum(page)}
        write_note(self.folder / FINISHED, note, remedy=REMEDY)
        results.write(self.folder / "results.parquet", {"run": self.folder.name})


def _question(name: str, compute: Callable[[Path], Any], of: Any) -> str:
    """What a stage computes from.

    Raises:
        Unreadable: it cannot be told from something else.
    """
    try:
        return identity(compute if of is None else (of, source()), files=True)
    except Unreadable as error:
        raise Unreadable(
            f"stage {name!r} keeps a table for the same question only, and {error} Say what it "
            f"computes from: run.stage({name!r}, ..., of=[model, pairs])."
        ) from error


def _is_of(path: Path, name: str, asked: str) -> bool:
    """Is what lies there of this question? If not, the log says so."""
    try:
        if asked in noted(path).get("of", ()):
            return True
    except Damaged as error:
        log.warning("stage %r: %s It is computed again.", name, error)
        return False
    log.warning(
        "stage %r of %s was computed from something else: the prompts, the model, the settings or "
        "the code of then. It is computed again.",
        name,
        datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M"),
    )
    return False


@door
def open_run(name: str, config: Any, *, root: str | os.PathLike[str] = Path("runs")) -> Run:
    """The folder of this config, with config.json and provenance.json in it.

    Args:
        name: of the experiment.
        config: a frozen dataclass. Fields with `metadata={"hash": False}` (where to write, how
            much memory to use) do not change the folder.
        root: under which every experiment has its folder.

    Raises:
        ResultsError: the folder cannot be written, or the config holds what JSON cannot.
    """
    folder = Path(root) / _named(name, "an experiment") / config_hash(config)
    run = Run(folder, files_of(plain(config, "config", hashed_only=True)))
    if run.finished:  # only to be read: it may lie where nothing can be written
        return run
    write_note(run.folder / "config.json", plain(config, "config"), remedy=REMEDY)
    path, now = run.folder / "provenance.json", provenance()
    # a run resumed after an upgrade was made by both versions, and says so
    sessions = [s for s in _sessions(path) if s != now]
    write_note(path, {"sessions": [*sessions, now]}, remedy=REMEDY)
    return run


def _sessions(path: Path) -> list[Any]:
    """What computed in this folder before.

    Raises:
        ResultsError: the file is there, but is not what `open_run` wrote.
    """
    try:
        note = read_note(path, remedy=MOVE)
    except FileNotFoundError:
        return []
    told(note, path, MOVE, {"sessions": list})
    return list(note["sessions"])


def _named(name: str, what: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ResultsError(
            f"{name!r} cannot name {what}: it becomes a file name; use letters, digits, _ . - +."
        )
    return name


def _write(path: Path, content: bytes) -> Path:
    """Write a whole file or none."""
    with whole(path, remedy=REMEDY) as partial:
        partial.write_bytes(content)
    return path


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"cannot write {folder}: {error.strerror or error}. {REMEDY}") from error
