"""One circuit on each structure, with subjects that its discovery has not seen."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from readers import WORD, Reader, speaking

import interp
from experiments import agreement_circuit as experiment
from experiments._circuit import SIZES
from experiments._shared import opened
from interp.circuits import Study
from interp.core.parts.circuit import Circuit
from interp.core.parts.graph import Graph
from interp.datasets.tasks.subject_verb import (
    ADVERBS,
    DID,
    DOES,
    LEADS,
    NEAR,
    NOUNS,
    STRUCTURES,
    VERBS,
    subject_verb,
)
from interp.models.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    nouns = [f" {form}" for noun in NOUNS for form in (noun, f"{noun}s")]
    verbs = [f" {form}" for pair in [*DOES, *VERBS] for form in pair]
    others = [*LEADS, *(f" {word}" for word in [*NEAR, *DID, *ADVERBS, "the", "to", "that"])]
    reader = Reader(WORD, [*nouns, *verbs, *others, "to"])
    return speaking(reader, tmp_path_factory.mktemp("speaking"))


@pytest.fixture
def config(tmp_path: Path) -> experiment.Config:
    return experiment.Config(size="smoke", prompts=20, each=60, out=tmp_path)


@pytest.fixture
def study(model: Model, config: experiment.Config) -> Study:
    run = interp.runs.open_run("structures", config, root=config.out)
    pairs = subject_verb(model, n=20)
    # KL: a random model does not agree, but it differs from itself without its edges
    return Study(model=model, pairs=pairs, sizes=SIZES["smoke"], metric="kl", run=run)


@pytest.mark.plain
def test_subjects_are_new(study: Study, config: experiment.Config) -> None:
    pairs = experiment.unseen(study, "prepositional", config)
    assert len(study.discovery.cluster) == 10
    assert set(pairs.cluster) == set(NOUNS) - set(study.discovery.cluster)
    assert "attractor" in pairs.positions  # so all are of a structure that has one


@pytest.mark.plain
def test_each_structure_by_itself(study: Study, config: experiment.Config) -> None:
    """All edges are the model, everywhere."""
    model = study.model
    edges = Graph.of(model.facts).edges
    table = experiment.by_structure(study, Circuit.of(edges, model=model.weight_hash), config)
    assert table["structure"].tolist() == [*STRUCTURES]
    np.testing.assert_allclose(table[["value", "low", "high"]].to_numpy(dtype=float), 1)
    np.testing.assert_allclose(table[["model", "circuit"]].to_numpy(), 0, atol=1e-9)
    assert table["n"].tolist() == [50] * 4
    for structure, row in zip(STRUCTURES, table.to_dict("records"), strict=True):
        pairs = experiment.unseen(study, structure, config)
        found = interp.evaluate(model, pairs, metric="accuracy").query("position == 'clean'")
        right = found.frame["value"].mean()
        assert row["model_accuracy"] == row["circuit_accuracy"] == pytest.approx(right)


@pytest.mark.plain
def test_a_circuit_without_edges_is_no_more_than_nothing(
    study: Study, config: experiment.Config
) -> None:
    none = Circuit.of([], model=study.model.weight_hash, granularity="edges")
    table = experiment.by_structure(study, none, config)
    assert (table["value"] == 0).all()
    assert (table["circuit"] > table["model"]).all()


def test_structures_in_words() -> None:
    row = {"structure": "simple", "value": 0.9, "low": 0.8, "high": 1.0, "n": 12}
    row |= {"circuit_accuracy": 0.75, "model_accuracy": 1.0}
    said = experiment.serves(pd.DataFrame([row, row | {"structure": "prepositional"}]))
    assert "simple 0.90 [0.80, 1.00] (12 prompts; right on 75%, the model on 100%); prep" in said


@pytest.mark.plain
def test_a_model_that_cannot_do_it_has_no_circuit(model: Model, tmp_path: Path) -> None:
    config = experiment.Config(model=model.name, size="smoke", prompts=24, out=tmp_path)
    experiment.run(config)
    run = opened("agreement_circuit", config)
    said = (run.folder / "summary.md").read_text()
    assert "under 75% means that the model does not do the task, so no circuit" in said
    assert {path.name for path in (run.folder / "stages").iterdir()} == {"behaviour.parquet"}
