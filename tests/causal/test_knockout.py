"""Sets of heads knocked out: against ablate and intervene, and beside random sets."""

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.causal.knockout import _random, _with_random, beside_random, knock_out
from interp.core.door.door import ArgumentError
from interp.core.errors import ResultsError, SiteError
from interp.core.parts.sites import Site
from interp.core.tables.results import Results
from interp.engine.interventions import Intervention, Set, Zero

SET = ["0.1", "0.2", "1.0"]


def values(results, site: str, method: str) -> np.ndarray:
    return results.query(f"site == {site!r} and method == {method!r}").frame["value"].to_numpy()


def test_full_is_ablation_of_the_set(model, pairs):
    found = knock_out(
        model,
        pairs,
        {"mine": SET},
        method="zero",
        patterns=["recomputed"],
        draws=2,
        metric="logit_diff",
    )
    truth = interp.ablate(model, pairs, {"mine": SET}, method="zero")
    mine = values(found, "mine", "knock out zero, patterns recomputed")
    np.testing.assert_allclose(mine, truth.frame["value"], atol=1e-12)
    drawn = found.provenance["sets"]["mine, random 1"]
    truth = interp.ablate(model, pairs, {"drawn": drawn}, method="zero")
    random = values(found, "mine, random 1", "knock out zero, patterns recomputed")
    np.testing.assert_allclose(random, truth.frame["value"], atol=1e-12)


def held(model, pairs) -> list[torch.Tensor]:
    """The clean patterns of each layer, padded as the pairs are: `row head query key`."""
    longest = pairs.clean.shape[1]
    size = (len(pairs), model.facts.n_heads, longest, longest)
    whole = [torch.zeros(size, dtype=torch.float64) for _ in range(model.facts.n_layers)]
    for row, n in enumerate(pairs.lengths.tolist()):
        cache = model.bridge.run_with_cache(pairs.clean[row : row + 1, :n])[1]
        for layer, into in enumerate(whole):
            into[row, :, :n, :n] = cache[f"blocks.{layer}.attn.hook_pattern"][0]
    return whole


@pytest.mark.plain
@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_kept_patterns_are_those_of_the_plain_run(model, pairs, engine):
    """Against interventions that set each later pattern to one taken from the bridge."""
    found = knock_out(
        model,
        pairs,
        SET,
        method="zero",
        patterns=["kept"],
        draws=1,
        metric="logit_diff",
        engine=engine,
    )
    made, plain = [Intervention(Site.parse(site), Zero()) for site in SET], held(model, pairs)
    for layer in (1, 2):
        for head in range(model.facts.n_heads):
            if f"{layer}.{head}" not in SET:
                site = Site("pattern", layer, head=head)
                made.append(Intervention(site, Set(plain[layer][:, head])))
    truth = interp.intervene(model, pairs, {"set": made})
    mine = values(found, "heads", "knock out zero, patterns kept")
    np.testing.assert_allclose(mine, truth.frame["value"], atol=1e-9)
    full = interp.ablate(model, pairs, {"set": SET}, method="zero")
    assert np.abs(full.frame["value"] - mine).max() > 1e-4


def test_nothing_looks_differently_after_the_last_layer(model, pairs):
    found = knock_out(model, pairs, ["2.0", "2.1"], method="zero", draws=2, metric="logit_diff")
    parts = [
        values(found, "heads", f"knock out zero, patterns {p}") for p in ("recomputed", "kept")
    ]
    np.testing.assert_allclose(*parts, atol=1e-12)


def test_the_mean_is_position_by_position(tiny_model, pairs):
    model = tiny_model("llama")
    with pytest.warns(UserWarning, match="has 2 prompts"):
        found = knock_out(model, pairs, SET, patterns=["recomputed"], draws=1, metric="logit_diff")
    sites = [Site.parse(site) for site in SET]
    with pytest.warns(UserWarning, match="has 2 prompts"):
        mean = interp.MeanReference.fit(model, pairs, sites, side="clean", by="position")
    truth = interp.ablate(model, pairs, {"heads": SET}, reference=mean)
    mine = values(found, "heads", "knock out mean, patterns recomputed")
    np.testing.assert_allclose(mine, truth.frame["value"], atol=1e-12)


def test_random_sets_have_the_same_profile(tiny_model):
    facts = tiny_model("llama").facts  # 6 heads: C(6, 2) * C(6, 1) = 90 sets
    sets = _with_random({"a": SET, "b": ["2.5"]}, facts, 20, seed=4)
    random = [sites for name, sites in sets.items() if name.startswith("a, random ")]
    assert len(random) == 20 and len(set(random)) == 20
    for sites in random:
        assert [site.layer for site in sites] == [0, 0, 1]
        assert len({str(site) for site in sites}) == 3
        assert [str(site) for site in sites] != SET
    assert [str(s) for s in sorted(sets[f"b, random {i}"][0] for i in range(5))] == [
        f"2.{head}" for head in range(5)
    ]
    assert "b, random 5" not in sets  # there are no more
    assert sets == _with_random({"a": SET, "b": ["2.5"]}, facts, 20, seed=4)
    assert sets != _with_random({"a": SET, "b": ["2.5"]}, facts, 20, seed=5)


