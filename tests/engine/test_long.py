"""Attention of a few queries at a time is attention, and no tensor is as large as a pattern."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from budgets import least
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import interp
from interp.causal import attribute
from interp.core.metrics import METRICS
from interp.core.parts.graph import Graph
from interp.engine import limits
from interp.engine.engines.choose import choose
from interp.engine.interventions import Cell, Intervention, Resample
from interp.engine.plan.batches import Batch
from interp.engine.sweep.sweep import Sweep
from interp.engine.sweep.traced import Traced

FAMILIES = ("llama", "gemma2-window", "gptj", "bert")


class Largest(TorchDispatchMode):
    """The most numbers that any tensor of floats has."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                own = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.size = max(self.size, min(own, leaf.numel()))
        return found


def few(monkeypatch: pytest.MonkeyPatch, scores: int) -> None:
    monkeypatch.setattr(limits, "PROCESSOR", replace(limits.PROCESSOR, scores=scores))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scores", [1, 100])
def test_a_few_queries_at_a_time_change_no_number(tiny_model, pairs, monkeypatch, family, scores):
    model = tiny_model(family)
    metric = "logit_diff" if model.facts.language_model else "cosine"

    def found() -> np.ndarray:
        tables = [
            interp.evaluate(model, pairs, metric=metric),
            interp.ablate(model, pairs, "heads", method="zero", metric=metric),
            interp.patch(model, pairs, ["0.1.q", "1.0"], positions="mid", metric=metric),
            interp.path_patch(
                model, pairs, senders=["0.1"], receivers="1.0.q", through="all", metric=metric
            ),
        ]
        return np.concatenate([table.frame["value"].to_numpy() for table in tables])

    whole = found()
    few(monkeypatch, scores)
    np.testing.assert_allclose(found(), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "gemma2-window", "gptj"])
@pytest.mark.parametrize("scores", [1, 100])
def test_gradients_of_a_few_queries_at_a_time_are_the_same(
    tiny_model, pairs, monkeypatch, family, scores
):
    """With the graphs of all layers held, and made again one by one."""
    model = tiny_model(family)
    methods = ("eap", "eap-ig-activations", "atp*") if scores == 1 else ("eap-ig-inputs",)
    for method in methods:
        call = partial(attribute, model, pairs, method=method, steps=2)
        whole = call().each
        with monkeypatch.context() as patch:
            few(patch, scores)
            patch.setattr(limits, "PROCESSOR", replace(limits.PROCESSOR, mlp=3))
            np.testing.assert_allclose(call().each, whole, rtol=1e-11, atol=1e-12)
            np.testing.assert_allclose(call(memory=least(call)).each, whole, rtol=1e-11, atol=1e-12)


@pytest.mark.plain
def test_attribution_and_circuits_hold_no_pattern_and_no_change_of_every_writer(
    tiny_model, monkeypatch
):
    """Where the memory is short: edges are summed position by position, layers run again."""
    model = tiny_model("llama")
    facts, long = model.facts, 24
    rows = torch.randint(1, tiny.VOCAB, (2, 1, long), generator=torch.Generator().manual_seed(0))
    pairs = interp.Pairs.from_tokens(
        clean=rows[0].tolist(), corrupt=rows[1].tolist(), correct=[3], wrong=[4]
    )
    choose(model, "replay", longest=long)
    few(monkeypatch, facts.n_heads * long)
    call = partial(attribute, model, pairs)
    short = least(call)
    writers, readers = len(Graph.of(facts).writers), len(Graph.of(facts).readers)
    with Largest() as seen:
        call(memory=short)
    layer = long * max(facts.n_heads * facts.d_head, facts.d_mlp, facts.d_model)
    assert seen.size <= max(layer, writers * readers)
    assert seen.size < long * facts.d_model * writers
    assert seen.size < facts.n_heads * long * long
    with Largest() as seen:
        attribute(model, pairs, positions="end")
    assert seen.size < long * facts.d_model * writers


@pytest.mark.plain
def test_a_plain_run_and_a_wave_hold_no_pattern(tiny_model, monkeypatch):
    model = tiny_model("llama")
    heads, long = model.facts.n_heads, 16
    rows = torch.randint(1, tiny.VOCAB, (2, 1, long), generator=torch.Generator().manual_seed(0))
    pairs = interp.Pairs.from_tokens(
        clean=rows[0].tolist(), corrupt=rows[1].tolist(), correct=[3], wrong=[4]
    )
    served = choose(model, "replay", longest=long)  # held against Hugging Face, which has patterns
    few(monkeypatch, heads * long)  # one query at a time
    cell = Cell("1.2", "all", (Intervention("1.2", Resample("corrupt")),))
    sweep = Sweep(model, pairs, [cell], "test", "clean", (METRICS["logit_diff"],), "replay")
    with torch.inference_mode(), Largest() as seen:
        batch = Batch((0,), (0,), 0, long, (0, 2), 0, 0)
        Traced(sweep, served, [batch], {}).run(batch)
    assert 0 < seen.size < heads * long * long
