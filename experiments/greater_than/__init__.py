"""The circuit of greater-than: "The war lasted from the year 1743 to the year 17" -> a later one.

`circuit_study` finds it on half of the nouns and proves it on the other half, by the probability of
the greater years less that of the others (Hanna et al. 2023). Then the circuit is asked for more
than one number: how likely is each year, by its distance from the first? A model that compares has
a step there, and the circuit must have the same.

    python experiments/greater_than.py                 # SmolLM2-135M, minutes on two cores
    python experiments/greater_than.py --size smoke
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from circuit_study import SIZES, Study, prove
from circuit_study_report import draw, refused, summarise

import interp
from interp.circuits.proof.faithfulness import EMPTY, faithfulness
from interp.core.parts.circuit import Circuit
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.datasets.tasks.greater_than import greater_probability, greater_than, later_probability
from interp.runs import interval

OFFSETS = range(-8, 9)
RUNS = (
    ("the model", "circuit", "base"),
    ("the circuit alone", "circuit", "value"),
    ("all ablated", EMPTY, "value"),
)
"""What is compared, and the circuit and the column in which its numbers are."""


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        size: of the defaults below; a number given by hand wins.
        prompts: prompt pairs; there are 41 nouns, which are what is split.
    """

    model: str = "smollm2-135m"
    size: Literal["smoke", "default", "full"] = "default"
    prompts: int | None = None
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})
    memory: int | None = field(default=None, metadata={"hash": False})

    def sized(self) -> "Config":
        """With the numbers that its size stands for."""
        prompts = {"smoke": 8, "default": 40, "full": 200}[self.size]
        return replace(self, prompts=self.prompts or prompts)


def run(config: Config) -> Results:
    """Run or resume the experiment and return how the circuit did beside random ones."""
    config = config.sized()
    run = interp.runs.open_run("greater_than", config, root=config.out)
    if run.finished:
        return run.results()
    model = interp.load(config.model)
    study = Study(
        run=run,
        model=model,
        pairs=greater_than(model, n=config.prompts or 0, seed=config.seed),
        task="greater-than",
        corruption="the year 01 in place of the first",
        sizes=SIZES[config.size],
        metric=greater_probability(model),
        seed=config.seed,
        memory=config.memory,
    )
    behaviour = study.behaviour()
    if why := refused(study, behaviour):
        run.finish(behaviour, why)
        return run.results()
    proof = prove(study)
    draw(study, proof)
    table = by_distance(study, proof.circuit)
    run.figure(
        "years",
        interp.figures.curves(
            table,
            x="offset",
            hue="run",
            xlabel="next token less the first year's",
            ylabel="probability",
        ),
        table,
    )
    run.finish(
        Results.concat([behaviour, proof.judged]),
        f"{summarise(study, behaviour, proof)}\n\n{steps(table)}",
    )
    return run.results()


def by_distance(study: Study, circuit: Circuit) -> pd.DataFrame:
    """Probability of each year by its distance from the first: `run`, `offset`, and interval."""

    def measured(kept: Path) -> Results:
        found = faithfulness(
            *(study.model, study.proof, circuit),
            metric=[later_probability(study.model, offset) for offset in OFFSETS],
            memory=study.memory,
            checkpoint=kept,
        )
        return found.runs

    frame = study.run.stage("years", measured).frame
    rows = []
    for name, site, column in RUNS:
        for metric, part in frame[frame["site"] == site].groupby("metric", sort=False):
            each = part[column].to_numpy(dtype=float)
            cluster, _ = pd.factorize(part["cluster"])
            low, high = stats.mean_interval(each[None], cluster, seed=study.seed)
            offset = int(str(metric).partition("(")[2].strip(")"))
            rows.append((name, offset, each.mean(), low[0], high[0]))
    return pd.DataFrame(rows, columns=["run", "offset", "value", "low", "high"])


def steps(table: pd.DataFrame) -> str:
    """The step in words: the year before the first, and the year after."""
    at = table.set_index(["run", "offset"]).sort_index()
    said = [
        f"{interval(at.loc[(name, 1)])} and {interval(at.loc[(name, -1)])} of {name}"
        for name in dict.fromkeys(table["run"])
    ]
    apart = table.pivot(index="offset", columns="run", values="value")
    distance = np.abs(apart["the model"] - apart["the circuit alone"]).sum() / 2
    return (
        "The probabilities of the next token after the first year's own (44 after 43; of single "
        f"digits 5 after 4) and of the one before it are {', '.join(said)}. Half of what the "
        "model's mean probabilities and the circuit's differ by (total variation) is "
        f"{distance:.2f}."
    )


def main(config: Config) -> None:
    run(config)
    folder = interp.runs.open_run("greater_than", config.sized(), root=config.out).folder
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
