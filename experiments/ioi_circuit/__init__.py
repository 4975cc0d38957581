"""The circuit of indirect objects: found on half of the templates, proven on the other, and named.

"Mary and John went to the market, and John gave a book to" -> " Mary". `circuit_study` finds the
edges and says how much they carry. Then the heads of the circuit are put into the classes that Wang
et al. (2022) found in GPT-2 small, by what they do and not by their index (`ioi_heads`): where they
look, and by which way that helps. Last, each class is taken out of the circuit and of the model.

    python experiments/ioi_circuit.py                 # SmolLM2-135M, 15 minutes on two cores
    python experiments/ioi_circuit.py --size smoke
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pandas as pd
from circuit_study import SIZES, Study, prove
from circuit_study_report import draw, refused, summarise
from ioi_classes import classify, draw_classes, said

import interp

WORDS = {
    "abc": "three unrelated names in place of the three",
    "swap": "the indirect object in place of the subject's second mention",
}


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        size: of the defaults below; a number given by hand wins.
        prompts: prompt pairs; a multiple of 40 balances templates and orders.
        corruption: of `interp.datasets.ioi`.
    """

    model: str = "smollm2-135m"
    size: Literal["smoke", "default", "full"] = "default"
    prompts: int | None = None
    corruption: Literal["abc", "swap"] = "abc"
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})
    memory: int | None = field(default=None, metadata={"hash": False})

    def sized(self) -> "Config":
        """With the numbers that its size stands for."""
        prompts = {"smoke": 6, "default": 40, "full": 200}[self.size]
        return replace(self, prompts=self.prompts or prompts)


def run(config: Config) -> interp.Results:
    """Run or resume the experiment and return how the circuit did beside random ones."""
    config = config.sized()
    run = interp.runs.open_run("ioi_circuit", config, root=config.out)
    if run.finished:
        return run.results()
    model = interp.load(config.model)
    study = Study(
        run=run,
        model=model,
        pairs=interp.datasets.ioi(
            model, n=config.prompts or 0, seed=config.seed, corruption=config.corruption
        ),
        task="indirect object identification",
        corruption=WORDS[config.corruption],
        sizes=SIZES[config.size],
        seed=config.seed,
        memory=config.memory,
    )
    behaviour = study.behaviour()
    if why := refused(study, behaviour):
        run.finish(behaviour, why)
        return run.results()
    proof = prove(study)
    classes = classify(study, proof)
    draw(study, proof, classes.of)
    draw_classes(study, classes)
    text = f"{summarise(study, behaviour, proof)}\n\n{said(study, proof, classes)}"
    run.finish(interp.Results.concat([behaviour, proof.judged]), text)
    return run.results()


def main(config: Config) -> None:
    run(config)
    folder = interp.runs.open_run("ioi_circuit", config.sized(), root=config.out).folder
    table = folder / "figures" / "classes.csv"
    if table.exists():
        print(
            pd.read_csv(table, dtype={"site": str}).to_string(
                index=False, float_format="{:.2f}".format
            )
        )
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
