"""The circuit of subject-verb agreement: "I know that the author near the pilots still" -> writes.

It is found on half of the subjects and proved on the other half; the corrupt prompt has the other
number of the subject (Finlayson et al. 2021). All structures are discovered on together, so the
last question is whether one circuit serves them: it is run on each by itself, with subjects that
the discovery has not seen.

    python -m experiments.agreement_circuit                 # SmolLM2-135M, minutes on two cores
    python -m experiments.agreement_circuit --size smoke
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd

import interp
from experiments import _circuit
from experiments._shared import Words, experiment
from interp.circuits import Study
from interp.circuits.proof.faithfulness import Faithfulness, faithfulness
from interp.circuits.study import Proof
from interp.core.parts.circuit import Circuit
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.datasets.tasks.subject_verb import STRUCTURES, Structure, subject_verb
from interp.runs import Run

words = Words(__file__)


@dataclass(frozen=True, kw_only=True)
class Config(_circuit.Config):
    """What is run.

    Attributes:
        prompts: prompt pairs of all structures; there are 60 subjects, which are what is split.
        each: prompt pairs of each structure by itself, before those of known subjects are left out.
    """

    sizes: ClassVar = {
        "smoke": {"prompts": 8, "each": 6},
        "default": {"prompts": 64, "each": 60},
        "full": {"prompts": 240, "each": 180},
    }
    each: int | None = None


@experiment("agreement_circuit")
def run(run: Run, config: Config) -> tuple[Results, str]:
    """How the circuit did beside random ones."""
    model = interp.load(config.model)

    def further(study: Study, proof: Proof) -> str:
        _circuit.draw(study, proof)
        table = by_structure(study, proof.circuit, config)
        shown = table.assign(of="the circuit of all structures")
        axes = {"x": "structure", "hue": "of", "ylabel": "normalised faithfulness"}
        run.figure("structures", interp.figures.curves(shown, **axes), table)
        return serves(table)

    return _circuit.studied(
        *(run, config, further),
        model=model,
        pairs=subject_verb(model, n=config.prompts, seed=config.seed),
        task="subject-verb agreement",
        corruption="the other number of the subject",
    )


def unseen(study: Study, structure: Structure, config: Config) -> Pairs:
    """Prompts of one structure whose subjects are not of the discovery half."""
    pairs = subject_verb(study.model, n=config.each, seed=config.seed + 1, structures=[structure])
    known = {*study.discovery.cluster}
    return pairs.select([i for i, noun in enumerate(pairs.cluster) if noun not in known])


def by_structure(study: Study, circuit: Circuit, config: Config) -> pd.DataFrame:
    """Faithfulness of the circuit on each structure, with what the model does there."""
    rows = []
    for structure in STRUCTURES:

        def measured(kept: Path | None, structure: Structure = structure) -> Results:
            found = faithfulness(
                *(study.model, unseen(study, structure, config), circuit),
                metric=[study.metric, study.accuracy],
                memory=study.memory,
                checkpoint=kept,
            )
            return found.runs

        found = Faithfulness(study.stage(f"on-{structure.replace(' ', '-')}", measured))
        by = found.summary(seed=study.seed).set_index("metric")
        mine, right = by.loc[study.name], by.loc["accuracy"]
        rows.append(
            {
                "structure": structure,
                "value": mine["faithfulness"],
                **mine[["low", "high", "n"]],
                "model": mine["full"],
                "circuit": mine["value"],
                "model_accuracy": right["full"],
                "circuit_accuracy": right["value"],
            }
        )
    return pd.DataFrame(rows)


def serves(table: pd.DataFrame) -> str:
    """Each structure in words."""
    return words("serves", each=words.each("structure", table, by="; "))