def test_sets_are_drawn_evenly(tiny_model):
    facts, generator = tiny_model("gpt2").facts, np.random.default_rng(0)  # 3 heads
    drawn = [
        next(iter(_random((Site("z", 0, head=1), Site("z", 1, head=2)), facts, 1, generator)))
        for _ in range(400)
    ]
    _, counts = np.unique([str(list(map(str, sites))) for sites in drawn], return_counts=True)
    assert len(counts) == 8 and counts.min() > 20  # 50 expected, sd 7


def test_beside_random_sets():
    """Effects by hand: 0.5 of the set against 19 random sets of 0.01 to 0.19."""
    sets = {"mine": 0.5} | {f"mine, random {i}": 0.01 * (i + 1) for i in range(19)}
    frame = pd.DataFrame(
        [
            {
                "method": "knock out zero, patterns kept",
                "site": name,
                "position": "all",
                "receiver": "",
                "direction": "noise",
                "metric": "loss",
                "kind": "set",
                "layer": None,
                "head": None,
                "through": "",
                "engine": "replay",
                "example": example,
                "cluster": str(example),
                "base": 2.0,
                "value": 2.0 + effect + 0.01 * example,
                "effect": effect + 0.01 * example,
            }
            for name, effect in sets.items()
            for example in range(6)
        ]
    )
    note = {"named": ["mine"], "sets": {"mine": ["0.1", "2.0"]}}
    row = beside_random(Results(frame, note)).iloc[0]
    assert row["effect"] == pytest.approx(0.525) and row["value"] == pytest.approx(2.525)
    assert row["random"] == pytest.approx(0.125)
    assert row["difference"] == pytest.approx(0.4)
    assert row["difference_low"] == pytest.approx(0.4)  # pairing takes the example's part off
    assert row["low"] < 0.525 < row["high"]
    assert row["percentile"] == 1 and row["p"] == pytest.approx(1 / 20)
    assert (row["heads"], row["draws"], row["n"], row["clusters"]) == (2, 19, 6, 6)
    swapped = frame.assign(
        site=frame["site"].replace({"mine": "mine, random 9", "mine, random 9": "mine"})
    )
    row = beside_random(Results(swapped, note)).iloc[0]
    assert row["percentile"] == pytest.approx(9 / 19)
    assert row["p"] == pytest.approx((1 + 10) / 20)


def test_one_call(tiny_model, pairs):
    model = tiny_model("llama")
    found = knock_out(model, pairs, SET, method="zero", draws=4)
    table = beside_random(found)
    assert table["method"].tolist() == [
        f"knock out zero, patterns {p}" for p in ("recomputed", "kept")
    ]
    assert set(table["metric"]) == {"loss"} and set(table["draws"]) == {4}
    assert table["p"].between(1 / 5, 1).all()
    summary = found.query("site == 'heads'").summary()
    np.testing.assert_allclose(summary["effect"], table["effect"], atol=1e-12)
    np.testing.assert_allclose(summary["low"], table["low"], atol=1e-12)
    assert found.provenance["null"] < 1e-9


@pytest.mark.plain
def test_bad_input(tiny_model, pairs):
    model = tiny_model("gpt2")
    with pytest.raises(SiteError, match=r"all heads of their layers \(0, 1\)"):
        knock_out(model, pairs, [f"{i}.{h}" for i in (0, 1) for h in range(3)])
    with pytest.raises(SiteError, match=r"1\.mlp is no head"):
        knock_out(model, pairs, ["1.mlp", "0.0"])
    with pytest.raises(SiteError, match="names no site"):
        knock_out(model, pairs, [])
    with pytest.raises(ArgumentError, match="that is not empty"):
        knock_out(model, pairs, {})
    with pytest.raises(
        ArgumentError, match="draws=0, and draws takes a whole number of at least 1"
    ):
        knock_out(model, pairs, SET, draws=0)
    with pytest.raises(SiteError, match="cannot be called 'a, random 0'"):
        knock_out(model, pairs, {"a": SET, "a, random 0": SET})
    with pytest.raises(ResultsError, match="names no sets"):
        beside_random(interp.evaluate(model, pairs))
    found = knock_out(model, pairs, SET, method="zero", draws=2)
    for part in (found.query("site == 'heads'"), found.query("example > 0 or site == 'heads'")):
        with pytest.raises(ResultsError, match=r"set 'heads, random 0' has not one number in each"):
            beside_random(part)
    half = beside_random(found.query("example > 0"))
    assert set(half["n"]) == {4}
