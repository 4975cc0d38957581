"""Parts of heads and their exchange: prompts, shares, and the engine's own path patching."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from experiments.qk_ov.exchange import (
    CLASS,
    OUT,
    RANDOM,
    SWAPS,
    TOGETHER,
    Writer,
    others,
    parts,
    see,
    separate_writes,
    swaps,
)
from experiments.qk_ov.prompts import INDUCTION, IOI, rewritten, two_candidates
from experiments.qk_ov.report import by_example, effects, kept, ratio, shares
from interp.core.errors import PairsError, ResultsError, Unsupported
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import COLUMNS, Results
from interp.datasets.tasks.repeated import repeated_pairs
from interp.models.model import Model

HEADS = [Site("z", 1, head=1), Site("z", 1, head=3), Site("z", 2, head=2)]


@pytest.fixture
def names() -> Pairs:
    """IO and S as 5 and 6, in both orders; the first row is longer."""
    rows = [[9, 5, 8, 6, 7, 6, 10], [5, 8, 6, 7, 6, 10], [9, 9, 6, 8, 5, 7, 6]]
    return Pairs.from_tokens(
        clean=rows,
        corrupt=rows,
        correct=[5, 5, 5],
        wrong=[6, 6, 6],
        positions={"io": [1, 0, 4], "s1": [3, 2, 2], "s2": [5, 4, 6]},
        cluster=["a", "b", "b"],
    )


def corrupt(pairs: Pairs, row: int) -> list[int]:
    return pairs.corrupt[row, : pairs.lengths[row]].tolist()


def test_ioi_prompts_differ_in_one_thing(names: Pairs) -> None:
    expected = {
        "asked": [9, 5, 8, 6, 7, 5, 10],
        "content": [9, 6, 8, 5, 7, 5, 10],
        "moved": [9, 6, 8, 5, 7, 6, 10],
    }
    for corruption, row in expected.items():
        found = rewritten(names, IOI[corruption])
        assert corrupt(found, 0) == row
        assert torch.equal(found.clean, names.clean)


def test_induction_prompts_have_two_candidates() -> None:
    pairs = two_candidates(repeated_pairs(30, vocabulary=60, block=(9, 14), before=(0, 0)))
    assert len(pairs) > 5
    rows = torch.arange(len(pairs))
    read = {p: pairs.clean[rows, pairs.at(p)] for p in pairs.positions}
    assert torch.equal(read["end"], read["first"])
    assert torch.equal(read["successor"], pairs.correct)
    assert torch.equal(read["rival"], pairs.wrong)
    for i, length in enumerate(pairs.lengths.tolist()):
        row = pairs.clean[i, :length].tolist()
        for name in ("other", "rival"):
            assert row.count(int(read[name][i])) == 1, "repeated, so that it says itself what comes"
        block = int(pairs.at("end")[i] - pairs.at("first")[i])
        assert pairs.at("rival")[i] < block
        follows = {
            name: corrupt(rewritten(pairs, written), i) for name, written in INDUCTION.items()
        }
        answer = {name: new[new.index(row[-1]) + 1] for name, new in follows.items()}
        right, wrong = int(pairs.correct[i]), int(pairs.wrong[i])
        assert answer == {"asked": wrong, "content": wrong, "moved": right}
        assert follows["content"].index(row[-1]) == row.index(row[-1])


def test_bos_is_no_part_of_the_block() -> None:
    with_bos = repeated_pairs(30, vocabulary=60, block=(9, 14), before=(0, 0), bos=0)
    pairs = two_candidates(with_bos, bos=1)
    assert (pairs.at("rival") <= pairs.at("end") - pairs.at("first")).all()


def test_rows_without_room_are_refused() -> None:
    with pytest.raises(PairsError, match="no row has two tokens after"):
        two_candidates(repeated_pairs(4, vocabulary=30, block=(2, 2), before=(0, 0)))


@pytest.mark.plain
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_both_parts_are_a_path_patch(
    family: str, tiny_model: Callable[..., Model], names: Pairs
) -> None:
    """Taking pattern and values of the corrupt run is taking z, singly and together."""
    model = tiny_model(family)
    heads = [Site("z", 1, head=0), Site("z", 1, head=2), Site("z", 2, head=1)]
    found, _ = by_example(parts(model, names, heads, IOI))
    for corruption, written in IOI.items():
        senders = {**{str(head): [head] for head in heads}, TOGETHER: heads}
        path = interp.path_patch(
            model, rewritten(names, written), senders=senders, sender_positions="end"
        )
        for name in senders:
            expected = path.frame[path.frame["site"] == name].sort_values("example")["effect"]
            both = found.loc[("both", corruption, name)].to_numpy(dtype=float)
            assert np.abs(both).max() > 1e-6
            np.testing.assert_allclose(both, expected, atol=1e-9)


def test_values_before_the_change_are_the_same(
    tiny_model: Callable[..., Model], names: Pairs
) -> None:
    """In the first layer values are of tokens alone: asking for another changes S2's, no more."""
    model, head = tiny_model("llama"), [Site("z", 0, head=1)]
    same = {"same": {"s2": "s1"}}  # S2 is S1 already
    wide, _ = by_example(parts(model, names, head, same))
    assert np.abs(wide.to_numpy()).max() < 1e-9


def test_heads_that_change_places_change_nothing(
    tiny_model: Callable[..., Model], names: Pairs
) -> None:
    """Two heads of a layer, each with pattern, values and output of the other: the same sum."""
    model, (a, b, _) = tiny_model("llama"), HEADS
    clean = see(model, names, [a, b], "clean")
    cells = {
        ("all", "", "a and b"): [(a, clean.z(b), b), (b, clean.z(a), a)],
        ("all", "", "a"): [(a, clean.z(b), b)],
    }
    wide, _ = by_example(Writer(model, names, clean).measure(cells))
    together, alone = np.abs(wide.to_numpy(dtype=float)).max(1)
    assert together < 1e-9
    assert alone > 1e-6


