"""The doors of the figures: another figure's table is sent there, all else is refused in words."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from doors import complaints

from interp import figures
from interp.core.errors import ResultsError
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.facts import Facts
from interp.core.tables.attribution import Attribution
from interp.core.tables.measures import Measures
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores

FACTS = Facts(
    *("GPT2LMHeadModel", 2, 2, 2, 8, 4, 16, 32, 16),
    *("layer", "learned", "pre", False, False, True, True),
)


def lines() -> pd.DataFrame:
    """Curves over layers, of two probes."""
    layers = pd.DataFrame({"layer": [0, 1, 2, 0, 1, 2], "probe": ["linear"] * 3 + ["mlp"] * 3})
    return layers.assign(of="", subset="all", value=0.5, low=0.25, high=0.75)


def levels() -> pd.DataFrame:
    return pd.DataFrame({"probe": ["majority"], "subset": "all", "value": 0.25})


def types() -> pd.DataFrame:
    table = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1]})
    return table.assign(metric="induction", effect=0.5, passes=[True, False, False, True])


def heads() -> pd.DataFrame:
    table = pd.DataFrame({"layer": [0, 1], "head": [0, 0], "chosen": [True, False]})
    table = table.assign(task="nsubj", relation="nsubj", direction="head", model="trained")
    table = table.assign(site=["0.0", "1.0"], difference=0.5, q=0.01, baseline="offset -1")
    interval = {"value": 0.5, "low": 0.25, "high": 0.75}
    return table.assign(**interval, **{f"baseline_{k}": v for k, v in interval.items()})


def circuit() -> Circuit:
    return Circuit.of(["0.0 -> 1.mlp", "0.1 -> logits"], model="abc")


def attribution() -> Attribution:
    each = np.array([[1.0, 2.0], [3.0, 4.0]])
    parts = [Part.parse(text) for text in ("0.0 -> 1.mlp", "0.1 -> logits")]
    return Attribution.of(
        parts, each, cluster=["a", "b"], method="exact", metric="logit_diff", provenance={}
    )


def scores() -> Scores:
    return Scores.of(np.ones(2), ["a", "b"], provenance={}, task="upos", probe="linear", layer=1)


def measures() -> Measures:
    cells = pd.DataFrame({"measure": ["copying"], "site": ["0.0"]})
    return Measures.of(cells, provenance={}, value=np.ones(1))


def cases(
    table: Callable[..., Results], looks: Callable[..., Results]
) -> Iterator[tuple[Callable[..., Any], Mapping[str, Any]]]:
    """A right call of each figure."""
    found = table(["0.0", "0.1", "0.mlp"])
    yield (
        figures.heads,
        {"results": found, "column": "value", "title": "a", "mark": ["0.0"]},
    )
    yield figures.bars, {"results": found, "hue": "receiver", "n": 2, "title": "a"}
    layered = table(["0.mlp", "1.mlp"], positions=["end", "mid"])
    yield figures.positions, {"results": layered, "column": "base", "title": "a"}
    seen = table(["0.1"], positions=["r0c0", "r0c1"])
    ink = np.zeros((2, 4))
    yield figures.patches, {"results": seen, "image": ink, "column": "value", "title": "a"}
    yield figures.attention, {"results": looks(["0.0"]), "title": "a"}
    yield (
        figures.pattern,
        {"matrix": [[1, 0], [0.5, 0.5]], "tokens": ["a", "b"], "queries": ["a", "b"], "title": "a"},
    )
    common = {"hue": "probe", "baselines": levels(), "title": "a"}
    yield figures.layers, {**common, "table": lines(), "panel": "subset", "ylabel": "bits"}
    yield (
        figures.beside,
        {**common, "table": lines(), "panel": "subset", "control": "of", "ylabels": {"all": "a"}},
    )
    yield (
        figures.curves,
        {
            **{"table": lines(), "x": "layer", "hue": "probe", "panel": "subset", "log": "y"},
            **{"xlabel": "a", "ylabel": {"all": "a"}, "title": "a"},
        },
    )
    yield figures.head_types, {"scores": types(), "detectors": ["induction"], "title": "a"}
    yield figures.relations, {"table": heads(), "title": "a"}
    yield figures.relation_bars, {"table": heads()[:1], "title": "a"}
    kept = pd.DataFrame({"method": ["a", "random"], "fraction": 0.5, "value": 1.0})
    yield (
        figures.faithfulness,
        {
            **{"table": kept.assign(low=0.5, high=1.5), "band": "random", "xlabel": "a"},
            **{"ylabel": "a", "title": "a"},
        },
    )
    yield (
        figures.scatter,
        {
            **{"table": lines(), "x": "layer", "y": "value", "hue": "probe", "panel": "subset"},
            **{"line": "identity", "own_scale": True, "xlabel": "a", "ylabel": "a", "title": "a"},
        },
    )
    yield (
        figures.circuit,
        {
            **{"circuit": circuit(), "attribution": attribution(), "facts": FACTS, "n": 2},
            **{"classes": {"0.0": "mover"}, "width": "column", "title": "a"},
        },
    )


@pytest.mark.plain
def test_wrong_arguments_are_refused_in_words(
    table: Callable[..., Results], looks: Callable[..., Results], tmp_path: Path
):
    found = complaints(cases(table, looks), tmp_path)
    assert not found, "\n".join(found)


def test_every_figure_has_a_right_call(
    table: Callable[..., Results], looks: Callable[..., Results]
):
    public = {value for value in vars(figures).values() if hasattr(value, "__door__")}
    assert public == {function for function, _ in cases(table, looks)}


@pytest.mark.parametrize("draw", [figures.heads, figures.bars, figures.positions])
def test_what_is_no_results_is_sent_to_the_figure_that_draws_it(draw: Callable[..., Any]):
    for given, drawn in {
        "figures.layers(scores.summary()": scores(),
        "figures.scatter(measures.frame": measures(),
        "figures.circuit(circuit, attribution": attribution(),
        "figures.circuit(circuit, facts=model.facts)": circuit(),
        "figures.layers or figures.beside": lines(),
        "figures.head_types": types(),
        "figures.relations or figures.relation_bars": heads(),
    }.items():
        with pytest.raises(ResultsError) as refused:
            draw(drawn)
        said = str(refused.value)
        assert given in said
        assert said.startswith(f"figures.{draw.__name__} is given ")
        assert "It draws Results, which interp.ablate, patch, path_patch" in said


def test_results_and_their_summary_are_sent_back(table: Callable[..., Results]):
    found = table(["0.0", "0.1"])
    with pytest.raises(ResultsError, match=r"layers is given Results\..*drawn by figures.heads"):
        figures.layers(found, hue="site")
    with pytest.raises(ResultsError, match=r"heads is given a DataFrame .*the Results themselves"):
        figures.heads(found.summary())
    with pytest.raises(ResultsError, match=r"circuit is given Results\..*draws a Circuit"):
        figures.circuit(found, facts=FACTS)
    with pytest.raises(ResultsError, match="heads is given None"):
        figures.heads(None)


def test_columns_of_another_kind_are_refused():
    with pytest.raises(ResultsError, match="value holds 'much' and not numbers"):
        figures.layers(lines().assign(value="much"), hue="probe")
    with pytest.raises(ResultsError, match=r"probe holds \[1\], and things are told apart by"):
        figures.layers(lines().assign(probe=[[1]] * 6), hue="probe")
    with pytest.raises(ResultsError, match="layer is not a whole number from 0 on"):
        figures.head_types(types().assign(layer=[0, 0, np.nan, 1]))
    with pytest.raises(ResultsError, match="ylabel has no text for panel 'all'"):
        figures.curves(lines(), x="layer", hue="probe", panel="subset", ylabel={"al": "a"})
    with pytest.raises(ResultsError, match="'linear' is said to be the control of 'mlp', which"):
        figures.beside(
            lines().assign(of=["mlp"] * 3 + ["linear"] * 3),
            panel="subset",
            hue="probe",
            control="of",
        )
