"""Do adapters compose? Two LoRA adapters, each alone and both added up, on SmolLM2.

Each is trained here to turn one behaviour round: a verb takes the other number than its subject,
and a war from 1743 ends in a year that is not greater. So what each must do is known. They are
trained on half of the nouns, and everything else is of the other half: which heads' effects an
adapter changes (`interp.compare`), and whether both together do what each does alone: in weights,
in behaviour, and head by head. Where they compose, the change of the sum is the sum of the changes.

A head's effect is what the corrupt prompt's value of it, at the position of the answer, does to the
logit difference: how much of what decides the answer this head brings there.

    python -m experiments.adapters                 # SmolLM2-135M, minutes on two cores
    python -m experiments.adapters --size smoke
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import interp
from experiments._shared import Sized, experiment
from experiments.adapters.measured import Measured, overlap, sites_of, swept
from experiments.adapters.report import draw, summarise
from experiments.adapters.training import TASKS, Amount, adapter
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.models.model import Model
from interp.runs import Run

AMOUNTS = {
    "smoke": Amount(steps=2, batch=4, learned=8, asked=8),
    "default": Amount(steps=40, batch=12, learned=160, asked=32),
    "full": Amount(steps=300, batch=32, learned=400, asked=128),
}


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        model: whose adapters they are; with a tokenizer, of transformers.
        layers: in how many, at equal distances, the heads are measured.
    """

    sizes: ClassVar = {"smoke": {"layers": 2}, "default": {"layers": 30}, "full": {"layers": 30}}
    model: str = "smollm2-135m"
    layers: int | None = None


@experiment("adapters")
def run(folder: Run, config: Config) -> tuple[Results, str]:
    """The effects of heads in each model; `method` says on which task.

    The adapters stay in the run's folder, `adapters/`, where `interp.load(..., adapter=)` reads
    them.
    """
    size = AMOUNTS[config.size]
    base = interp.load(config.model)
    learned, asked = {}, {}
    for name, task in TASKS.items():
        some, others = task(base, size.learned + size.asked, config.seed).split(seed=config.seed)
        learned[name], asked[name] = some, others.select(range(min(size.asked, len(others))))
    folders = {
        name: adapter(config.model, pairs, folder.folder / "adapters" / name, size, config.seed)
        for name, pairs in learned.items()
    }
    one, other = folders
    given = {"base": [], one: [one], other: [other], "both": [one, other]}
    sites = sites_of(base, config.layers or 0)

    def measuring(model: Model, pairs: Pairs, task: str, name: str) -> Callable[[Path], Results]:
        return lambda kept: swept(model, pairs, sites, task=task, name=name, checkpoint=kept)

    tables: dict[tuple[str, str], Results] = {}
    for name, names in given.items():
        model = base
        if names:
            model = interp.load(config.model, adapter=[folders[one] for one in names])
        for task, pairs in asked.items():
            call = measuring(model, pairs, task, name)
            tables[task, name] = folder.stage(f"{task}-{name}", call)
    measured = {
        task: Measured.of(task, tables, other=name) for task, name in ((one, other), (other, one))
    }
    weights = overlap(*folders.values())
    draw(folder, measured, weights)
    found = Results.concat(list(tables.values()))
    return found, summarise(config.model, size, measured, weights, learned)
