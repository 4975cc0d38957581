"""Circuits by masks: the whole, the nothing, and any other against what shares no code with it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from budgets import least

import interp
from interp.circuits.proof.run import run_circuits
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.graph import Graph, nodes
from interp.engine.interventions import Intervention, Resample

SUMMED = ("gpt2", "llama", "qwen3", "neox", "gptj")
"""Learned, rotary with grouped queries, normed queries, parallel blocks, interleaved rotation."""
JOINT = ("gemma2-window", "bert")
"""Normed writes, and normed sums: one edge's share depends on the others."""
PLACES = ("mid", "late", "end", "rest")


def some(parts, fraction, seed=0):
    drawn = np.random.default_rng(seed).random(len(parts)) < fraction
    return [part for part, chosen in zip(parts, drawn, strict=True) if chosen]


def circuit(model, parts, ablation="resample", granularity="edges"):
    return Circuit.of(parts, model=model.weight_hash, ablation=ablation, granularity=granularity)


def values(results, name, metric="logit_diff"):
    chosen = results.frame[(results.frame["site"] == name) & (results.frame["metric"] == metric)]
    return chosen["value"].to_numpy()


def by_place(parts):
    return [Part(part, place) for part in parts for place in PLACES]


@pytest.mark.parametrize("family", [*SUMMED, "mistral-window"])
def test_any_circuit_is_what_the_oracle_says(tiny_model, oracle, pairs, family):
    """Write by write: each reader sees the other run's value of what its circuit lacks."""
    model, few, second = tiny_model(family), pairs.select([0, 2]), oracle(family)
    # what both sides begin with is not computed again
    few = replace(few, corrupt=torch.cat([few.clean[:, :2], few.corrupt[:, 2:]], 1))
    graph = Graph.of(model.facts)
    parts = some(graph.edges, 0.6)
    found = run_circuits(model, few, circuit(model, parts))
    assert set(found.frame["engine"]) == {"replay"}
    length = int(few.lengths[0])
    _, other = second.forward(few.corrupt[:, :length])
    edges: dict = {}
    for edge in set(graph.edges) - set(parts):
        value = other[str(edge.writer)]
        edges.setdefault(str(edge.reader), {})[str(edge.writer)] = lambda x, value=value: value
    logits, _ = second.forward(few.clean[:, :length], edges=edges)
    row = torch.arange(2)
    diff = logits[row, -1, few.correct] - logits[row, -1, few.wrong]
    assert np.abs(values(found, "circuit") - diff.numpy()).max() < 1e-9
    assert (found.frame["effect"].abs() > 1e-3).all()


@pytest.mark.parametrize(("family", "ablation"), [("llama", "mean"), ("neox", "zero")])
@pytest.mark.filterwarnings("ignore:.*prompts")
def test_any_circuit_is_the_joint_ablation_of_the_rest(tiny_model, pairs, family, ablation):
    model, few = tiny_model(family), pairs.select([0, 2])
    parts = some(Graph.of(model.facts).edges, 0.6)
    found = run_circuits(model, few, circuit(model, parts, ablation))
    rest = interp.complement(model, parts)
    slow = interp.ablate(model, few, {"rest": rest}, method=ablation)
    assert np.abs(values(found, "circuit") - values(slow, "rest")).max() < 1e-9


@pytest.mark.parametrize("family", [*SUMMED, *JOINT])
def test_everything_is_the_model_and_nothing_is_the_other_run(tiny_model, pairs, family):
    model = tiny_model(family)
    few = pairs.select([0, 2] if family in JOINT else range(5))
    every = Graph.of(model.facts).edges
    sides_of = {"every": "clean", "none": "corrupt"}
    circuits = {"every": circuit(model, every), "none": circuit(model, [])}
    if family in SUMMED:
        sides_of["by place"] = "clean"
        circuits["by place"] = circuit(model, by_place(every))
    found = run_circuits(model, few, circuits, metric=("logit_diff", "kl"))
    plain = interp.evaluate(model, few, metric=("logit_diff", "kl")).frame
    for metric in ("logit_diff", "kl"):
        sides = {
            side: plain[(plain["metric"] == metric) & (plain["position"] == side)]["value"]
            for side in ("clean", "corrupt")
        }
        for name, side in sides_of.items():
            assert np.abs(values(found, name, metric) - sides[side].to_numpy()).max() < 1e-9
    assert np.abs(values(found, "every", "kl")).max() < 1e-12
    assert found.provenance["null"] < 1e-9


