"""Attention probabilities at named positions, against a softmax written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.core.errors import PositionError, SiteError
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import COLUMNS

ENGINES = ["replay", "hooks"]


def pattern(judge, tokens, layer, head):
    """One head's probabilities, `query key`."""
    return judge.forward(tokens)[1][f"{layer}.{head}.pattern"][0]


@pytest.mark.parametrize("engine", ENGINES)
def test_against_the_oracle(model, family, oracle, pairs, engine):
    found = interp.attention(
        model, pairs, ["2.1", "0.2"], keys=["mid", "first"], query="late", engine=engine
    )
    frame = found.frame
    assert list(frame.columns) == COLUMNS
    assert list(frame["site"]) == ["0.2"] * 10 + ["2.1"] * 10
    assert list(frame["position"]) == (["mid"] * 5 + ["first"] * 5) * 2
    assert list(frame["layer"][::10]) == [0, 2]
    assert list(frame["head"][::10]) == [2, 1]
    assert list(frame["cluster"][:5]) == list("abacc")
    assert set(frame["engine"]) == {engine}
    assert set(frame["kind"]) == {"pattern"}
    assert frame[["base", "effect"]].isna().all().all()
    assert found.provenance["query"] == "late"
    judge = oracle(family)
    for line in frame.itertuples():
        row = line.example
        tokens = pairs.clean[row : row + 1, : int(pairs.lengths[row])]
        key = 0 if line.position == "first" else int(pairs.at("mid")[row])
        truth = pattern(judge, tokens, line.layer, line.head)[int(pairs.at("late")[row]), key]
        assert abs(line.value - truth.item()) < 1e-9


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("query", [0, 4, 6])
def test_what_a_position_may_see_sums_to_one(model, engine, query):
    """Over every key up to the query; there is nothing left for later ones."""
    generator = torch.Generator().manual_seed(2)
    pairs = Pairs.from_tokens(
        clean=torch.randint(29, (2, 7), generator=generator),
        corrupt=torch.randint(29, (2, 7), generator=generator),
        correct=[1, 2],
        wrong=[3, 4],
        positions={f"p{i}": [i, i] for i in range(7)},
    )
    keys = [f"p{i}" for i in range(query + 1)]
    found = interp.attention(model, pairs, keys=keys, query=f"p{query}", engine=engine).frame
    total = found.groupby(["site", "example"], observed=True)["value"].sum()
    assert len(total) == model.facts.n_layers * model.facts.n_heads * 2
    assert np.abs(total - 1).max() < 1e-12
    assert found["value"].between(0, 1 + 1e-12).all()


def test_engines_agree_on_every_head(model, pairs):
    replay, hooks = (
        interp.attention(model, pairs, keys=["first", "mid", "end"], engine=engine).frame
        for engine in ENGINES
    )
    assert (replay["value"] - hooks["value"]).abs().max() < 1e-9
    assert replay["site"].nunique() == model.facts.n_layers * model.facts.n_heads


def test_first_is_the_first_token(tiny_model, pairs):
    """Also when no position of that name was given."""
    rows = [row[:n].tolist() for row, n in zip(pairs.clean, pairs.lengths, strict=True)]
    named = Pairs.from_tokens(
        clean=rows,
        corrupt=rows,
        correct=pairs.correct,
        wrong=pairs.wrong,
        positions={"start": [0] * len(rows)},
    )
    model = tiny_model("llama")
    found = interp.attention(model, named, "1.4", keys=["first", "start"]).frame["value"]
    assert np.array_equal(found[:5], found[5:])
    assert found.min() > 0


def test_bad_input(tiny_model, pairs):
    model = tiny_model("llama")
    late = r"'end' stands after the query in row 0 \(at 6, after 5\).*exchange query and key"
    with pytest.raises(PositionError, match=late):
        interp.attention(model, pairs, keys=["mid", "end"], query="late")
    with pytest.raises(PositionError, match=r"no position 'io'; did you mean 'mid'"):
        interp.attention(model, pairs, keys=["io"])
    with pytest.raises(PositionError, match=r"no position 7 in row 0: its 7 tokens"):
        interp.attention(model, pairs, keys=[7])
    with pytest.raises(PositionError, match=r"positions of 4 rows were given for 5 pairs"):
        interp.attention(model, pairs, keys=[[0]] * 4)
    with pytest.raises(PositionError, match=r"row 1 names 2 positions, and here one"):
        interp.attention(model, pairs, query=[[1], [1, 2], [1], [1], [1]])
    with pytest.raises(PositionError, match=r"position of row 2 is nan, and .* whole number"):
        interp.attention(model, pairs, query=np.array([1, 2, np.nan, 1, 1]))
    with pytest.raises(SiteError, match=r"1\.0\.q, 1\.mlp are no heads.*'23\.3'"):
        interp.attention(model, pairs, ["1.mlp", "1.0.q"], keys=["mid"])


@pytest.mark.parametrize("engine", ENGINES)
def test_places_of_every_sort(model, family, oracle, pairs, engine):
    """Numbers, rows and masks; of several positions the sum."""
    mask = torch.zeros(5, 9, dtype=torch.bool)
    mask[:, 1:3] = True
    query = torch.tensor([3, 4, 5, 6, 4])
    keys = {"one": 2, "row": np.array([0, 1, 2, 3, 0]), "two": mask, "rest": "after first"}
    found = interp.attention(model, pairs, "1.0", keys=keys, query=query, engine=engine)
    wide = found.frame.pivot(index="example", columns="position", values="value")
    assert found.provenance["query"] == "per row"
    judge = oracle(family)
    for row, at in enumerate(query.tolist()):
        truth = pattern(judge, pairs.clean[row : row + 1, : int(pairs.lengths[row])], 1, 0)[at]
        by_hand = {"one": truth[2], "row": truth[keys["row"][row]], "two": truth[1:3].sum()}
        by_hand["rest"] = 1 - truth[0]
        for name, value in by_hand.items():
            assert abs(wide.loc[row, name] - value.item()) < 1e-9
    one = interp.attention(model, pairs, "1.0", keys=[2], query=query, engine=engine).frame
    assert set(one["position"]) == {"2"} and np.array_equal(one["value"], wide["one"])


def test_by_default_the_places_are_the_pairs_own(tiny_model, pairs):
    """From the end of the text to what the pairs name; of a causal model up to the query."""

    def keys(model, pairs, **query):
        return list(interp.attention(model, pairs, "0.0", **query).frame["position"].unique())

    llama, bert = tiny_model("llama"), tiny_model("bert")
    assert keys(llama, pairs) == ["first", "end", "mid", "late"]
    assert keys(llama, pairs, query="mid") == ["first", "mid"]
    assert keys(bert, pairs, query="mid") == ["first", "end", "mid", "late"]
    found = interp.attention(llama, pairs, "0.0").frame
    said = interp.attention(llama, pairs, "0.0", keys=["mid"], query="end").frame["value"]
    assert np.array_equal(found.loc[found["position"] == "mid", "value"], said)


def test_a_place_that_the_pairs_call_first_is_theirs(tiny_model, pairs):
    model, named = tiny_model("llama"), pairs.positions | {"first": pairs.at("mid")}
    mine = interp.attention(model, replace(pairs, positions=named), "1.4", keys=["first"]).frame
    assert mine["value"].equals(interp.attention(model, pairs, "1.4", keys=["mid"]).frame["value"])
