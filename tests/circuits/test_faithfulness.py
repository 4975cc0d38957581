"""Faithfulness, completeness, minimality, nulls and stability: theorems, and what is refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid

import interp
from interp.circuits.discovery.top import top_circuit
from interp.circuits.proof.completeness import completeness, minimality
from interp.circuits.proof.curves import SIZES, cmd, cpr, faithfulness_curve
from interp.circuits.proof.faithfulness import EMPTY, Faithfulness, faithfulness
from interp.circuits.proof.nulls import null_test, random_circuits, stability
from interp.circuits.proof.run import run_circuits
from interp.core.door.door import ArgumentError
from interp.core.errors import ResultsError, SiteError, Unsupported
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.graph import Graph, nodes
from interp.core.tables.attribution import Attribution
from interp.models import compiled
from interp.models.compiled.construction import Key


@pytest.fixture(scope="module")
def model():
    return compiled.build("induction")


@pytest.fixture(scope="module")
def prompts():
    return compiled.pairs("induction", corruption="answer", n=24, seed=0)


@pytest.fixture(scope="module")
def truth(model):
    parts = compiled.truth("induction")[Key("resample", "answer", "all positions")]
    return Circuit.of(parts, model=model.weight_hash)


def every(model, granularity="edges"):
    parts = Graph.of(model.facts).edges if granularity == "edges" else nodes(model.facts)
    return Circuit.of(parts, model=model.weight_hash, granularity=granularity)


@pytest.mark.parametrize("granularity", ["edges", "nodes"])
def test_everything_is_faithful_and_nothing_is_not(model, prompts, granularity):
    whole = every(model, granularity)
    found = faithfulness(model, prompts, {"all": whole, "none": whole.holding(frozenset())})
    table = found.summary().set_index(["circuit", "metric"])
    for metric in ("logit_diff", "kl", "accuracy"):
        for name, ratio in {"all": 1, "none": 0}.items():
            row = table.loc[name, metric]
            assert np.allclose(row[["faithfulness", "low", "high", "median"]], ratio, atol=1e-5)
    assert abs(table.loc["all", "kl"]["value"]) < 1e-6
    assert abs(table.loc["all", "logit_diff"]["difference"]) < 1e-4
    assert np.allclose(found.each("all", "logit_diff"), 1, atol=1e-5)


def test_the_truth_is_faithful_and_random_circuits_are_not(model, prompts, truth):
    """Resample ablation of everything but the true edges leaves the behaviour as it is."""
    found = null_test(model, prompts, truth, n=60, metric=("logit_diff", "accuracy"))
    table = found.summary().set_index("metric")
    assert table.loc["logit_diff", "faithfulness"] == pytest.approx(1, abs=1e-3)
    null = found.of("logit_diff")
    ahead = int((null >= table.loc["logit_diff", "faithfulness"]).sum())
    assert table.loc["logit_diff", "p"] == pytest.approx((1 + ahead) / 61)
    assert table.loc["logit_diff", "percentile"] == pytest.approx(100 * (60 - ahead) / 60)
    assert table.loc["logit_diff", "null"] < 0.5
    again = null_test(model, prompts, truth, n=60, metric=("logit_diff", "accuracy"))
    pd.testing.assert_frame_equal(found.runs.frame, again.runs.frame)
    backward = interp.Results(found.runs.frame[::-1].reset_index(drop=True), {})
    pd.testing.assert_frame_equal(
        replace(found, runs=backward).summary().set_index("metric").loc[table.index], table
    )


def test_the_null_and_the_public_random_circuits_are_the_same(model, prompts, truth):
    few = prompts.select(range(6))
    null = null_test(model, few, truth, n=4, seed=3, metric="logit_diff").runs
    drawn = random_circuits(truth, model.facts, n=4, seed=3)
    named = {f"random {i}": circuit for i, circuit in enumerate(drawn)}
    found = run_circuits(model, few, named).frame.set_index(["site", "example"])["value"]
    mine = null.frame.set_index(["site", "example"])["value"]
    assert np.abs(found - mine.loc[found.index]).max() < 1e-6


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_random_circuits_have_the_size_and_the_layers(model, data):
    granularity = data.draw(st.sampled_from(["edges", "nodes"]))
    parts = sorted(every(model, granularity).parts, key=str)
    places = data.draw(st.sampled_from([("all",), ("end", "rest")]))
    chosen = data.draw(st.sets(st.sampled_from(parts), min_size=1))
    circuit = Circuit.of(
        {Part(part.of, data.draw(st.sampled_from(places))) for part in chosen},
        model=model.weight_hash,
    )

    def profile(one):
        def at(part):
            site = getattr(part.of, "reader", part.of)
            return part.place, -1 if site.layer is None else site.layer

        return sorted(map(at, one.parts))

    for drawn in random_circuits(circuit, model.facts, n=3, seed=data.draw(st.integers(0, 9))):
        assert len(drawn) == len(circuit)
        assert profile(drawn) == profile(circuit)
        drawn.require_like(circuit)


def test_ratios_are_of_means_and_intervals_of_clusters():
    """Against a direct computation; the second prompt's own ratio is 100."""
    frame = pd.DataFrame(
        {
            "site": ["c"] * 4 + [EMPTY] * 4,
            "metric": "logit_diff",
            "example": [0, 1, 2, 3] * 2,
            "cluster": ["a", "a", "b", "c"] * 2,
            "base": [4, 0.01, 2, 3] * 2,
            "value": [3, 1, 1, 2, 0, 0, 0, 1],
            "size": [5] * 4 + [0] * 4,
        }
    )
    columns = [c for c in interp.Results.columns if c not in frame]
    frame = frame.assign(**dict.fromkeys(columns, "")).assign(effect=frame["value"] - frame["base"])
    found = Faithfulness(interp.Results(frame, {}))
    row = found.summary().iloc[0]
    assert row["faithfulness"] == pytest.approx((7 / 4 - 1 / 4) / (9.01 / 4 - 1 / 4))
    assert found.each("c", "logit_diff")[1] == pytest.approx(100)
    assert row["median"] == pytest.approx(np.median([0.75, 100, 0.5, 0.5]))
    left_out = np.array([2 / 4, 5 / 6.01, 5 / 6.01])  # one cluster each
    error = np.sqrt(2 / 3 * np.square(left_out - 6 / 8.01).sum())
    free = 8.01**2 / (4.01**2 + 2**2 + 2**2) - 1  # as if of so many equal clusters, less one
    t = scipy.stats.t.ppf(0.975, free)
    expected = [6 / 8.01 - t * error, 6 / 8.01 + t * error]
    assert row[["low", "high"]].to_list() == pytest.approx(expected)
    assert row["difference"] == pytest.approx(9.01 / 4 - 7 / 4)


