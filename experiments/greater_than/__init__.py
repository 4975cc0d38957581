"""The circuit of greater-than: "The war lasted from the year 1743 to the year 17" -> a later one.

It is found on half of the nouns and proved on the other half, by the probability of the greater
years less that of the others (Hanna et al. 2023). Then the circuit is asked for more than one
number: how likely is each year, by its distance from the first? A model that compares has a step
there, and the circuit must have the same.

    python -m experiments.greater_than                 # SmolLM2-135M, minutes on two cores
    python -m experiments.greater_than --size smoke
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

import interp
from experiments import _circuit
from experiments._shared import Words, experiment
from interp.circuits import Study
from interp.circuits.proof.faithfulness import EMPTY, faithfulness
from interp.circuits.study import Proof
from interp.core.parts.circuit import Circuit
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.datasets.tasks.greater_than import greater_probability, greater_than, later_probability
from interp.runs import Run

OFFSETS = range(-8, 9)
RUNS = (
    ("the model", "circuit", "base"),
    ("the circuit alone", "circuit", "value"),
    ("all ablated", EMPTY, "value"),
)
"""What is compared, and the circuit and the column in which its numbers are."""
words = Words(__file__)


@dataclass(frozen=True, kw_only=True)
class Config(_circuit.Config):
    """What is run.

    Attributes:
        prompts: prompt pairs; there are 41 nouns, which are what is split.
    """

    sizes: ClassVar = {
        "smoke": {"prompts": 8},
        "default": {"prompts": 40},
        "full": {"prompts": 200},
    }


@experiment("greater_than")
def run(run: Run, config: Config) -> tuple[Results, str]:
    """How the circuit did beside random ones."""
    model = interp.load(config.model)

    def further(study: Study, proof: Proof) -> str:
        _circuit.draw(study, proof)
        table = by_distance(study, proof.circuit)
        labels = {"xlabel": "next token less the first year's", "ylabel": "probability"}
        run.figure("years", interp.figures.curves(table, x="offset", hue="run", **labels), table)
        return steps(table)

    return _circuit.studied(
        *(run, config, further),
        model=model,
        pairs=greater_than(model, n=config.prompts, seed=config.seed),
        task="greater-than",
        corruption="the year 01 in place of the first",
        metric=greater_probability(model),
    )


def by_distance(study: Study, circuit: Circuit) -> pd.DataFrame:
    """Probability of each year by its distance from the first: `run`, `offset`, and interval."""

    def measured(kept: Path | None) -> Results:
        found = faithfulness(
            *(study.model, study.proof, circuit),
            metric=[later_probability(study.model, offset) for offset in OFFSETS],
            memory=study.memory,
            checkpoint=kept,
        )
        return found.runs

    frame = study.stage("years", measured).frame
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
        words("step", name=name, after=at.loc[(name, 1)], before=at.loc[(name, -1)])
        for name in dict.fromkeys(table["run"])
    ]
    apart = table.pivot(index="offset", columns="run", values="value")
    distance = np.abs(apart["the model"] - apart["the circuit alone"]).sum() / 2
    return words("steps", each=", ".join(said), distance=distance)
