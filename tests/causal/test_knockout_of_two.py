"""Sets of heads of an encoder-decoder, beside random ones of the same attentions."""

from collections import Counter

import numpy as np
import pytest

import interp
from interp import MeanReference
from interp.causal.knockout import beside_random, knock_out
from interp.core.errors import SiteError
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Pairs
from interp.engine.interventions import Freeze, Intervention, Mean, Zero

SET = ["enc.1.2", "dec.0.1", "dec.0.cross.3", "dec.0.cross.5"]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Rows of two extents."""
    return Pairs.from_tokens(
        clean=[[3, 4, 5, 6], [7, 8, 9]] * 2,
        corrupt=[[3, 11, 5, 6], [7, 12, 4]] * 2,
        target=[[5, 7], [8, 6, 9]] * 2,
        correct=[5, 6, 7, 8],
        wrong=[9, 10, 4, 3],
        cluster=["a", "a", "b", "b"],
    )


def effects(results: interp.Results, name: str) -> np.ndarray:
    frame = results.frame
    return frame[frame["site"] == name].sort_values("example")["effect"].to_numpy()


@pytest.mark.filterwarnings("ignore:mean ablation")
@pytest.mark.parametrize("method", ["zero", "mean"])
def test_a_set_is_ablated_as_by_hand(tiny_model, pairs, method):
    """And where patterns are kept, those of every attention after the first of the set."""
    model = tiny_model("t5")
    found = knock_out(model, pairs, SET, method=method, draws=3, metric="logit_diff", seed=1)
    sites = [Site.parse(site) for site in SET]
    value = Zero()
    if method == "mean":
        value = Mean(MeanReference.fit(model, pairs, SET, side="clean", by="position"))
    made = [Intervention(site, value) for site in sites]
    # the encoder's first layer, and its second's own attention, are before what moves
    later = [
        head
        for head in resolve("heads", model.facts)
        if head not in sites and (head.stack == "dec" or (head.layer or 0) > 1)
    ]
    held = [
        Intervention(Site("pattern", s.layer, head=s.head, stack=s.stack, cross=s.cross), Freeze())
        for s in later
    ]
    by_hand = interp.intervene(
        model, pairs, {"recomputed": made, "kept": [*made, *held]}, metric="logit_diff"
    )
    for kept in ("recomputed", "kept"):
        part = interp.Results(
            found.frame[found.frame["method"] == f"knock out {method}, patterns {kept}"],
            found.provenance,
        )
        mine = effects(part, "heads")
        assert np.abs(mine - effects(by_hand, kept)).max() < 1e-9
        assert np.abs(mine).max() > 1e-6
    assert (beside_random(found)["draws"] == 3).all()


def test_random_sets_have_as_many_heads_in_each_attention(tiny_model, pairs):
    found = knock_out(tiny_model("mbart"), pairs, SET, method="zero", draws=5, metric="kl")
    sets = found.provenance["sets"]
    profile = [
        Counter((s.stack, s.layer, s.cross) for s in map(Site.parse, of)) for of in sets.values()
    ]
    assert len(sets) == 6
    assert all(one == profile[0] for one in profile)
    assert len({tuple(of) for of in sets.values()}) == 6


def test_all_heads_of_an_attention_have_no_other(tiny_model, pairs):
    every = [f"dec.0.cross.{head}" for head in range(6)]
    with pytest.raises(SiteError, match=r"all heads of their layers \(dec\.0\.cross\)"):
        knock_out(tiny_model("t5"), pairs, every, method="zero", metric="kl")
