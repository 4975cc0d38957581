"""Copying what was named before: an LSTM against transformers of one and of two layers.

A row stores pairs of a key and a value and then asks for keys among other tokens (multi-query
associative recall, Arora et al. 2023): by how many pairs are stored, and by how far back the value
stands. Attention can look the value up; a recurrent model must have kept every pair in its state.
The negative control is a lookup whose key comes first (Jelassi et al. 2024): the same tokens, but
one value to hold, which a recurrent model should learn as well as anyone; with the key last it is
recall again. Models have equal numbers of parameters, the same rows, steps and recipe.

    python experiments/recall.py                 # minutes on two cores
    python experiments/recall.py --size full
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from recall_models import TASKS, Size, Task, measure
from recall_report import draw, summarise, tables_of

import interp
from interp.core.tables.scores import Scores

SIZES = {
    "smoke": Size(seeds=2, steps=60, control=60, rows=1_000, asked=100),
    "default": Size(seeds=5, steps=1_500, control=1_000),
    "full": Size(seeds=10, steps=20_000, control=4_000),
}


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        seed: of the rows; each training has a seed of its own, 0 and up.
    """

    size: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})


def run(config: Config) -> Scores:
    """Run or resume the experiment and return everything that was measured.

    Trained models stay in the run's folder, `models/`, where `interp.load` reads them.
    """
    run = interp.runs.open_run("recall", config, root=config.out)
    if run.finished:
        return run.scores()
    size, models = SIZES[config.size], run.folder / "models"

    def measuring(task: Task) -> Callable[[Path], Scores]:
        return lambda _: measure(task, size, config.seed, models)

    found = Scores.concat([run.stage(task, measuring(task)) for task in TASKS])
    tables = tables_of(found)
    draw(run, tables)
    run.finish(found, summarise(tables, size))
    return run.scores()


def main(config: Config) -> None:
    run(config)
    folder = interp.runs.open_run("recall", config, root=config.out).folder
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
