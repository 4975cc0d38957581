"""The study of a circuit, and what its heads do: tables of known numbers, and a tiny model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import interp
from experiments import _circuit, ioi_circuit
from interp.circuits.proof.apart import gained, lost
from interp.circuits.proof.curves import Curve
from interp.circuits.proof.faithfulness import EMPTY, Faithfulness
from interp.circuits.roles import (
    LOOKS,
    Role,
    Roles,
    find_roles,
    looking,
    reported,
    sorted_out,
    written_by,
)
from interp.circuits.study import CHOSEN, Sizes, Study, prove, smallest, some_nodes
from interp.core.parts.circuit import Circuit
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import COLUMNS, Results
from interp.models.model import Model

SMALL = Sizes((0.05, 0.4), steps=2, random=3, band=2, resamples=2, verified=4, removed=2)


def runs(values: dict[str, list[float]], base: list[float], **columns) -> Results:
    """What run_circuits gives: four prompts of two clusters."""
    rows = []
    for name, each in values.items():
        for i, (value, full) in enumerate(zip(each, base, strict=True)):
            row = dict.fromkeys(COLUMNS, "") | {"site": name, "metric": "logit_diff", "size": 1}
            row |= {"example": i, "cluster": "ab"[i // 2], "base": full, "value": value}
            rows.append(row | {"effect": value - full})
    return Results(pd.DataFrame(rows), {})


def test_what_is_lost_is_of_the_circuit_or_of_the_model() -> None:
    values = {
        "circuit": [3.0, 3.0, 3.0, 3.0],
        "circuit - mover": [2.0, 2.0, 2.0, 2.0],
        "model - mover": [1.0, 1.0, 3.0, 3.0],
        EMPTY: [0.0, 0.0, 0.0, 0.0],
    }
    table = lost(Faithfulness(runs(values, [4.0] * 4)), "logit_diff")
    found = table.set_index("of")
    assert found.loc["circuit", ["value", "low", "high"]].tolist() == [0.25] * 3
    off = 12.7062047362 * 0.25  # of Student with one degree of freedom; two clusters
    ends = [0.5, 0.5 - off, 0.5 + off]
    assert found.loc["model", ["value", "low", "high"]].tolist() == pytest.approx(ends)
    assert set(found["without"]) == {"mover"}


def test_areas_differ_by_their_paired_difference() -> None:
    """f is 0.5 or 0.25 at a half of the edges, 1 at all; the area is of that trapezoid."""
    values, about = {}, {}
    for name, f in (("eap", 0.25), ("eap-ig-inputs", 0.5)):
        for by in ("signed", "abs"):
            for share, kept in ((0.5, f), (1.0, 1.0)):
                key = f"{name}, {by}, {share:g}"
                values[key] = [4 * kept] * 4
                about[key] = {"ranking": name, "by": by, "fraction": share}
    values[EMPTY] = [0.0] * 4
    found = runs(values, [4.0] * 4)
    more = pd.DataFrame([about.get(site, {}) for site in found.frame["site"]])
    curve = Curve(Results(found.frame.join(more), {}))
    table = gained(curve, "logit_diff", "eap-ig-inputs", "eap").set_index("measure")
    for end in ("value", "low", "high"):
        assert table.loc["CPR", end] == pytest.approx(0.5 * (0.25 / 2))
        assert table.loc["CMD", end] == pytest.approx(-0.5 * (0.25 / 2))
    areas = curve.areas().pivot(index="method", columns="measure", values="value")
    for measure in ("CPR", "CMD"):
        apart = areas.loc["eap-ig-inputs", measure] - areas.loc["eap", measure]
        assert apart == pytest.approx(table.loc[measure, "value"])


def test_a_circuit_far_above_the_model_is_not_faithful() -> None:
    sizes = ["0.01", "0.1", "0.2", "0.5"]
    assert smallest(pd.Series([0.4, 1.6, 1.1, 1.0], sizes)) == ("0.2", True)
    assert smallest(pd.Series([0.4, 1.6, 0.84, 1.3], sizes)) == ("0.5", False)
    assert smallest(pd.Series([np.nan] * 4, sizes)) == ("0.5", False)


def effects(values: dict[str, float]) -> Results:
    return runs({site: [value] * 4 for site, value in values.items()}, [0.0] * 4)


def test_heads_are_sorted_by_what_they_do() -> None:
    """Heads that meet a rule, and heads that look as it says and do not act so."""
    looks = pd.DataFrame(
        [
            ("9.1", "end", "io"),
            ("9.2", "end", "io"),
            ("9.3", "end", "io"),
            ("7.1", "end", "s2"),
            ("7.2", "end", "s2"),
            ("7.3", "end", "s2"),
            ("5.1", "s2", "s1+1"),
            ("3.1", "s2", "s1"),
            ("2.1", "s1+1", "s1"),
            ("2.1", "s2", "s1"),
            ("2.2", "s1+1", "s1"),
            ("2.3", "s1+1", "s1"),
        ],
        columns=["site", "query", "key"],
    ).assign(value=2 * LOOKS)
    logits = effects({"9.1": -1.0, "9.2": 0.5, "9.3": 0.01, "7.1": -3.0, "7.2": -0.5, "7.3": 0.0})
    queries = effects({"7.1": -1.0, "7.2": 0.2, "7.3": 0.2})
    model = effects({"5.1": -1.0, "3.1": -0.1, "2.1": -0.1, "2.2": -0.01, "2.3": 1.0})
    acts = {"logits": logits, "model": model}
    roles = ioi_circuit.ROLES
    assert sorted_out(roles, looks, {**acts, "queries": queries}, whole=4.0) == {
        "9.1": "name mover",
        "9.2": "negative name mover",
        "7.1": "S-inhibition",  # it acts by the logits too, but this is asked first
        "7.2": "subject suppressor",
        "5.1": "induction",
        "3.1": "duplicate token",
        "2.1": "duplicate token",
    }
    without_queries = sorted_out(roles, looks, acts, whole=4.0)
    assert without_queries["7.1"] == "subject suppressor"


def test_a_role_is_reported_on_other_prompts() -> None:
    """9.1 still looks and helps, 9.2 looks and has no effect, 5.1 looks elsewhere."""
    where = [("end", key) for key in ("io", "s1", "s2")] + [("s2", "s1"), ("s2", "s1+1")]
    where.append(("s1+1", "s1"))
    parts = []
    for site, looked in (("9.1", "io"), ("9.2", "io"), ("5.1", "s1")):
        for query, key in where:
            value = 0.6 if key == looked else 0.05
            found = runs({site: [value] * 4}, [np.nan] * 4).frame
            parts.append(found.assign(method="attention", position=key, receiver=query))
    attention = Results(pd.concat(parts, ignore_index=True), {})
    looks = looking(attention).set_index(["site", "query"])["key"].to_dict()
    assert looks == {
        ("9.1", "end"): "io",
        ("9.2", "end"): "io",
        ("5.1", "end"): "s1",
        ("5.1", "s2"): "s1",
        ("5.1", "s1+1"): "s1",
    }
    of = {"5.1": "induction", "9.2": "name mover", "9.1": "name mover"}
    acts = {"logits": effects({"9.1": -1.0, "9.2": 0.0}), "model": effects({"5.1": -1.0})}
    table = reported(ioi_circuit.ROLES, of, attention, acts, whole=4.0)
    assert table["site"].tolist() == ["9.2", "9.1", "5.1"], "in the order of the roles"
    table = table.set_index("site")
    assert table["holds"].to_dict() == {"9.1": True, "9.2": False, "5.1": False}
    assert table["attention"].to_dict() == {"9.1": 0.6, "9.2": 0.6, "5.1": 0.05}
    assert table["effect"].to_dict() == {"9.1": -1.0, "9.2": 0.0, "5.1": -1.0}
    assert table["through"].tolist() == ["logits", "logits", "model"]
    assert table["looks"].tolist() == ["END -> IO", "END -> IO", "S2 -> S1+1"]


def test_what_a_role_writes() -> None:
    edges = ["1.1 -> logits", "1.1 -> 2.0.q", "embed -> 1.1.q", "1.0 -> logits"]
    circuit = Circuit.of(edges, model="m")
    assert written_by(circuit, {"1.1"}) == Circuit.of(edges[:2], model="m")
    drawn = some_nodes(circuit, 5, 0)
    assert drawn == {"1.0": [Site.parse("1.0")], "1.1": [Site.parse("1.1")]}


@pytest.fixture
def prompts() -> Pairs:
    rng = np.random.default_rng(0)
    clean = rng.integers(2, 29, (12, 6))
    corrupt = clean.copy()
    corrupt[:, 2] = rng.integers(2, 29, 12)
    return Pairs.from_tokens(
        clean=clean.tolist(),
        corrupt=corrupt.tolist(),
        correct=rng.integers(2, 15, 12).tolist(),
        wrong=rng.integers(15, 29, 12).tolist(),
        cluster=list("aabbccddeeff"),
        positions={"third": [2] * 12, "fourth": [3] * 12},
    )


def asked(model: Model, pairs: Pairs, root: Path | None) -> Study:
    run = root and interp.runs.open_run("study", SMALL, root=root)
    return Study(model=model, pairs=pairs, corruption="another third token", sizes=SMALL, run=run)


@pytest.mark.plain
def test_a_study_of_a_tiny_model(
    tiny_model: Callable[..., Model], prompts: Pairs, tmp_path: Path
) -> None:
    """A random model fails the gate; the stages run all the same, and are found again."""
    study = asked(tiny_model("llama"), prompts, tmp_path)
    behaviour = study.behaviour()
    why = _circuit.refused(study, behaviour)
    assert why is not None and "under 75% means that the model does not do the task" in why
    proof = prove(study)
    assert not set(study.discovery.cluster) & set(study.proof.cluster)
    assert proof.circuit.corruption == "another third token"
    assert proof.scores.provenance["pairs"] == study.discovery.fingerprint
    assert proof.null.runs.provenance["pairs"] == study.proof.fingerprint
    whole = proof.curve.runs.query("fraction == 1").frame
    np.testing.assert_allclose(whole["value"], whole["base"], atol=1e-9)
    top = proof.verified.top.scores
    assert (np.abs(top).min() >= np.sort(np.abs(proof.scores.scores))[-4:] - 1e-12).any()
    again = prove(study)
    assert again.circuit == proof.circuit
    pd.testing.assert_frame_equal(again.verified.table, proof.verified.table)
    unkept = prove(asked(study.model, prompts, None))
    assert unkept.circuit == proof.circuit
    pd.testing.assert_frame_equal(unkept.null.summary(), proof.null.summary())
    _circuit.draw(study, proof, {"0.0": "a role of heads that need not be in the circuit"})
    text = _circuit.summarise(study, behaviour, proof)
    assert f"a circuit of {len(proof.circuit)} of {len(proof.scores)} edges" in text
    assert CHOSEN in text and "random circuits" in text
    linked = proof.judged.query("site.str.startswith('random')").frame["connected"].mean()
    assert f"A path leads from the embedding to the logits in {linked:.0%} of them" in text
    assert "ranked at random (2 rankings, " in text
    left = proof.complete.frame[["value", "base"]].mean()
    assert f"They have {left['value']:.2f} and {left['base']:.2f} then" in text

    # looking at the end itself more than at the places before it
    role = Role("itself", ("end", "end"), "logits")
    other = Role("fed", ("end", "third"), "queries")
    found = find_roles(study, proof, [role, other], asked={"end": ["end", "third", "fourth"]})
    heads = {e.writer for e, _ in proof.circuit.parts if e.writer.kind == "z"}
    assert found.heads == sorted(heads)
    path = interp.path_patch(
        study.model, study.discovery, senders=found.heads, sender_positions="end"
    )
    means = path.frame.groupby("site")["effect"].mean()
    seen = interp.attention(
        study.model, study.discovery, found.heads, keys=["end", "third", "fourth"]
    )
    looks = seen.frame.pivot_table(index="site", columns="position", values="value")
    clean = behaviour.query("position == 'clean' and metric == 'logit_diff'").frame
    whole = clean[clean["cluster"].isin(study.discovery.cluster)]["value"].mean()
    expected = {
        str(head)
        for head in found.heads
        if looks.loc[str(head)].idxmax() == "end"
        and looks.loc[str(head), "end"] >= LOOKS
        and -means[str(head)] >= 0.01 * whole
    }
    assert {site for site, name in found.of.items() if name == "itself"} == expected
    assert set(found.carried["without"]) == set(found.of.values())


def test_what_is_said_of_roles() -> None:
    row = {"role": "name mover", "site": "9.1", "looks": "END -> IO", "attention": 0.5}
    row |= {"low": 0.4, "high": 0.6, "through": "logits", "effect": -0.25, "holds": True}
    rows = [row | {"site": f"9.{i}", "holds": i < 2} for i in range(6)]
    carried = [
        {"of": of, "without": "name mover", "value": value, "low": value - 0.1, "high": 1.0}
        for of, value in (("circuit", 0.3), ("model", 0.2))
    ]
    heads = [Site("z", 9, head=i) for i in range(8)]
    of = {row["site"]: "name mover" for row in rows}
    roles = Roles(of, heads, pd.DataFrame(rows), pd.DataFrame(carried))
    text = ioi_circuit.said(roles, "logit difference").splitlines()
    assert text[0].startswith("Of the 8 heads of the circuit 6 are of one of the classes below, by")
    shown = ", ".join(f"9.{i} 0.50 (-0.25 by the logits)" for i in range(4))
    assert text[2] == (
        f"- name mover (END to IO; GPT-2: 11): 6 (2 of them on the other half too): {shown} and 2 "
        "more. Faithfulness lost without them: circuit 0.30 [0.20, 1.00] and model 0.20 [0.10, "
        "1.00]."
    )
    assert text[3] == "- negative name mover (END to IO; GPT-2: 2): none"
    assert text[5] == "- subject suppressor (END to S2; not described in GPT-2): none"
    assert text[-1] == "- none of these: 2"
