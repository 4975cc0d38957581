"""The doors of the tables and of the nouns: wrong arguments are refused in words."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from doors import complaints, untyped

from interp import Attribution, Circuit, Edge, Measures, Pairs, Results, Scores, Site
from interp.causal.ranking.recovery import Found
from interp.core.errors import ResultsError, SiteError
from interp.core.parts.circuit import Part
from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph
from interp.core.parts.sites import resolve
from interp.core.prompts.sequences import Sequences
from interp.core.tables.table import open_table

FACTS = Facts(
    *("GPT2LMHeadModel", 2, 2, 2, 8, 4, 16, 32, 16),
    *("layer", "learned", "pre", False, False, True, True),
)
NOTE = {"model": "tiny"}


def results() -> Results:
    frame = pd.DataFrame(
        [(layer, head, example) for layer in range(2) for head in range(2) for example in range(3)],
        columns=["layer", "head", "example"],
    )
    site = [f"{layer}.{head}" for layer, head in zip(frame["layer"], frame["head"], strict=True)]
    frame = frame.assign(method="zero", site=site, position="end", receiver=None, kind="z")
    frame = frame.assign(direction="noise", metric="logit_diff", through=None, engine="replay")
    frame = frame.assign(cluster=[f"c{i}" for i in frame["example"]], base=1.0)
    return Results(frame.assign(value=1.5, effect=0.5), NOTE)


def scores(task: str = "upos") -> Scores:
    values = np.array([1.0, 0.0, 1.0, 1.0])
    return Scores.of(
        values, ["a", "a", "b", "c"], provenance=NOTE, task=task, probe="linear", layer=1
    )


def measures() -> Measures:
    cells = pd.DataFrame({"measure": "copying", "site": ["0.0", "0.1"], "layer": 0, "head": [0, 1]})
    return Measures.of(cells, provenance=NOTE, value=np.array([1.0, 2.0]), null=0.0, null_sd=1.0)


def attribution() -> Attribution:
    parts = [Part.parse("0.0 -> 1.mlp"), Part.parse("0.1 -> logits")]
    each = np.array([[1.0, 2.0], [3.0, 4.0]])
    return Attribution.of(
        parts, each, cluster=["a", "b"], method="exact", metric="logit_diff", provenance=NOTE
    )


def circuit() -> Circuit:
    return Circuit.of(["0.0 -> 1.mlp", "0.1 -> logits"], model="abc")


def pairs() -> Pairs:
    return Pairs.from_tokens(
        clean=[[1, 2, 3], [3, 4, 5]],
        corrupt=[[1, 2, 4], [3, 4, 6]],
        correct=[1, 1],
        wrong=[2, 2],
        cluster=["a", "b"],
    )


def sequences() -> Sequences:
    tokens = torch.tensor([[1, 2, 3]])
    return Sequences(tokens, torch.tensor([[-100, -100, 1]]), torch.zeros_like(tokens))


HOT = {"Site", "Site.parse", "Site.check", "Edge", "Edge.parse", "Edge.check", "Part.parse"}
HOT |= {"resolve", "Graph.of", "Graph.at", "Circuit.__contains__", "Pairs.select"}
"""They check what they are given, but have no door: one makes or asks for them by the million."""

Case = tuple[Callable[..., Any], Mapping[str, Any]]


def cases(folder: Path) -> Iterator[Case]:
    """A right call of each function, classmethod, method and constructor."""
    results().save(folder / "kept.parquet")
    circuit().save(folder / "kept.json")
    kept, new = folder / "kept.parquet", folder / "new"
    yield Results, {"frame": results().frame, "provenance": NOTE}
    yield Scores, {"frame": scores().frame, "provenance": NOTE}
    yield Measures, {"frame": measures().frame, "provenance": NOTE}
    yield (
        Attribution,
        {"frame": attribution().frame, "provenance": {"cluster": ["a", "b"]}},
    )
    for table in (results(), scores(), measures(), attribution()):
        of = {"family": "rows"} if isinstance(table, Results) else {}
        yield table.query, {"expression": "site == '0.0'", **of}
        yield table.save, {"path": new}
        yield type(table).concat, {"parts": [table, table]}
    yield Results.load, {"path": kept}
    yield (
        Results.of,
        {
            **{"cells": {"site": ["0.0", "0.1"]}, "value": np.ones((2, 2))},
            **{"units": {"cluster": ["a", "b"]}, "provenance": NOTE},
            **{"base": np.ones(2), "effect": np.ones((2, 2))},
        },
    )
    yield Found(0.5, 0.5, 0.5, 4, 2, 0.5).save, {"path": new}
    yield Found.load, {"path": Found(0.5, 0.5, 0.5, 4, 2, 0.5).save(folder / "kept.found")}
    yield open_table, {"path": kept}
    yield results().summary, {"seed": 1}
    yield results().split, {"seed": 1}
    yield scores().split, {"seed": 1}
    yield results().named, {"model": "after"}
    yield scores().named, {"model": "after"}
    yield results().relative, {"ends": None, "seed": 1}
    yield (
        results().minus,
        {
            **{"other": results().named("after"), "ignoring": ["model"], "column": "value"},
            **{"alternative": "greater", "seed": 1},
        },
    )
    yield measures().minus, {"other": measures(), "ignoring": ["measure"]}
    yield (
        attribution().minus,
        {**{"other": attribution(), "ignoring": ["method"], "alternative": "greater", "seed": 1}},
    )
    yield results().top, {"n": 2, "by": "value"}
    yield results().grid, {"column": "value"}
    yield (
        Scores.of,
        {
            **{"values": np.array([1.0, 0.0]), "cluster": ["a", "b"], "provenance": NOTE},
            **{"task": "upos", "probe": "linear", "site": "0.mlp", "layer": 0, "head": None},
            **{"model": "trained", "labels": "real", "metric": "accuracy", "subset": "all"},
        },
    )
    yield scores().summary, {"seed": 1}
    yield (
        scores().minus,
        {"other": scores("xpos"), "ignoring": ["task"], "alternative": "greater", "seed": 1},
    )
    yield scores().top, {"n": 1, "by": "n"}
    yield scores().grid, {"column": "n"}
    yield scores().best, {"largest": False}
    cells = measures().frame[["measure", "site"]]
    yield (
        Measures.of,
        {
            **{"cells": cells, "provenance": NOTE, "value": np.array([1.0, 2.0])},
            **{"null": 0.0, "null_sd": np.ones(2), "p": np.array([0.1, 0.2])},
        },
    )
    yield measures().top, {"n": 1, "by": "value"}
    yield measures().grid, {"column": "z"}
    yield (
        Attribution.of,
        {
            **{"parts": attribution().parts, "each": attribution().each, "cluster": ["a", "b"]},
            **{"method": "exact", "metric": "logit_diff", "provenance": NOTE},
        },
    )
    yield attribution().resampled, {"seed": 1}
    yield attribution().top, {"n": 1, "by": "score"}
    yield attribution().beside, {"other": attribution()}
    yield Part.parse, {"text": "0.0 -> logits @ end"}
    yield (
        Circuit,
        {
            **{"parts": circuit().parts, "granularity": "edges", "ablation": "mean"},
            **{"corruption": "abc", "model": "abc", "note": ""},
        },
    )
    yield (
        Circuit.of,
        {
            **{"parts": ["0.0 -> 1.mlp"], "model": "abc", "ablation": "mean"},
            **{"corruption": "abc", "granularity": "edges"},
        },
    )
    yield circuit().holding, {"parts": circuit().parts}
    yield circuit().__contains__, {"part": "0.0 -> 1.mlp"}
    for combine in ("__or__", "__and__", "__sub__", "jaccard", "require_like"):
        yield getattr(circuit(), combine), {"other": circuit()}
    yield circuit().save, {"path": new}
    yield Circuit.load, {"path": folder / "kept.json"}
    yield (
        Site,
        {
            **{"kind": "q", "layer": 0, "head": 1, "group": None, "neuron": None},
            **{"stack": "dec", "cross": True, "expert": None},
        },
    )
    yield Site.parse, {"text": "0.1.q"}
    yield Site("mlp_out", 1).check, {"facts": FACTS}
    yield resolve, {"selector": ["heads", "0.mlp"], "facts": FACTS}
    yield Edge, {"writer": Site("embed"), "reader": Site("logits")}
    yield Edge.parse, {"text": "0.1 -> logits"}
    yield Edge.parse("0.1 -> logits").check, {"facts": FACTS}
    yield Graph.of, {"facts": FACTS}
    yield Graph.of(FACTS).at, {"edge": Edge.parse("0.1 -> logits")}
    yield pairs().select, {"rows": [0]}
    yield pairs().split, {"seed": 1}
    yield (
        Sequences,
        {name: getattr(sequences(), name) for name in ("tokens", "labels", "distance")},
    )
    yield sequences().select, {"rows": [0]}


def test_a_site_that_is_none_says_how_sites_are_made():
    for wrong, said in {
        ("12.mlp",): r"'12.mlp' is a site as text, which Site.parse\('12.mlp'\) reads",
        ("foo", 3): "there is no kind of site 'foo'; .* Text is read by Site.parse",
        ("resid_past", 3): "there is no kind of site 'resid_past'; did you mean 'resid_post'",
        ("z", 1.5): "the layer of a site is a whole number, not 1.5",
        ("z", True): "the layer of a site is a whole number, not True",
    }.items():
        with untyped(), pytest.raises(SiteError, match=said):
            Site(*wrong)
    with untyped(), pytest.raises(SiteError, match=r"Edge.parse\('20.1 -> 23.3.q'\)"):
        Edge("20.1", "23.3.q")
    with untyped():
        assert Site("z", np.int64(3), head=np.int64(1)) == Site.parse("3.1")


@pytest.mark.parametrize(
    "expression", ["", "effect", "efect > 0", "effect >", "site > 3", "base = 1", "@n == 1", "1"]
)
def test_what_is_no_condition_is_refused(expression: str):
    with pytest.raises(
        ResultsError, match="is no condition on the columns model, .*effect.*f-string"
    ):
        results().query(expression)


def test_a_query_keeps_rows_and_provenance():
    found = results().query("head == 1 and site.str.endswith('1')")
    assert len(found) == 6
    (family,) = found.provenance["family"].values()
    assert (family, found.provenance | {"family": 0}) == (4, NOTE | {"family": 0})
    assert found.frame.index.tolist() == [*range(6)]


def test_attributions_of_no_part():
    none = attribution().query("score > 99")
    assert not len(none) and not len(none.top()) and "0 parts" in repr(none)
    assert none.each.shape == (0, 2) and none.parts == ()
    assert not len(none.resampled(seed=1))
    with pytest.raises(ResultsError, match=r"no part in common \(none and 0.0 -> 1.mlp"):
        none.beside(attribution())


def test_tables_of_texts_are_refused():
    with pytest.raises(ResultsError, match="'effect' of Results holds numbers, and here 'much'"):
        Results(results().frame.assign(effect="much"), NOTE)
    numbers = results().frame.assign(effect=results().frame["effect"].astype(object))
    assert Results(numbers, NOTE).summary().equals(results().summary())


def test_files_that_cannot_be_read_or_written(tmp_path: Path):
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    for load in (Results.load, Circuit.load):
        for path in (tmp_path, tmp_path / "bad", tmp_path / "none"):
            with pytest.raises(ResultsError, match=str(path)):
                load(path)
    for path in (tmp_path, "", "/dev/null/below"):
        with pytest.raises(ResultsError, match="cannot write"):
            results().save(path)


@pytest.mark.plain
def test_wrong_arguments_are_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = complaints(cases(tmp_path), tmp_path, hot=HOT)
    assert not found, "\n".join(found)
