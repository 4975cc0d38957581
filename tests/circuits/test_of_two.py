"""Circuits of encoder-decoders: what they keep is what the oracle keeps, across cross-attention."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle_of_two import OracleOfTwo

import interp
from interp.circuits import acdc, fit_optimal, random_circuits, run_circuits, top_circuit
from interp.core.errors import PositionError, Unsupported
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.edges import Edge
from interp.core.parts.graph import Graph, nodes
from interp.core.prompts.pairs import Pairs
from interp.engine.circuits.wiring import Wiring
from interp.engine.plan.positions import places
from interp.models.model import Model

FAMILIES = ["t5", "mbart", "bart"]
"""Relative distances, norms before, norms after."""


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Pairs.from_tokens(
        clean=[[3, 4, 5, 6], [7, 8, 9], [6, 12, 3, 5]],
        corrupt=[[3, 11, 5, 6], [7, 12, 4], [6, 13, 3, 9]],
        target=[[5, 7], [8, 6, 9], [9, 4]],
        corrupt_target=[[4, 7], [8, 3, 9], [9, 11]],
        correct=[5, 6, 8],
        wrong=[9, 10, 4],
        positions={"noun": [1, 1, 2], "source": [0, 0, 0]},
        target_positions={"noun": [1, 0, 1], "verb": [1, 2, 1]},
        cluster=["a", "a", "b"],
    )


def drawn(model: Model, seed: int, share: float = 0.6) -> list[Edge]:
    edges = Graph.of(model.facts).edges
    return [
        edges[i] for i in np.flatnonzero(np.random.default_rng(seed).random(len(edges)) < share)
    ]


def circuit(model: Model, parts: object, **how: object) -> Circuit:
    return Circuit.of(parts, model=model.weight_hash, **how)


def value(model: Model, pairs: Pairs, one: Circuit, **how: object) -> np.ndarray:
    found = run_circuits(model, pairs, one, **how).frame
    return found.sort_values("example")["value"].to_numpy()


def ids(pairs: Pairs, side: str, row: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, written = pairs.ids(side, [row])
    return tokens, torch.cat([torch.tensor([[start]]), written], 1)


@pytest.mark.parametrize("ablation", ["resample", "zero"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_circuit_of_edges_is_the_oracle_s(tiny_model, oracle_of_two, pairs, family, ablation):
    """Of all edges at some positions alone, too."""
    model = tiny_model(family)
    judge: OracleOfTwo = oracle_of_two(family)
    everywhere, there = drawn(model, 1), {*drawn(model, 2)}
    kept = [Part(edge, place) for edge in everywhere for place in ("noun", "end", "rest")]
    kept += [Part(edge, "source") for edge in everywhere if edge.writer.stack == "enc"]
    kept += [Part(edge, "verb") for edge in everywhere if edge.writer.stack == "dec"]
    kept += [Part(edge, "noun") for edge in there]
    found = value(model, pairs, circuit(model, kept, ablation=ablation))
    everywhere = {*everywhere}
    start = model.bridge.original_model.config.decoder_start_token_id
    for row in range(len(pairs)):
        ran = ids(pairs, "clean", row, start)
        other = judge.forward(*ids(pairs, "corrupt", row, start))[1]
        table: dict[str, dict] = {}
        for edge in Graph.of(model.facts).edges:
            if edge in everywhere:
                continue
            mask = places(pairs, "noun", [row], edge.writer)[..., None]
            into = other[str(edge.writer)] * (ablation == "resample")

            def cut(x, mask=mask & (edge in there), into=into):
                return torch.where(mask, x, into)

            table.setdefault(str(edge.reader), {})[str(edge.writer)] = cut
        logits = judge.forward(*ran, edges=table)[0][0, -1]
        truth = float(logits[pairs.correct[row]] - logits[pairs.wrong[row]])
        assert abs(found[row] - truth) < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_a_circuit_of_nodes_is_the_oracle_s(tiny_model, oracle_of_two, pairs, family):
    """What enters either stack stays."""
    model = tiny_model(family)
    judge: OracleOfTwo = oracle_of_two(family)
    parts = nodes(model.facts)
    kept = parts[::2]
    found = value(model, pairs, circuit(model, kept))
    lost = {str(site) for site in parts if site not in kept}
    start = model.bridge.original_model.config.decoder_start_token_id
    for row in range(len(pairs)):
        other = judge.forward(*ids(pairs, "corrupt", row, start))[1]
        logits = judge.forward(
            *ids(pairs, "clean", row, start),
            lambda name, x, other=other: other[name] if name in lost else x,
        )[0][0, -1]
        truth = float(logits[pairs.correct[row]] - logits[pairs.wrong[row]])
        assert abs(found[row] - truth) < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_graph_is_the_model_and_an_empty_one_the_other_run(tiny_model, pairs, family):
    model = tiny_model(family)
    plain = interp.evaluate(model, pairs, metric="logit_diff").frame
    clean, corrupt = (
        plain[plain["position"] == side].sort_values("example")["value"].to_numpy()
        for side in ("clean", "corrupt")
    )
    edges = Graph.of(model.facts).edges
    assert np.abs(value(model, pairs, circuit(model, edges)) - clean).max() < 1e-9
    none = circuit(model, (), granularity="edges")
    assert np.abs(value(model, pairs, none) - corrupt).max() < 1e-9
    every = circuit(model, nodes(model.facts))
    assert np.abs(value(model, pairs, every) - clean).max() < 1e-9


def test_a_batch_is_the_loop_and_places_add_up(tiny_model, pairs):
    model = tiny_model("mbart")
    some = drawn(model, 3)
    placed = [Part(edge, place) for edge in some for place in ("noun", "end", "rest")]
    one = circuit(model, placed)
    whole = value(model, pairs, one)
    for row in range(len(pairs)):
        alone = value(model, pairs.select([row]), one)
        assert np.abs(alone - whole[row]).max() < 1e-12
    apart = pairs.select([0, 1])  # in the third row two names mean one token of the encoder
    extra = [Part(edge, place) for edge in some for place in ("noun", "source", "end", "rest")]
    named = [part for part in extra if part.place != "source" or part.of.writer.stack == "enc"]
    named += [Part(edge, "verb") for edge in some if edge.writer.stack == "dec"]
    every = value(model, apart, circuit(model, some))
    assert np.abs(value(model, apart, circuit(model, named)) - every).max() < 1e-9


def test_wires_lead_across(tiny_model):
    """From the encoder to the logits by keys and values, and by nothing else."""
    model = tiny_model("t5")
    wiring = Wiring(model.facts, Graph.of(model.facts))
    begin, end = "enc.0.resid_pre -> ", "dec.0.cross.1 -> logits"
    for first, through in (
        ([begin + "dec.0.cross.kv1.v"], True),
        ([begin + "enc.1.2.q", "enc.1.2 -> dec.0.cross.kv1.k"], True),
        ([begin + "dec.0.cross.kv2.v"], False),
        (["dec.0.resid_pre -> dec.0.1.q", "dec.0.1 -> dec.0.cross.1.q"], True),
        (["enc.1.2 -> dec.0.cross.kv1.v"], False),
    ):
        kept = np.zeros((1, *wiring.graph.feeds.shape), dtype=bool)
        for edge in map(Edge.parse, [*first, end]):
            kept[(0, *wiring.graph.at(edge))] = True
        assert bool(wiring.connected(kept)[0]) == through


def test_what_is_discovered_is_connected(tiny_model, pairs):
    model = tiny_model("t5")
    scores = interp.attribute(model, pairs)
    found = top_circuit(scores, size=40, closure="greedy")
    assert 20 < len(found.parts) <= 40  # without those on no path
    assert {part.of.writer.stack for part in found.parts} == {"enc", "dec"}
    ran = run_circuits(
        model, pairs, {"top": found, "whole": circuit(model, Graph.of(model.facts).edges)}
    )
    assert ran.frame["connected"].all()
    others = random_circuits(found, model.facts, n=3, seed=0)
    for other in others:
        assert len(other.parts) == len(found.parts)


def test_acdc_s_changes_add_up_to_what_its_circuit_says(tiny_model, pairs):
    """Each cut changes the metric from where the last one left it."""
    model = tiny_model("t5")
    few = pairs.select([0, 1])
    found = acdc(model, few, threshold=0.02)
    assert found.ranking.provenance["engine"] == "replay"
    kept = np.array([part in found.circuit for part in found.ranking.parts])
    assert 0 < kept.sum() < len(kept)
    said = run_circuits(model, few, found.circuit, metric="kl").frame.sort_values("example")
    cut = found.ranking.each[~kept].sum(0)
    assert np.abs(said["value"].to_numpy() - cut).max() < 1e-9


def test_what_circuits_of_two_stacks_have_not(tiny_model, pairs):
    model = tiny_model("t5")
    wires = circuit(model, ["enc.0.1 -> dec.1.cross.kv2.k"])
    with pytest.raises(Unsupported, match="hooks engine has no paths and edges in encoder-dec"):
        run_circuits(model, pairs, wires, engine="hooks")
    with pytest.raises(Unsupported, match="or it has two stacks"):
        fit_optimal(model, pairs, replace(wires, ablation="optimal"))
    for part, said in (
        (Part(Edge.parse("enc.0.1 -> enc.1.mlp"), "verb"), "'verb' is one of the target's"),
        (Part(Edge.parse("dec.0.1 -> dec.1.mlp"), "source"), "'source' is one of the encoder's"),
    ):
        with pytest.raises(PositionError, match=said):
            run_circuits(model, pairs, circuit(model, [part]))