@pytest.mark.parametrize(
    ("family", "granularity"), [("llama", "edges"), ("llama", "nodes"), ("gemma2-window", "nodes")]
)
def test_circuits_by_place(tiny_model, pairs, family, granularity):
    """Against the joint ablation, position by position, of what is kept at no name of it."""
    model, few = tiny_model(family), pairs.select([0])
    every = Graph.of(model.facts).edges if granularity == "edges" else nodes(model.facts)
    parts = [Part(e, p) for i, p in enumerate(PLACES) for e in some(every, 0.4, i)]
    found = run_circuits(model, few, circuit(model, parts, granularity=granularity))
    names = {int(at[0]): name for name, at in few.positions.items()}
    lost: dict = {}
    for position in range(int(few.lengths[0])):
        place = names.get(position, "rest")
        kept = {part.of for part in parts if part.place == place}
        for part in set(every) - kept:
            writer, reader = (part.writer, part.reader) if granularity == "edges" else (part, None)
            lost.setdefault((writer, position), []).append(reader)
    cuts = [
        Intervention(writer, Resample("corrupt"), at, None if None in readers else tuple(readers))
        for (writer, at), readers in lost.items()
    ]
    slow = interp.intervene(model, few, {"cuts": cuts})
    assert np.abs(values(found, "circuit") - values(slow, "cuts")).max() < 1e-9


@pytest.mark.parametrize("family", ["llama", "gemma2-window", "bert"])
def test_a_circuit_of_nodes_is_the_ablation_of_the_others(tiny_model, pairs, family):
    model, every = tiny_model(family), nodes(tiny_model(family).facts)
    chosen = {str(f): some(every, f) for f in (0.3, 0.8)}
    found = run_circuits(
        model, pairs, {n: circuit(model, c, "zero", "nodes") for n, c in chosen.items()}
    )
    rest = {n: [str(s) for s in every if s not in c] for n, c in chosen.items()}
    slow = interp.ablate(model, pairs, rest, method="zero")
    for name in chosen:
        assert np.abs(values(found, name) - values(slow, name)).max() < 1e-9


def test_a_position_with_two_names_keeps_what_either_keeps(tiny_model, pairs):
    model = tiny_model("llama")
    few = replace(pairs, positions={**pairs.positions, "last": pairs.positions["end"]})
    every = Graph.of(model.facts).edges
    halves = {"end": every[::2], "last": every[1::2]}
    others = [Part(e, p) for e in every for p in ("mid", "late", "rest")]
    parts = [*others, *(Part(e, p) for p, half in halves.items() for e in half)]
    found = run_circuits(model, few, circuit(model, parts))
    assert (found.frame["effect"].abs() < 1e-9).all()


@pytest.mark.plain
def test_chunks_and_stacks_are_the_whole(tiny_model, pairs, tmp_path):
    model = tiny_model("llama")
    every = Graph.of(model.facts).edges
    chosen = {str(i): circuit(model, some(every, f, i)) for i, f in enumerate((0.1, 0.5, 0.95))}
    pairs = pairs.select([0, 1, 2, 3])
    metrics = ("logit_diff", "next_token_loss", "prob@mid")
    whole = run_circuits(model, pairs, chosen, metric=metrics)
    call = partial(run_circuits, model, pairs, chosen, metric=metrics, checkpoint=tmp_path)
    memory = least(call)
    small = call(memory=memory)
    assert np.abs(whole.frame["value"] - small.frame["value"]).max() < 1e-9
    written = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(written) > 3
    again = call(memory=memory)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == written
    assert (again.frame["value"] == small.frame["value"]).all()
    for name, one in chosen.items():
        alone = run_circuits(model, pairs, {name: one}, metric="next_token_loss")
        assert (
            np.abs(values(alone, name, metrics[1]) - values(whole, name, metrics[1])).max() < 1e-9
        )


def test_layers_before_the_first_cut_are_the_clean_run(tiny_model, pairs):
    """A circuit that lacks one late edge, against the ablation of that edge."""
    model = tiny_model("llama")
    every = Graph.of(model.facts).edges
    for edge in ("1.2 -> 2.3.q", "0.mlp -> 2.kv1.v"):
        found = run_circuits(model, pairs, circuit(model, [e for e in every if str(e) != edge]))
        slow = interp.ablate(model, pairs, edge, method="resample")
        assert np.abs(values(found, "circuit") - values(slow, edge)).max() < 1e-9


@pytest.mark.real
def test_a_real_model_with_nothing_is_the_corrupt_run(smollm):
    """In float32; that with everything it is itself, the null control has seen."""
    few = interp.datasets.ioi(smollm, n=2, seed=0)
    *most, last = Graph.of(smollm.facts).edges
    found = run_circuits(
        smollm, few, {"one": circuit(smollm, [last]), "all but one": circuit(smollm, most)}
    )
    plain = interp.evaluate(smollm, few, metric="logit_diff").query("position == 'corrupt'").frame
    # what the last MLP reads is the corrupt run's, and so is what it says
    assert np.abs(values(found, "one") - plain["value"].to_numpy()).max() < 1e-3
    slow = interp.ablate(smollm, few, str(last), method="resample").frame["value"].to_numpy()
    assert np.abs(values(found, "all but one") - slow).max() < 1e-3
    assert found.provenance["null"] < 1e-3
