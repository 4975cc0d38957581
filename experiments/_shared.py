"""What every experiment has: a size, a seed, a run that goes on where it was, and a report.

The words of a report stand in `report.md` beside the experiment: sections with names, and in them
fields in braces. Code computes fields and chooses sections; it writes no sentences.
"""

import inspect
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import pandas as pd

import interp
from interp.core.parts.sites import Site
from interp.core.tables.scores import COLUMNS, Scores
from interp.core.tables.table import Table
from interp.runs import Run, interval

Size = Literal["smoke", "default", "full"]


@dataclass(frozen=True, kw_only=True)
class Sized:
    """What every config has. The same config finds its results again.

    Attributes:
        size: how much is run: to see that it works, on two cores in minutes, or for a paper. A
            number given by hand wins.
        out: where results are written.
    """

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What a field that is None becomes, by size."""

    size: Size = "default"
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})

    def __post_init__(self) -> None:
        for name, value in self.sizes.get(self.size, {}).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)


C = TypeVar("C", bound=Sized)
T = TypeVar("T", bound=Table)


def experiment(name: str) -> Callable[[Callable[[Run, C], tuple[T, str]]], Callable[[C], T]]:
    """Make what computes a table and its summary a function of the config alone.

    A finished run is loaded, an interrupted one goes on from its stages. Activations that it keeps
    meanwhile, in `activations`, go when it is finished.
    """

    def decorate(compute: Callable[[Run, C], tuple[T, str]]) -> Callable[[C], T]:
        def run(config: C) -> T:
            folder = opened(name, config)
            if not folder.finished:
                folder.finish(*compute(folder, config))
                shutil.rmtree(folder.folder / "activations", ignore_errors=True)
            scored = "Scores" in str(inspect.signature(compute).return_annotation)
            return folder.scores() if scored else folder.results()  # pyright: ignore

        run.__name__, run.__doc__ = "run", compute.__doc__
        run.experiment = name  # pyright: ignore[reportFunctionMemberAccess]
        return run

    return decorate


def opened(name: str, config: Sized) -> Run:
    return interp.runs.open_run(name, config, root=config.out)


def main(
    run: Callable[[C], Table],
    config: type[C],
    shown: Callable[[Run], Iterable[pd.DataFrame]] = lambda _: (),
) -> None:
    """From the command line: run, then print some tables, the summary and what was written."""

    def told(given: C) -> None:
        run(given)
        name: str = run.experiment  # pyright: ignore[reportFunctionMemberAccess]
        folder = opened(name, given)
        for table in shown(folder):
            print(f"\n{table.to_string(index=False, float_format='{:.3f}'.format, na_rep='')}")
        print(interp.runs.report(folder.folder))

    interp.runs.script(told, config)


def steps(total: int, count: int) -> list[int]:
    """Numbers at equal steps up to a total, rounded: of layers, or of depths."""
    count = max(1, min(count, total))
    return sorted({round(total * i / count) for i in range(1, count + 1)})


def streams(layers: Iterable[int]) -> list[Site]:
    """The embedding, and the residual stream after each layer."""
    return [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in layers)]


def pooled(scores: Scores, over: Sequence[str]) -> Scores:
    """One score of what some columns tell apart, such as heads, or trainings in subsets."""
    keys = [name for name in COLUMNS if name not in (*over, "total", "n")]
    groups = scores.frame.groupby(keys, sort=False, dropna=False, as_index=False)
    empty = {name: {"layer": pd.NA, "head": pd.NA, "subset": "all"}.get(name, "") for name in over}
    sums = groups[["total", "n"]].sum().assign(**empty)
    return Scores(sums[COLUMNS].astype({"layer": "Int16", "head": "Int16"}), scores.provenance)


def brief(row: Mapping[str, Any] | pd.Series, form: str = ".2f") -> str:
    """A number with its interval, if it has one."""
    value, low, high = (format(row[name], form) for name in ("value", "low", "high"))
    return value if value == low == high or low == "nan" else f"{value} [{low}, {high}]"


class _Row:
    """A row of a summary in a sentence: `{row}` is its value with the interval.

    `{row:effect}` is another column's, `{row:.2f}` has so many digits, and `{row[n]}` is one entry.
    """

    def __init__(self, row: pd.Series) -> None:
        self.row = row

    def __getitem__(self, column: str) -> Any:
        return self.row[column]

    def __format__(self, spec: str) -> str:
        column, _, digits = spec.partition(".")
        column, row = column.strip() or "value", self.row
        if f"{column}_low" in row:
            row = row.drop(["low", "high"], errors="ignore")
            row = row.rename({f"{column}_{end}": end for end in ("low", "high")})
        return interval(row, column, digits=int(digits.rstrip("f") or 3))


class Words:
    """The sections of a `report.md`, `[name]` on a line of its own before each."""

    def __init__(self, beside: str) -> None:
        """`beside`: the `__file__` of the experiment."""
        text = Path(beside).with_name("report.md").read_text()
        parts = re.split(r"^\[([^\[\]{}\n]+)\]\n", text, flags=re.M)
        self.sections = {
            name: re.sub(r"(?<!\n)\n(?!\n|[-|#])", " ", body.strip())
            for name, body in zip(parts[1::2], parts[2::2], strict=True)
        }

    def __call__(self, section: str, /, **fields: object) -> str:
        """The section with its fields filled in. Of a row of a table see `_Row`."""
        named = {k: _Row(v) if isinstance(v, pd.Series) else v for k, v in fields.items()}
        return self.sections[section].format(**named)

    def each(self, section: str, rows: pd.DataFrame, /, *, by: str = ", ", **fields: object) -> str:
        """The section once for each `row` of a table."""
        return by.join(self(section, row=row, **fields) for _, row in rows.iterrows())


__all__ = [
    "Size",
    "Sized",
    "Words",
    "brief",
    "experiment",
    "main",
    "opened",
    "pooled",
    "steps",
    "streams",
]
