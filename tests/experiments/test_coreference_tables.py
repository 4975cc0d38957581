"""Tables of the coreference experiment, on small ones made by hand."""

import numpy as np
import pandas as pd
import pytest
from made_results import results

from experiments.coreference.look import acted_on, best_heads
from experiments.coreference.order import ORDER, expected_layers, of_order, over_seeds
from experiments.coreference.panel import (
    ATTENDED,
    BEYOND,
    CONTROLLED,
    DECODABLE,
    ERASED,
    NAMING,
    PROBE,
    PRONOUN,
    USES,
    differences,
    levels,
    side_by_side,
    used,
)
from experiments.coreference.report import left_there, looks_there, loses
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.probing.ask.coreference import TASK


def clean(answer: str, value: float) -> Results:
    done = results(f"say {answer}", "0.0", [value] * 4, position="clean")
    return Results(done.frame.assign(base=np.nan, effect=np.nan), {})


DOES = Results.concat([clean("pronoun", 2.0), clean("antecedent", 4.0)])


DRAWN = [2.2, 1.8, 2.2, 1.8], [2.1, 1.9, 2.1, 1.9], [1.8, 2.2, 1.8, 2.2]


def interventions() -> tuple[Results, Results]:
    """Of 2 logits saying the pronoun, of 4 naming the one who is meant."""
    erased = [
        results("erase leace", "1.resid_post", [0.5, 1.5, 1.0, 1.0], base=2.0, position="cue"),
        results("erase leace", "3.resid_post", [1.9, 1.9, 2.1, 2.1], base=2.0, position="cue"),
        *(
            results("erase same variance", site, value, base=2.0, position="cue", draw=i)
            for site in ("1.resid_post", "3.resid_post")
            for i, value in enumerate(DRAWN, start=1)
        ),
        results("erase leace", "1.resid_post", [0.0, 0.0, 0.0, 0.0], base=2.0, position="end"),
    ]
    acts = [
        results("mean of best, say antecedent", "1.2", [3.0, 3.0, 1.0, 1.0], base=4.0),
        results("mean of best, say pronoun", "1.2", [3.0, 3.0, 3.0, 3.0], base=2.0),
    ]
    return Results.concat(erased), Results.concat(acts)


@pytest.mark.plain
def test_what_is_used_is_the_share_that_is_lost():
    table = used(*interventions(), DOES)
    value = table.set_index(["method", "couples", "layer"])["value"]
    assert value["erase leace, at the noun", "all", 2] == pytest.approx(0.5)  # 2 -> 1, of 2
    assert value["erase leace, at the noun", "all", 4] == pytest.approx(0)
    assert value["erase same variance, at the noun", "all", 2] == pytest.approx(0)
    assert value["erase leace, at the end", "all", 2] == pytest.approx(1)
    # a head of layer 1 stands at the stream after it; its share is of the 4 logits of its answer
    assert value["mean of best, say antecedent", "all", 2] == pytest.approx(0.5)
    # what makes the model surer loses less than nothing
    assert value["mean of best, say pronoun", "all", 2] == pytest.approx(-0.5)
    assert (table["low"] <= table["value"] + 1e-12).all()
    assert (table["value"] <= table["high"] + 1e-12).all()
    row = table.set_index(["method", "couples", "layer"]).loc[
        ("erase leace, at the noun", "all", 2)
    ]
    assert row["low"] == pytest.approx(0.25, abs=0.13) and row["clusters"] == 4


def test_halves_of_the_couples_add_up_to_all():
    table = used(*interventions(), DOES, seed=3)
    of = {name: part.reset_index(drop=True) for name, part in table.groupby("couples")}
    assert set(of) == {"all", "choose", "report"}
    assert (of["choose"]["clusters"] == 2).all() and (of["report"]["n"] == 2).all()
    both = (of["choose"]["value"] + of["report"]["value"]) / 2
    np.testing.assert_allclose(both, of["all"]["value"], atol=1e-12)


