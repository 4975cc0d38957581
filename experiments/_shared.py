"""What every experiment has: a size, a seed, a run that goes on where it was, and a report.

The words of a report stand in `report.md` beside the experiment: sections with names, and in them
fields in braces. Code computes fields and chooses sections; it writes no sentences.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import interp
from interp.core.tables.table import Table
from interp.runs import Run

Size = Literal["smoke", "default", "full"]


@dataclass(frozen=True, kw_only=True)
class Sized:
    """What every config has. The same config finds its results again.

    Attributes:
        size: how much is run: to see that it works, on two cores in minutes, or for a paper.
        out: where results are written.
    """

    size: Size = "default"
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})


C = TypeVar("C", bound=Sized)
T = TypeVar("T", bound=Table)


def experiment(name: str) -> Callable[[Callable[[Run, C], tuple[T, str]]], Callable[[C], T]]:
    """Make what computes a table and its summary a function of the config alone.

    A finished run is loaded, an interrupted one goes on from its stages.
    """

    def decorate(compute: Callable[[Run, C], tuple[T, str]]) -> Callable[[C], T]:
        def run(config: C) -> T:
            folder = opened(name, config)
            if not folder.finished:
                folder.finish(*compute(folder, config))
            scored = "Scores" in str(inspect.signature(compute).return_annotation)
            return folder.scores() if scored else folder.results()  # pyright: ignore

        run.__name__, run.__doc__ = "run", compute.__doc__
        run.experiment = name  # pyright: ignore[reportFunctionMemberAccess]
        return run

    return decorate


def opened(name: str, config: Sized) -> Run:
    return interp.runs.open_run(name, config, root=config.out)


def main(run: Callable[[C], Table], config: type[C]) -> None:
    """From the command line: run, then print the summary and what was written."""

    def told(given: C) -> None:
        run(given)
        name: str = run.experiment  # pyright: ignore[reportFunctionMemberAccess]
        print(interp.runs.report(opened(name, given).folder))

    interp.runs.script(told, config)


class Words:
    """The sections of a `report.md`, `[name]` on a line of its own before each."""

    def __init__(self, beside: str) -> None:
        """`beside`: the `__file__` of the experiment."""
        text = Path(beside).with_name("report.md").read_text()
        parts = re.split(r"^\[([\w ./-]+)\]\n", text, flags=re.M)
        self.sections = {
            name: re.sub(r"(?<!\n)\n(?!\n|[-|#])", " ", body.strip())
            for name, body in zip(parts[1::2], parts[2::2], strict=True)
        }

    def __call__(self, section: str, /, **fields: object) -> str:
        """The section with its fields filled in."""
        return self.sections[section].format(**fields)


__all__ = ["Size", "Sized", "Words", "experiment", "main", "opened"]
