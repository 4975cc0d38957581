"""Copying what was named before: an LSTM against transformers of one and of two layers.

A row stores pairs of a key and a value and then asks for keys among other tokens (multi-query
associative recall, Arora et al. 2023): by how many pairs are stored, and by how far back the value
stands. Attention can look the value up; a recurrent model must have kept every pair in its state.
The negative control is a lookup whose key comes first (Jelassi et al. 2024): the same tokens, but
one value to hold, which a recurrent model should learn as well as anyone; with the key last it is
recall again. Models have equal numbers of parameters, the same rows, steps and recipe.

    python -m experiments.recall                 # minutes on two cores
    python -m experiments.recall --size full
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments._shared import Sized, experiment
from experiments.recall.models import TASKS, Amount, Task, measure
from experiments.recall.report import draw, summarise, tables_of
from interp.core.tables.scores import Scores
from interp.runs import Run

AMOUNTS = {
    "smoke": Amount(seeds=2, steps=60, control=60, rows=1_000, asked=100),
    "default": Amount(seeds=5, steps=1_500, control=1_000),
    "full": Amount(seeds=10, steps=20_000, control=4_000),
}


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        seed: of the rows; each training has a seed of its own, 0 and up.
    """


@experiment("recall")
def run(folder: Run, config: Config) -> tuple[Scores, str]:
    """Everything that was measured.

    Trained models stay in the run's folder, `models/`, where `interp.load` reads them.
    """
    size, models = AMOUNTS[config.size], folder.folder / "models"

    def measuring(task: Task) -> Callable[[Path], Scores]:
        return lambda _: measure(task, size, config.seed, models)

    found = Scores.concat([folder.stage(task, measuring(task)) for task in TASKS])
    tables = tables_of(found)
    draw(folder, tables)
    return found, summarise(tables, size)