def scores(cells) -> Scores:
    """Rows of (totals by document, columns); ten examples in each document."""
    parts = []
    for totals, columns in cells:
        values = np.concatenate([np.arange(10) < total for total in totals]).astype(float)
        documents = np.repeat([f"d{i}" for i in range(len(totals))], 10)
        parts.append(Scores.of(values, documents, provenance={}, **columns))
    return Scores.concat(parts)


def decoded() -> Scores:
    span = {"task": TASK, "probe": "span pair", "model": "trained"}
    at = {layer: {"site": f"{layer}.resid_pre", "layer": layer} for layer in (0, 2)}
    return scores(
        [
            ([6, 6], span | at[0]),
            ([9, 7], span | at[2]),
            ([5, 5], span | at[0] | {"labels": "control"}),
            ([6, 6], span | at[2] | {"labels": "control"}),
            ([10, 10], span | at[2] | {"subset": "dev"}),
            ([5, 6], span | at[2] | {"model": "random"}),
            ([7, 6], {"task": TASK, "probe": "bilinear", "model": "trained"} | at[2]),
            ([6, 5], {"task": TASK, "probe": "head match"}),
            ([4, 5], {"task": TASK, "probe": "head match", "subset": "pronoun"}),
            (
                [3, 4],
                {"task": PRONOUN, "probe": "attention", "model": "trained", "subset": "report"}
                | {"site": "1.2", "layer": 1, "head": 2},
            ),
            ([2, 2], {"task": PRONOUN, "probe": "nearest mention", "subset": "report"}),
            ([9, 9], {"task": PRONOUN, "probe": "nearest mention", "subset": "choose"}),
            ([7, 7], {"task": CONTROLLED, "probe": "head match", "subset": "report"}),
            (
                [1, 1],
                {"task": TASK, "probe": "full mix", "metric": "centre of gravity"},
            ),
        ]
    )


@pytest.mark.plain
def test_side_by_side_is_one_row_for_each_curve_and_layer():
    table = side_by_side(decoded(), used(*interventions(), DOES))
    found = table.set_index(["panel", "curve", "layer"])
    assert found.index.is_unique
    assert found.loc[(DECODABLE, PROBE, 2), "value"] == 0.8
    assert found.loc[(DECODABLE, PROBE, 0), "value"] == 0.6
    assert found.loc[(DECODABLE, "control task", 2), ["value", "control"]].tolist() == [0.6, PROBE]
    assert found.loc[(DECODABLE, "untrained model", 2), "value"] == 0.55
    assert found.loc[(ATTENDED, "best head, novels", 2), "value"] == 0.35  # of layer 1: after it
    assert found.loc[(ERASED, "erased at the noun", 2), "value"] == pytest.approx(0.5)
    control = found.loc[(ERASED, "same variance, at the noun", 2)]
    assert control["control"] == "erased at the noun" and control["site"] == "1.resid_post"
    assert found.loc[(NAMING, "mean at the pronoun", 2), "value"] == pytest.approx(0.5)
    assert len(found) == 5 + 1 + 5 + 2 and (found["value"] <= 1).all()
    assert [*dict.fromkeys(table["panel"])][:3] == [DECODABLE, ATTENDED, ERASED]


def test_every_control_is_of_a_curve_of_its_panel():
    for curve in USES.values():
        names = {other.name for other in USES.values() if other.panel == curve.panel}
        assert curve.control in {*names, ""} and curve.control != curve.name
    own = [curve for curve in USES.values() if not curve.control]
    assert {(c.panel, c.name) for c in own} == {
        (c.panel, c.control) for c in USES.values() if c.control
    }  # each has one


def test_levels_are_methods_without_a_model():
    found = levels(decoded()).set_index(["panel", "curve"])["value"]
    assert found.to_dict() == {
        (DECODABLE, "head match"): 0.55,
        (ATTENDED, "nearest mention"): 0.2,
    }


@pytest.mark.plain
def test_differences_are_paired():
    table = differences(decoded(), used(*interventions(), DOES))
    selective = table[table["panel"] == BEYOND].set_index("layer")
    assert selective["curve"].eq(PROBE).all()
    assert selective["value"].to_dict() == pytest.approx({0: 0.1, 2: 0.2})
    ours = table[table["panel"] == f"{BEYOND}: {ERASED}"].query("layer == 2").set_index("couples")
    assert set(ours.index) == {"all", "choose", "report"}
    assert ours.loc["all", "value"] == pytest.approx(0.5)
    assert 0 < ours.loc["all", "p"] < 0.05 and ours.loc["all", "low"] > 0


