"""A run's folder: what was asked, on what, and every result so far.

    runs/<name>/<config-hash>/
        config.json  provenance.json  results.parquet  summary.md
        stages/*.parquet  figures/*.pdf *.svg *.png *.csv

The same config opens the same folder: what is finished there is loaded, not computed again, as long
as what it was computed from is still the same. A file under its final name is whole; it is written
beside it and then renamed.
"""

import dataclasses
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from importlib import metadata
from io import BytesIO
from numbers import Real
from pathlib import Path, PurePath
from typing import Any, TypeVar, cast

import matplotlib as mpl
import pandas as pd
import tyro
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from interp.core.door.door import door
from interp.core.door.taken import Index, shown
from interp.core.errors import InterpError, ResultsError, nearest
from interp.core.files.atomic import whole
from interp.core.files.identity import Unreadable, identity, lying_at, lying_in, source
from interp.core.files.sealed import Damaged, checksum, read_note, told, write_note
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.core.tables.table import Table, noted, open_table

log = logging.getLogger("interp")

REMEDY = (
    "A run keeps its results there; choose a root folder that you may write to and that has room."
)
SUMMARY, FINISHED = "summary.md", "files.json"
AGAIN = "Take results.parquet away and run it again: stages that are finished are loaded."
MOVE = "Move it away, or take another root folder."
T = TypeVar("T", bound=Table)
PACKAGES = ("interp", "torch", "transformer-lens", "transformers", "numpy", "pandas")
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
    run = Run(folder, _files(plain(config, "config", hashed_only=True)))
    if run.finished:  # only to be read: it may lie where nothing can be written
        return run
    write_note(run.folder / "config.json", plain(config, "config"), remedy=REMEDY)
    path, now = run.folder / "provenance.json", provenance()
    # a run resumed after an upgrade was made by both versions, and says so
    sessions = [s for s in _sessions(path) if s != now]
    write_note(path, {"sessions": [*sessions, now]}, remedy=REMEDY)
    return run


def _files(config: Any) -> str:
    """A hash of what lies in all files that a config names, and in folders."""
    match config:
        case str():
            found = list(lying_at(config)) or _in_folder(config)
        case dict() | list():
            inner = config.values() if isinstance(config, dict) else config
            found = [part for part in map(_files, inner) if part]
        case _:
            found = []
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12] if found else ""


def _in_folder(named: str) -> list[str]:
    """What lies in a folder that a config names.

    Raises:
        ResultsError: it holds too much.
    """
    try:
        return list(lying_in(named))
    except Unreadable as error:
        raise ResultsError(
            f"the config names a folder, and {error} If nothing is read from it, put "
            'metadata={"hash": False} on the field.'
        ) from error


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


@door
def config_hash(config: Any) -> str:
    """12 hex digits of the sha256 of the config's canonical JSON."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ResultsError(
            f"a config is an instance of a frozen dataclass, not {shown(config)}; write Config() "
            "with its brackets, and @dataclass(frozen=True) above its class."
        )
    kept = plain(config, "config", hashed_only=True)
    return hashlib.sha256(_json(kept, indent=None)).hexdigest()[:12]


@door
def plain(value: Any, where: str, *, hashed_only: bool = False) -> Any:
    """A config value as JSON has it: paths, dtypes and enum members as text, tuples as lists.

    Raises:
        ResultsError: a value without a stable text, such as a function or a model.
    """

    def inner(part: Any, name: str) -> Any:
        return plain(part, f"{where}.{name}", hashed_only=hashed_only)

    match value:
        case Enum():
            return value.name
        case None | bool() | int() | float() | str():
            return value
        case PurePath():
            return value.as_posix()
        case dict():
            return {str(key): inner(part, str(key)) for key, part in value.items()}
        case list() | tuple():
            return [inner(part, str(i)) for i, part in enumerate(value)]
        case set() | frozenset():
            return sorted((inner(part, "item") for part in value), key=json.dumps)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        kept = [f for f in fields if not hashed_only or f.metadata.get("hash", True)]
        return {f.name: inner(getattr(value, f.name), f.name) for f in kept}
    if type(value).__module__.partition(".")[0] in ("torch", "numpy"):
        if "dtype" in type(value).__name__.lower() or type(value).__name__ == "device":
            return str(value)
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            return inner(value.item(), "item")
    raise ResultsError(
        f"{where} is a {type(value).__name__}, which has no stable text to name a folder by. Put "
        "numbers, text, paths, tuples or dataclasses of these into a config, and build the rest "
        "from them in run()."
    )


def provenance() -> dict[str, Any]:
    """What computes here: versions, machine, and the commit of the interp checkout."""
    return {
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout this file is tracked in, "-dirty" after it if files differ."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not just any repository around us
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _named(name: str, what: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ResultsError(
            f"{name!r} cannot name {what}: it becomes a file name; use letters, digits, _ . - +."
        )
    return name


def _json(value: Any, *, indent: int | None = 2) -> bytes:
    return (json.dumps(value, indent=indent, sort_keys=True) + "\n").encode()


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
