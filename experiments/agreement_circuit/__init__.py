"""The circuit of subject-verb agreement: "I know that the author near the pilots still" -> writes.

`circuit_study` finds it on half of the subjects and proves it on the other half; the corrupt prompt
has the other number of the subject (Finlayson et al. 2021). All structures are discovered on
together, so the last question is whether one circuit serves them: it is run on each by itself, with
subjects that the discovery has not seen.

    python experiments/agreement_circuit.py                 # SmolLM2-135M, minutes on two cores
    python experiments/agreement_circuit.py --size smoke
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pandas as pd
from circuit_study import SIZES, Study, prove
from circuit_study_report import draw, refused, summarise

import interp
from interp.circuits.proof.faithfulness import Faithfulness, faithfulness
from interp.core.parts.circuit import Circuit
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.datasets.tasks.subject_verb import STRUCTURES, Structure, subject_verb
from interp.runs import interval


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        size: of the defaults below; a number given by hand wins.
        prompts: prompt pairs of all structures; there are 60 subjects, which are what is split.
        each: prompt pairs of each structure by itself, before those of known subjects are left out.
    """

    model: str = "smollm2-135m"
    size: Literal["smoke", "default", "full"] = "default"
    prompts: int | None = None
    each: int | None = None
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})
    memory: int | None = field(default=None, metadata={"hash": False})

    def sized(self) -> "Config":
        """With the numbers that its size stands for."""
        sizes = {"smoke": (8, 6), "default": (64, 60), "full": (240, 180)}
        prompts, each = sizes[self.size]
        return replace(self, prompts=self.prompts or prompts, each=self.each or each)


def run(config: Config) -> Results:
    """Run or resume the experiment and return how the circuit did beside random ones."""
    config = config.sized()
    run = interp.runs.open_run("agreement_circuit", config, root=config.out)
    if run.finished:
        return run.results()
    model = interp.load(config.model)
    study = Study(
        run=run,
        model=model,
        pairs=subject_verb(model, n=config.prompts or 0, seed=config.seed),
        task="subject-verb agreement",
        corruption="the other number of the subject",
        sizes=SIZES[config.size],
        seed=config.seed,
        memory=config.memory,
    )
    behaviour = study.behaviour()
    if why := refused(study, behaviour):
        run.finish(behaviour, why)
        return run.results()
    proof = prove(study)
    draw(study, proof)
    table = by_structure(study, proof.circuit, config)
    run.figure(
        "structures",
        interp.figures.curves(
            table.assign(of="the circuit of all structures"),
            x="structure",
            hue="of",
            ylabel="normalised faithfulness",
        ),
        table,
    )
    run.finish(
        Results.concat([behaviour, proof.judged]),
        f"{summarise(study, behaviour, proof)}\n\n{serves(table)}",
    )
    return run.results()


def unseen(study: Study, structure: Structure, config: Config) -> Pairs:
    """Prompts of one structure whose subjects are not of the discovery half."""
    pairs = subject_verb(
        study.model, n=config.each or 0, seed=config.seed + 1, structures=[structure]
    )
    known = {*study.discovery.cluster}
    return pairs.select([i for i, noun in enumerate(pairs.cluster) if noun not in known])


def by_structure(study: Study, circuit: Circuit, config: Config) -> pd.DataFrame:
    """Faithfulness of the circuit on each structure, with what the model does there."""
    rows = []
    for structure in STRUCTURES:

        def measured(kept: Path, structure: Structure = structure) -> Results:
            found = faithfulness(
                *(study.model, unseen(study, structure, config), circuit),
                metric=[study.metric, study.accuracy],
                memory=study.memory,
                checkpoint=kept,
            )
            return found.runs

        found = Faithfulness(study.run.stage(f"on-{structure.replace(' ', '-')}", measured))
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
    said = [
        f"{row['structure']} {interval(row, digits=2)} ({row['n']} prompts; right on "
        f"{row['circuit_accuracy']:.0%}, the model on {row['model_accuracy']:.0%})"
        for _, row in table.iterrows()
    ]
    return (
        "The faithfulness of this one circuit on each structure, with subjects that the discovery "
        f"has not seen: {'; '.join(said)}."
    )


def main(config: Config) -> None:
    run(config)
    folder = interp.runs.open_run("agreement_circuit", config.sized(), root=config.out).folder
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
