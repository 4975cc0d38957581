"""The demo on a random model: what is chosen on half of the templates is reported on the other."""

import re

import pytest
from readers import WORD, Reader, speaking

import interp
from experiments import ioi as experiment
from experiments._shared import opened
from interp.datasets.tasks.ioi import templates, vocabulary

NUMBER = r"-?\d+\.\d\d \[-?\d+\.\d\d, -?\d+\.\d\d\]"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> experiment.Config:
    words = [f" {word}" for kind in vocabulary().values() for word in kind]
    texts = [re.sub(r" \{\w+\}", "", text) for text in templates().values()]
    folder = tmp_path_factory.mktemp("speaking")
    model = speaking(Reader(rf"{WORD}|[^A-Za-z]", [*texts, *words]), folder)
    out = tmp_path_factory.mktemp("runs")
    return experiment.Config(
        model=model.name, size="smoke", prompts=20, ablated=20, heads=2, out=out
    )


def test_sizes_are_defaults() -> None:
    config = experiment.Config(size="smoke", prompts=20)
    assert (config.prompts, config.ablated, config.reference) == (20, 4, 40)


@pytest.mark.plain
@pytest.mark.filterwarnings("ignore:mean ablation")
def test_what_is_chosen_is_reported_on_the_other_half(config: experiment.Config) -> None:
    results = experiment.run(config)
    folder = opened("ioi", config)
    said = (folder.folder / "summary.md").read_text()
    assert "WARNING: an accuracy under 75% means that the model does not do the task" in said

    logits = results.query("method == 'path_patch' and receiver == 'logits'", family="rows")
    choosing, reporting = logits.split(seed=config.seed)
    chosen = list(choosing.top(2)["site"])
    other = reporting.query(f"site in {chosen}", family="rows").summary().set_index("site")
    for head in chosen:
        number = interp.runs.interval(other.loc[head], "effect", digits=2)
        assert f"{head} {number}" in said.split("direct effect")[1].split(" when ")[0]
        assert re.search(rf"-> {re.escape(head)}\.q \({NUMBER}\)", said)
    ablation = results.query("method == 'ablate mean'", family="rows")
    lost = experiment.strongest(ablation, 3, seed=config.seed)
    listed = ", ".join(
        f"{site} ({interp.runs.interval(row, 'effect', digits=2)})" for site, row in lost.iterrows()
    )
    assert f"Mean ablation ({lost['n'].iloc[0]} prompts) moves it most at {listed}." in said
    assert [list(table["method"]) for table in experiment.shown(folder)] == [
        ["ablate mean"] * 8,
        ["path_patch"] * 8,
    ]
    assert len(experiment.run(config)) == len(results)