@pytest.mark.plain
def test_a_head_is_beside_all_others():
    others = [
        results("mean of others, say antecedent", "1.2", [4 - x] * 4, base=4.0, draw=i)
        for i, x in enumerate((0.0, 0.1, 0.2), start=1)
    ]
    erased, acts = interventions()
    table = used(erased, Results.concat([acts, *others]), DOES).query("couples == 'all'")
    at = table.set_index("method")
    assert at.loc["mean of others, say antecedent", "value"] == pytest.approx(0.1 / 4)
    less = at.loc["mean of best - others, say antecedent"]
    assert less["value"] == pytest.approx((2 - 0.1) / 4) and less["draws"] == 3
    assert "mean of best - others, say pronoun" not in at.index  # it has no others here


def looked(right: list[int], baseline: list[int]) -> Scores:
    cells = []
    for subset in ("choose", "report"):
        columns = {"task": PRONOUN, "subset": subset}
        head = {"probe": "attention", "model": "trained", "layer": 0}
        cells.append((right, columns | head | {"site": "0.3", "head": 3}))
        cells.append(([0] * len(right), columns | head | {"site": "0.4", "head": 4}))
        cells.append((baseline, columns | {"probe": "nearest mention"}))
    return scores(cells)


def test_a_head_is_named_as_looking_only_if_it_is_better():
    better = looks_there(looked([9] * 8, [4] * 8), PRONOUN)
    assert better.startswith("In novels 0.3 looks from a pronoun to its antecedent: 0.90")
    assert "nearest mention 0.40" in better and "over all 2 heads" in better
    for right in ([4] * 8, [1] * 8):  # as good, and much worse
        text = looks_there(looked(right, [4] * 8), PRONOUN)
        assert text.startswith("In novels no head is shown to look") and "0.3" in text


def test_the_best_head_of_all_is_acted_on_and_is_chosen_on_its_half():
    """Layers 0 to 4; what a head does on the half that is reported chooses nothing."""
    cells = []
    for layer in range(5):
        for head in range(2):
            columns = {"task": PRONOUN, "probe": "attention", "model": "trained"}
            columns |= {"site": f"{layer}.{head}", "layer": layer, "head": head}
            right = 9 if (layer, head) == (1, 1) else 3 + head
            cells.append(([right, right], columns | {"subset": "choose"}))
            cells.append(([10 - right] * 2, columns | {"subset": "report"}))
    cells.append(([5, 5], {"task": PRONOUN, "probe": "nearest mention", "subset": "report"}))
    looks = scores(cells)
    assert acted_on(looks, every=2) == ["0.1", "1.1", "2.1", "4.1"]
    assert acted_on(looks, every=9) == ["1.1", "4.1"]
    best = best_heads(looks, PRONOUN)
    assert set(best.frame["subset"]) == {"report"}
    assert best.frame["site"].dropna().unique().tolist() == [
        *(f"{layer}.1" for layer in range(5)),
        "",
    ]


def cumulative(task: str, seed: int, curve: list[int], documents: int = 6):
    columns = {"task": task, "probe": "cumulative", "model": "trained", "subset": f"seed {seed}"}
    return [
        ([right] * documents, columns | {"site": f"{5 * i}.resid_pre", "layer": 5 * i})
        for i, right in enumerate(curve)
    ]


def ordered(*curves: list[list[int]]) -> Scores:
    cells = []
    for task, trainings in zip(ORDER, curves, strict=True):
        for seed, curve in enumerate(trainings):
            cells += cumulative(task, seed, curve)
    gravity = [
        Scores.of(
            np.arange(len(curves[0])) + float(i),
            [f"seed {s}" for s in range(len(curves[0]))],
            task=task,
            probe="full mix",
            metric="centre of gravity",
            provenance={},
        )
        for i, task in enumerate(ORDER)
    ]
    return Scores.concat([scores(cells), *gravity])