def test_the_order_of_the_rows_says_nothing(model, prompts, truth):
    few = prompts.select(range(6))
    made = faithfulness(model, few, {"true": truth, "all": every(model)}, metric=("kl", "accuracy"))
    frame = made.runs.frame
    mixed = frame.sample(frac=1, random_state=0).reset_index(drop=True)
    keys = ["circuit", "metric"]
    tables = [
        Faithfulness(interp.Results(one, made.runs.provenance)).summary().set_index(keys)
        for one in (frame, mixed)
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1].loc[tables[0].index])
    # as many rows each, of other examples
    uneven = frame[(frame["example"] < 3) != (frame["site"] == "all")]
    with pytest.raises(ResultsError, match="not all run on the same examples"):
        Faithfulness(interp.Results(uneven, made.runs.provenance)).summary()


def test_one_cluster_is_shown_without_intervals(model, prompts, truth):
    one = prompts.select([0])
    signed = made_up(model, one, -np.arange(float(len(every(model)))))
    shown = {
        "Faithfulness": faithfulness(model, one, truth),
        "Null": null_test(model, one, truth, n=2),
        "Curve": faithfulness_curve(model, one, signed, sizes=(0.1, 1.0), random=1),
    }
    for name, found in shown.items():
        assert repr(found).startswith(f"{name}, without intervals\nResults: ")


def test_a_null_says_how_much_of_it_is_connected(model, prompts, truth):
    few = prompts.select(range(6))
    table = null_test(model, few, truth, n=20, metric="logit_diff").summary()
    drawn = random_circuits(truth, model.facts, n=20)
    named = {f"random {i}": circuit for i, circuit in enumerate(drawn)}
    runs = run_circuits(model, few, named).frame.drop_duplicates("site")
    assert table["connected"].item() == runs["connected"].mean()
    assert 0 < table["connected"].item() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_nothing_to_explain(tiny_model, pairs, dtype):
    """With equal sides what is left is rounding, also where it happens to have one sign."""
    model = tiny_model("llama", dtype)
    same = replace(pairs, corrupt=pairs.clean.clone(), cluster=tuple("abcde"))
    half = Circuit.of(Graph.of(model.facts).edges[::2], model=model.weight_hash)
    found = faithfulness(model, same, half, metric="logit_diff")
    runs = found.runs
    noise = torch.finfo(dtype).eps * runs.frame["base"].abs()
    emptied = runs.frame["site"] == EMPTY
    signed = runs.frame.assign(value=runs.frame["base"] + noise.where(emptied, 0))
    one_sided = Faithfulness(replace(runs, frame=signed)).summary()
    assert (one_sided["gap_low"] * one_sided["gap_high"] > 0).all()  # an interval without 0
    for summary in (one_sided, found.summary()):
        assert summary["faithfulness"].isna().all()
    other = faithfulness(model, pairs, half, metric="kl").summary()
    assert other["faithfulness"].notna().all()


