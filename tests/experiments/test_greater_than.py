"""The years that a circuit of greater-than says, and what is said of a model that cannot do it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from readers import WORD, Reader, speaking

import interp
from experiments import greater_than as experiment
from experiments._circuit import SIZES
from experiments._shared import opened
from interp.circuits import Study
from interp.core.parts.circuit import Circuit
from interp.core.parts.graph import Graph
from interp.datasets.tasks.greater_than import NOUNS, TEMPLATE, greater_probability, greater_than
from interp.models.model import Model


@pytest.fixture(scope="module")
def reader() -> Reader:
    texts = [TEMPLATE.format(NOUN="to", CENTURY="", YEAR="", AGAIN=""), " "]
    return Reader(rf"{WORD}| |\d", [*texts, *(f" {noun}" for noun in NOUNS), *map(str, range(10))])


@pytest.fixture(scope="module")
def model(reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return speaking(reader, tmp_path_factory.mktemp("speaking"))


@pytest.fixture
def study(model: Model, tmp_path: Path) -> Study:
    run = interp.runs.open_run("years", SIZES["smoke"], root=tmp_path)
    pairs = greater_than(model, n=10)
    metric = greater_probability(model)
    return Study(model=model, pairs=pairs, sizes=SIZES["smoke"], metric=metric, run=run)


def whole(model: Model) -> Circuit:
    return Circuit.of(Graph.of(model.facts).edges, model=model.weight_hash)


@pytest.mark.plain
def test_all_edges_say_the_years_of_the_model(study: Study, reader: Reader) -> None:
    model, pairs = study.model, study.proof
    table = experiment.by_distance(study, whole(model))
    assert dict.fromkeys(table["run"]) == dict.fromkeys(name for name, _, _ in experiment.RUNS)
    wide = table.pivot(index="offset", columns="run", values="value")
    np.testing.assert_allclose(wide["the model"], wide["the circuit alone"], atol=1e-12)

    digits = reader.tokenizer.convert_tokens_to_ids([str(d) for d in range(10)])
    found = {"the model": pairs.clean, "all ablated": pairs.corrupt}
    for name, tokens in found.items():
        with torch.no_grad():
            said = model.bridge(tokens)[:, -1].softmax(-1)[:, digits].numpy()
        for offset in experiment.OFFSETS:
            each = []
            for row, probability in zip(pairs.clean, said, strict=True):
                own = int(reader.spell(row[pairs.at("year")[0]])) + offset
                each.append(probability[own] if 0 <= own <= 9 else 0.0)
            assert wide.loc[offset, name] == pytest.approx(np.mean(each), abs=1e-12)


def test_the_step_in_words() -> None:
    rows = [
        ("the model", {-1: 0.1, 0: 0.2, 1: 0.7}),
        ("the circuit alone", {-1: 0.3, 0: 0.2, 1: 0.5}),
        ("all ablated", {-1: 0.4, 0: 0.3, 1: 0.3}),
    ]
    table = pd.DataFrame(
        [
            {"run": name, "offset": k, "value": v, "low": v - 0.05, "high": v + 0.05}
            for name, values in rows
            for k, v in values.items()
        ]
    )
    said = experiment.steps(table)
    assert "0.700 [0.650, 0.750] and 0.100 [0.050, 0.150] of the model" in said
    assert "0.300 [0.250, 0.350] and 0.400 [0.350, 0.450] of all ablated" in said
    assert "(total variation) is 0.20." in said


@pytest.mark.plain
def test_a_model_that_cannot_do_it_has_no_circuit(model: Model, tmp_path: Path) -> None:
    config = experiment.Config(model=model.name, size="smoke", prompts=24, out=tmp_path)
    found = experiment.run(config)
    assert set(found.frame["metric"]) == {"greater_probability", "accuracy"}
    run = opened("greater_than", config)
    said = (run.folder / "summary.md").read_text()
    assert "under 75% means that the model does not do the task, so no circuit" in said
    assert {path.name for path in (run.folder / "stages").iterdir()} == {"behaviour.parquet"}
    assert len(experiment.run(config)) == len(found)