def test_expected_layers_by_hand():
    """Probes at layers 0, 5 and 10: all that is gained at the first step is gained at layer 5."""
    order = ordered([[2, 6, 6], [2, 6, 6]], [[2, 4, 6], [2, 2, 6]], [[2, 2, 6], [2, 2, 6]])
    table = expected_layers(order)
    alone = table[table["before"] == ""].set_index("task")
    assert alone["value"].tolist() == pytest.approx([5, 8.75, 10])  # 2 3 6: (5 + 3 * 10) / 4
    assert alone["seed_low"].tolist() == pytest.approx([5, 7.5, 10])
    assert alone["seed_high"].tolist() == pytest.approx([5, 10, 10])
    assert (alone["seeds"] == 2).all()
    assert alone["gravity"].tolist() == [0.5, 1.5, 2.5]
    assert alone["gravity_low"].tolist() == [0, 1, 2]
    gaps = table[table["before"] != ""].set_index("task")
    assert gaps["value"].tolist() == pytest.approx([3.75, 1.25])
    assert gaps["seed_low"].tolist() == pytest.approx([2.5, 0])
    assert gaps["seed_high"].tolist() == pytest.approx([5, 2.5])
    text = of_order(table)
    assert "each trained 2 times" in text
    assert f"{ORDER[0]} is earlier than {ORDER[1]} (by 3.8" in text
    # documents agree, but one training says otherwise
    assert f"{ORDER[1]} is not told apart from {ORDER[2]}" in text
    pooled = over_seeds(order).query(f"task == '{ORDER[1]}' and layer == 5").summary()
    assert pooled["value"].iloc[0] == 0.3 and pooled["n"].iloc[0] == 120


def test_the_order_of_layers_that_add_nothing_is_not_said():
    text = of_order(expected_layers(ordered([[2, 6, 6]], [[4, 4, 4]], [[6, 6, 2]])))
    assert "undefined (the layers add nothing)" in text
    assert f"{ORDER[0]} and {ORDER[1]} cannot be compared" in text
    later = of_order(expected_layers(ordered([[2, 2, 6]], [[2, 6, 6]], [[2, 6, 6]])))
    assert f"{ORDER[0]} is later than {ORDER[1]} (by -5.0" in later


def test_the_layer_is_chosen_on_the_other_half():
    rows = [
        {"method": method, "couples": couples, "layer": layer, "value": value}
        for method in (
            "mean of best, say antecedent",
            "mean of others, say antecedent",
            "mean of best - others, say antecedent",
        )
        for couples, values in (("all", (0.5, 0.6)), ("choose", (0.7, 0.2)), ("report", (0.3, 0.9)))
        for layer, value in zip((2, 4), values, strict=True)
    ]
    table = pd.DataFrame(rows).assign(low=0.0, high=1.0, p=0.125, site="1.2")
    text = loses(table, "mean of best, say antecedent", decoded())
    assert "takes 0.30 [0.00, 1.00] of the logit difference after layer 2 (1.2)" in text
    assert "other heads of the layer take 0.30" in text and "(p = 0.12)" in text


def test_an_erasure_is_called_gone_only_if_no_probe_reads_it():
    def reads(before: int, after: int, distance: int = 1) -> Scores:
        columns = {"task": "gender at the noun", "site": "1.resid_post", "layer": 1}
        linear = columns | {"probe": "linear"}
        left = columns | {"probe": "class means", "subset": "after", "metric": "distance left"}
        return scores(
            [
                ([before] * 2, linear | {"subset": "before"}),
                ([after] * 2, linear | {"subset": "after"}),
                ([distance] * 2, left),
            ]
        )

    method = "erase leace, at the noun"
    assert left_there(reads(10, 5), method, 2).startswith("it is gone: a linear probe")
    assert "lower bound" in left_there(reads(10, 8), method, 2)
    assert "lower bound" in left_there(reads(10, 5, distance=4), method, 2)
    assert "hardly anything to erase" in left_there(reads(6, 5), method, 2)
