"""The doors of the causal methods: wrong arguments are refused in words, before anything runs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doors import complaints

import interp
from interp import Attribution, Model, Pairs, causal
from interp.causal.ranking.recovery import nodes_of


def prompts() -> Pairs:
    return Pairs.from_tokens(
        clean=[[0, 2, 3, 5], [0, 4, 3, 6], [0, 7, 3, 8]],
        corrupt=[[0, 2, 9, 5], [0, 4, 11, 6], [0, 7, 10, 8]],
        correct=[12, 13, 14],
        wrong=[15, 16, 17],
        positions={"name": [2, 2, 2], "end": [3, 3, 3]},
    )


def cases(
    model: Model, pairs: Pairs, scores: Attribution, folder: Path
) -> Iterator[tuple[Callable[..., Any], Mapping[str, Any]]]:
    """A right call of each function and method."""
    of = {"model": model, "pairs": pairs, "metric": "logit_diff"}
    run = {**of, "engine": "auto", "memory": "1GB", "checkpoint": folder / "run"}
    mean = {"reference": "corrupt"}
    positions = {"positions": "end"}
    circuit = interp.circuits.top_circuit(scores, size=4)
    add = interp.interventions.Intervention("1.mlp", interp.interventions.Zero(), "end")
    yield interp.evaluate, {**of, "engine": "auto"}
    yield (
        interp.ablate,
        {
            **{**run, **mean, **positions, "sites": "heads", "method": "zero", "normalise": True},
        },
    )
    yield (
        interp.patch,
        {**run, **positions, "sites": "mlps", "direction": "noise", "normalise": True},
    )
    path = {"senders": "heads", "receivers": "logits", "via": (), "through": "mlps"}
    ends = {"sender_positions": "end", "receiver_positions": "end", "ln": "recompute"}
    yield interp.path_patch, {**run, **path, **ends, "direction": "noise"}
    yield interp.intervene, {**run, "interventions": {"a": [add]}, "hops": (), "base": "clean"}
    yield interp.applied, {"model": model, "interventions": [add]}
    drawn = {"temperature": 1.0, "top_k": 5, "top_p": 0.9, "beams": 1, "length_penalty": 1.0}
    ends = {"seed": 1, "stop": [3], "random": 1, "by_step": "kl"}
    add = interp.interventions.Intervention("1.mlp", interp.interventions.Zero(), "from end")
    said = {"model": model, "prompts": pairs, "interventions": {"a": [add]}, "n": 2}
    yield interp.generate, {**said, **drawn, **ends, "engine": "auto", "memory": "1GB"}
    texts = interp.generate(**said)
    yield texts.score, {"metrics": ["perplexity"]}
    yield texts.text, {"intervention": "a", "example": 0}
    yield texts.by_step, {"of": "log_probs", "seed": 1}
    yield texts.figure, {"metrics": "length"}
    yield interp.Texts, {"frame": texts.frame, "provenance": texts.provenance}
    yield (
        interp.compare,
        {"first": model, "second": model, "sweep": lambda m: interp.patch(m, pairs, ["1.mlp"])},
    )
    kept = interp.compare(model, model, lambda m: interp.patch(m, pairs, ["1.mlp"]))
    yield type(kept), {"first": kept.first, "second": kept.second}
    yield kept.summary, {"seed": 1}
    yield interp.complement, {"model": model, "circuit": ["0.1"], "of": "heads"}
    how = {"ablation": "zero", **mean}
    yield (
        interp.attribute,
        {
            **{**of, **how, "parts": "edges", "method": "eap", "steps": 2},
            **{"positions": "all", "memory": "1GB"},
        },
    )
    yield causal.exact, {**run, **how, "parts": ["0.1", "1.mlp"]}
    yield causal.verify, {**run, **mean, "attribution": scores, "k": 4, "seed": 1}
    size = {"size": 4, "fraction": None, "threshold": None}
    yield (
        interp.circuits.top_circuit,
        {
            **{
                "attribution": scores,
                **size,
                "by": "abs",
                "closure": "greedy",
                "corruption": "names",
            },
        },
    )
    search = {"worse": None, **how, "positions": "all", "corruption": "names"}
    yield interp.circuits.acdc, {**run, **search, "threshold": 0.5}
    yield interp.circuits.acdc_sweep, {**run, **search, "thresholds": [0.5, 1.0]}
    yield interp.circuits.run_circuits, {**run, **mean, "circuits": circuit}
    yield interp.circuits.faithfulness, {**run, **mean, "circuits": {"mine": circuit}}
    yield (
        interp.circuits.faithfulness_curve,
        {
            **{**run, **mean, "attributions": scores, "sizes": [0.1, 1.0], "closure": "greedy"},
            **{"random": 1, "seed": 1},
        },
    )
    sets = {"sets": "random", "n": 2, "candidates": 2, "seed": 1}
    yield interp.circuits.completeness, {**run, **mean, "circuit": circuit, **sets}
    yield interp.circuits.minimality, {**run, **mean, "circuit": circuit, "by": "parts"}
    yield (
        interp.circuits.random_circuits,
        {"circuit": circuit, "facts": model.facts, "n": 2, "seed": 1},
    )
    yield interp.circuits.null_test, {**run, **mean, "circuit": circuit, "n": 2, "seed": 1}
    yield (
        interp.circuits.stability,
        {
            **{"attribution": scores, "choose": lambda a: interp.circuits.top_circuit(a, size=4)},
            **{"n": 3, "seed": 1},
        },
    )
    fit = {"metric": "kl", "steps": 2, "rate": 0.1, "memory": "1GB"}
    optimal = replace(circuit, ablation="optimal")
    yield interp.circuits.fit_optimal, {"model": model, "pairs": pairs, "circuit": optimal, **fit}
    truth = frozenset(scores.parts[:4])
    yield causal.recovery, {"attribution": scores, "truth": truth, "noise": 1e-6}
    yield nodes_of, {"truth": truth}
    found = interp.circuits.null_test(model, pairs, circuit, n=2)
    kept = interp.circuits.faithfulness(model, pairs, circuit)
    yield type(found), {"runs": found.runs}
    yield found.of, {"metric": "logit_diff"}
    yield type(kept), {"runs": kept.runs}
    yield kept.summary, {"seed": 1}
    yield kept.each, {"circuit": "circuit", "metric": "logit_diff"}
    curve = interp.circuits.faithfulness_curve(model, pairs, scores, sizes=[0.1, 1.0], random=1)
    yield curve.table, {"by": "abs", "seed": 1}
    yield curve.areas, {"seed": 1}
    yield causal.verify(scores, model, pairs, k=4).summary, {}


@pytest.mark.plain
def test_a_wrong_argument_is_refused_in_words_before_anything_runs(
    tiny_model: Callable[[str], Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a wrong path may be a right one
    model, pairs = tiny_model("gpt2"), prompts()
    scores = interp.attribute(model, pairs)
    found = complaints(cases(model, pairs, scores, tmp_path), tmp_path)
    assert not found, "\n".join(found)