def test_edges_and_nodes_are_not_judged_by_one_empty_circuit(model, prompts, truth):
    """It would be that of whichever came first."""
    both = {"edges": truth, "nodes": every(model, "nodes")}
    with pytest.raises(Unsupported, match="circuits of edges and of nodes stand in one call"):
        faithfulness(model, prompts, both)


def test_nothing_to_explain_is_said(model, prompts, truth, caplog):
    same = replace(prompts, corrupt=prompts.clean)
    found = faithfulness(model, same, truth, metric="logit_diff").summary()
    assert found[["faithfulness", "low", "high"]].isna().all(axis=None)
    assert "there is nothing that a circuit could explain" in caplog.text
    null = null_test(model, same, truth, n=2, metric=["logit_diff", "accuracy"]).summary()
    assert null[["faithfulness", "null", "p"]].isna().all(axis=None) and null["n"].eq(2).all()
    one = replace(prompts, cluster=("a",) * len(prompts))
    with pytest.raises(ResultsError, match=r"24 prompts are of one cluster.*several templates"):
        faithfulness(model, one, truth, metric="logit_diff").summary()
    with pytest.raises(ResultsError, match=r"no circuit '\(nothing\)'"):
        Faithfulness(run_circuits(model, prompts, truth))


def test_completeness_of_everything_is_an_identity(model, prompts):
    """C = M: whatever K is taken out, the two are the same."""
    few = prompts.select(range(8))
    for sets in ("random", "greedy", {"heads": [str(s) for s in nodes(model.facts)[:2]]}):
        found = completeness(model, few, every(model), sets=sets, n=3, candidates=3)
        assert (found.frame["effect"].abs() < 1e-4).all()
        assert set(found.frame["method"]) == {"completeness resample"}


def test_completeness_by_class_is_two_runs(model, prompts, truth):
    few = prompts.select(range(8))
    head = next(s for s in nodes(model.facts) if any(p.of.writer == s for p in truth.parts))
    found = completeness(model, few, truth, sets={"k": [head]}).frame
    k = {p for p in truth.parts if head in _ends(p)}
    runs = run_circuits(
        model,
        few,
        {"c": truth.holding(truth.parts - k), "m": every(model).holding(every(model).parts - k)},
    ).frame
    assert np.allclose(found["value"], runs.query("site == 'c'")["value"], atol=1e-5)
    assert np.allclose(found["base"], runs.query("site == 'm'")["value"], atol=1e-5)
    assert set(found["size"]) == {len(k)}


def _ends(part):
    """Each head is its own group here."""
    reader = part.of.reader
    own = reader.head if reader.head is not None else reader.group
    node = interp.Site("z", reader.layer, head=own) if own is not None else reader
    return {part.of.writer, node}


def test_every_true_edge_is_needed(model, prompts, truth):
    """And one that is not true is not."""
    idle = next(e for e in Graph.of(model.facts).edges if Part(e) not in truth.parts)
    found = minimality(model, prompts, truth.holding(truth.parts | {Part(idle)}))
    table = found.summary().set_index("site")
    assert abs(table.loc[str(idle), "effect"]) < 1e-4
    assert (table.drop(index=str(idle))["effect"] < -0.1).all()
    whole = run_circuits(model, prompts, truth).frame["value"].to_numpy()
    base = found.frame.query("site == @idle.__str__()")["base"]
    assert np.allclose(base, whole, atol=1e-4)
    by_node = minimality(model, prompts.select(range(4)), truth, by="nodes").frame
    assert set(by_node["site"]) == {str(s) for p in truth.parts for s in _ends(p)} - {
        "embed",
        "logits",
    }


def test_parts_that_cannot_be_taken_out(model, prompts, truth):
    with pytest.raises(SiteError, match=r"'9.9' is no part of the circuit"):
        completeness(model, prompts, truth, sets={"far": ["9.9"]})
    with pytest.raises(ArgumentError, match=r"sets='clever'; sets is one of 'random', 'greedy'"):
        completeness(model, prompts, truth, sets="clever")
    with pytest.raises(ResultsError, match=r"no parts"):
        minimality(model, prompts, truth.holding(frozenset()))