def test_donors_are_of_the_class_or_random(tiny_model: Callable[..., Model], names: Pairs) -> None:
    kin = [Site("z", 2, head=5)]
    found = swaps(tiny_model("llama"), names, HEADS, kin=kin, means=names, draws=2, seed=0).frame
    of = {key: set(part["site"]) for key, part in found.groupby(["method", "direction"])}
    assert set(of) == {(OUT, OUT), *((m, d) for m in SWAPS for d in (CLASS, RANDOM))}
    pairs = {f"{a} < {b}" for a in HEADS for b in HEADS if a != b}
    for which in SWAPS:
        assert of[which, CLASS] == pairs | {f"{TOGETHER} < next"}
        drawn = [site.split(" < ")[1].split(" for ") for site in of[which, RANDOM]]
        donors = [Site.parse(pair[0]) for pair in drawn if len(pair) == 2]
        assert not {*donors} & {*HEADS, *kin}
        assert all(pair[0][0] == pair[1][0] for pair in drawn if len(pair) == 2), "same layer"
        assert len(donors) == 2 * len(pairs)


def test_no_other_head_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    kin = [Site("z", 1, head=j) for j in range(3)]
    assert others(kin, kin[0], 4, 5, generator) == [Site("z", 1, head=3)]
    with pytest.raises(ResultsError, match="all heads of layer 1 are like"):
        others(kin, kin[0], 3, 5, generator)


def made(effect: dict[tuple[str, str, str], list[float]]) -> Results:
    """Results of four examples in four clusters."""
    rows = []
    for (method, direction, site), values in effect.items():
        for i, value in enumerate(values):
            row = dict.fromkeys(COLUMNS, "") | {"method": method, "direction": direction}
            row |= {"site": site, "layer": None, "head": None, "example": i, "cluster": str(i)}
            rows.append(row | {"base": 1.0, "value": 1.0 + value, "effect": value})
    return Results(pd.DataFrame(rows), {})


def test_shares_of_known_effects() -> None:
    both = [-4.0, -2.0, -3.0, -3.0]
    results = made(
        {
            ("pattern", "asked", "1.0"): [-3.0, -1.5, -2.25, -2.25],
            ("values", "asked", "1.0"): [-0.5, -0.5, 0.0, 0.0],
            ("both", "asked", "1.0"): both,
            ("pattern", "moved", "1.0"): both,
            ("values", "moved", "1.0"): both,
            ("both", "moved", "1.0"): [1.0, -1.0, 0.5, -0.5],
        }
    )
    found = shares(results, 0).set_index(["corruption", "part"])
    assert found.loc[("asked", "pattern"), ["value", "low", "high"]].tolist() == [0.75] * 3
    assert found.loc[("asked", "values"), "value"] == pytest.approx(1 / 12)
    total = found.loc["asked"]["value"].sum()
    assert total == pytest.approx(1), "pattern, values and interaction make up both"
    assert found.loc["moved"]["value"].isna().all(), "a share of nothing"
    table = effects(results, 0).set_index(["corruption", "part"])
    assert table.loc[("moved", "interaction"), "value"] == pytest.approx(6)
    assert table.loc[("asked", "pattern - values"), "value"] == pytest.approx(-2)


def test_ratio_does_not_care_for_the_sign() -> None:
    above, below = np.array([1.0, 2.0, 0.5]), np.array([2.0, 3.0, 2.0])
    cluster = np.arange(3)
    plus, minus = (ratio(sign * above, sign * below, cluster, 0) for sign in (1, -1))
    assert plus == minus
    assert plus["value"] == pytest.approx(0.5)
    assert plus["low"] < 0.5 < plus["high"]


def test_what_is_kept_of_known_swaps() -> None:
    out = [-2.0, -2.0, -4.0, -4.0]
    effect = {(OUT, OUT, "1.0"): out, (OUT, OUT, "1.1"): out, (OUT, OUT, TOGETHER): out}
    for which in SWAPS:
        for site in ("1.0 < 1.1", "1.1 < 1.0", f"{TOGETHER} < next"):
            effect[which, CLASS, site] = [0.0] * 4 if which == "QK" else out
        for site in ("1.0 < 1.5 for 1.1", "1.1 < 1.6 for 1.0", f"{TOGETHER} < random 0"):
            effect[which, RANDOM, site] = out if which == "QK" else [x / 2 for x in out]
    table = kept(made(effect), 0).set_index(["site", "swapped", "donor"])["value"]
    for site in ("1.0", "1.1", TOGETHER, "mean"):
        assert table.loc[site].to_dict() == {
            ("QK", CLASS): 1.0,
            ("QK", RANDOM): 0.0,
            ("OV", CLASS): 0.0,
            ("OV", RANDOM): 0.5,
        }


@pytest.mark.plain
@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
def test_heads_that_do_not_write_for_themselves_are_refused(
    family: str, tiny_model: Callable[..., Model], names: Pairs
) -> None:
    """Their layer's output is normed as a whole: no part of it is one head's."""
    model = tiny_model(family)
    with pytest.raises(Unsupported, match="norms the output of its attention.*without norms there"):
        separate_writes(model)
    with pytest.raises(Unsupported, match="norms the output of its attention"):
        parts(model, names, HEADS, IOI)
    assert separate_writes(tiny_model("llama")).facts.n_heads == 6