def test_places_are_taken_out_where_they_are(model, prompts):
    """The whole model without an edge at the end, as a lack and as all else by place."""
    names = (*prompts.positions, "rest")
    edges = Graph.of(model.facts).edges
    full = Circuit.of((Part(e, p) for e in edges for p in names), model=model.weight_hash)
    lost = Part(edges[-1], "end")
    found = completeness(model, prompts.select([0, 5]), full, sets={"k": [lost]}).frame
    assert np.allclose(found["value"], found["base"], atol=1e-5)
    cut = interp.ablate(
        model, prompts.select([0, 5]), lost.of, method="resample", positions="end"
    ).frame
    assert np.allclose(found["base"], cut["value"], atol=1e-4)


def made_up(model, prompts, scores):
    edges = [Part(e) for e in Graph.of(model.facts).edges]
    each = np.tile(scores[:, None], (1, len(prompts)))
    note = {"weights": model.weight_hash, "ablation": "resample"}
    return Attribution.of(
        edges, each, cluster=prompts.cluster, method="known", metric="logit_diff", provenance=note
    )


def test_a_curve_of_the_known_circuit(model, prompts, truth):
    edges = Graph.of(model.facts).edges
    best = made_up(model, prompts, np.array([-float(Part(e) in truth.parts) for e in edges]))
    found = faithfulness_curve(model, prompts, best, random=4, closure="none")
    areas = found.areas().set_index(["method", "measure"])["value"]
    share = len(truth) / len(edges)
    table = found.table().query("method == 'known'")
    inside = table["fraction"] >= share
    assert np.allclose(table["value"][inside], 1, atol=1e-3)
    assert areas["known", "CMD"] < 0.5 * areas["random", "CMD"]
    assert areas["known", "CPR"] > areas["random", "CPR"]
    f = table.sort_values("fraction")["value"].to_numpy()
    assert areas["known", "CMD"] == pytest.approx(trapezoid(abs(1 - f), SIZES))
    bands = found.table().query("method == 'random'")
    assert ((bands["low"] <= bands["value"]) & (bands["value"] <= bands["high"])).all()
    with pytest.raises(ResultsError, match=r"two or more that rise"):
        faithfulness_curve(model, prompts, best, sizes=[0.5, 0.1])


def test_a_signed_ranking_knows_where_worse_is(model, prompts, truth):
    """Scores of a loss go up where those of its negative go down: the same circuits."""
    edges = Graph.of(model.facts).edges
    scores = np.array([float(Part(e) in truth.parts) for e in edges])
    known = made_up(model, prompts, -scores)
    loss = Attribution(known.frame.assign(metric="loss", score=scores), known.provenance)
    found = [
        faithfulness_curve(model, prompts, one, sizes=(0.2, 1.0), random=0, closure="none").areas()
        for one in (known, loss)
    ]
    assert found[0].set_index("measure")["value"]["CPR"] == pytest.approx(0.8, abs=1e-3)
    assert np.allclose(found[0]["value"], found[1]["value"])
    with pytest.raises(ResultsError, match="'random 0', and so are the random rankings"):
        faithfulness_curve(model, prompts, {"random 0": known})
    unknown = Attribution(known.frame.assign(score=np.nan), known.provenance)
    with pytest.raises(ResultsError, match="is NaN"):
        faithfulness_curve(model, prompts, unknown)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 1), min_size=len(SIZES), max_size=len(SIZES)))
def test_cpr_and_cmd_add_up_where_f_is_at_most_1(f):
    k = np.array(SIZES)
    assert cpr(k, np.array(f)) + cmd(k, np.array(f)) == pytest.approx(0.999)


def test_stability(model, prompts, truth):
    """The same on every prompt: the same circuit always. Noise: another one each time."""
    edges = Graph.of(model.facts).edges
    rng = np.random.default_rng(0)
    choose = partial(top_circuit, size=8, closure="none")
    known = made_up(model, prompts, rng.standard_normal(len(edges)))
    steady = stability(known, choose, n=10)
    assert (steady.jaccard == 1).all()
    assert steady.pairwise == 1
    assert steady.often.query("chosen")["share"].eq(1).all()
    noise = rng.standard_normal((len(edges), len(prompts)))
    loose = stability(
        Attribution.of(
            known.parts,
            noise,
            cluster=prompts.cluster,
            method="noise",
            metric="logit_diff",
            provenance=known.provenance,
        ),
        choose,
        n=10,
    )
    whole = {str(p) for p in choose(known).parts}
    assert len(whole) == 8
    assert loose.jaccard.mean() < 0.9
    one = Attribution(known.frame, {**known.provenance, "cluster": ["a"] * len(prompts)})
    with pytest.raises(ResultsError, match=r"resamples of 1 clusters"):
        stability(one, choose)
