"""The plan: what `explain` promises is what runs."""

import math
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from budgets import least
from torch.utils.flop_counter import FlopCounterMode

import interp
from interp.core.errors import InterpError
from interp.core.metrics import METRICS
from interp.core.parts.sites import Site
from interp.engine.engines.choose import choose
from interp.engine.interventions import Cell, Hop, Intervention, Resample
from interp.engine.plan.batches import make_plan
from interp.engine.plan.cost import trace_bytes
from interp.engine.plan.explain import explain
from interp.engine.plan.needed import needed
from interp.engine.sweep.sweep import Sweep
from interp.engine.sweep.traced import Traced

MIXED = {"senders": ["embed", "0.1", "0.mlp", "1.2"], "receivers": ["2.0.q", "2.mlp"]}


def test_explaining_runs_nothing(model, pairs):
    """No forward of the bridge and no metric, whatever the method."""
    choose(model, "auto")  # verifies the engine, once in a model's life
    fired: list[str] = []
    names = ("blocks.0.hook_resid_pre", "blocks.2.hook_resid_post")
    hooks = [(name, lambda x, hook, name=name: fired.append(name)) for name in names]
    asked: list[int] = []
    metric = interp.Metric("asked", lambda x, a: asked.append(1) or x[..., 0])
    with model.bridge.hooks(fwd_hooks=hooks):
        for engine in ("auto", "hooks"):
            options = {"metric": metric, "engine": engine}
            explain(interp.ablate, model, pairs, "heads", method="mean", **options)
            explain(interp.patch, model, pairs, "resid_pre", **options)
            explain(interp.path_patch, model, pairs, **MIXED, **options)
        assert not fired
        assert not asked
        interp.patch(model, pairs, "embed", metric=metric, engine="hooks")
    assert fired
    assert asked


@pytest.mark.parametrize("times", [1, 10, None])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        (interp.ablate, {"sites": "heads", "method": "zero", "positions": ["mid", "all", "end"]}),
        (interp.patch, {"sites": ["resid_pre", "mlps", "0.1.q"], "positions": ["late", "mid"]}),
        (interp.path_patch, MIXED),
    ],
)
def test_every_cell_and_row_once(model, pairs, times, method, options):
    smallest = least(partial(method, model, pairs, **options))
    memory = None if times is None else times * smallest
    plan = explain(method, model, pairs, memory=memory, **options)
    found = [(cell, row) for batch in plan.batches for cell in batch.cells for row in batch.rows]
    cells = {cell for cell, _ in found}
    assert len(found) == len(set(found)) == len(cells) * len(pairs)
    assert cells == set(range(len(cells)))
    assert len(method(model, pairs, **options)) == len(found)  # as many rows as were promised
    for batch in plan.batches:
        assert len({int(pairs.lengths[row]) for row in batch.rows}) == 1
        assert batch.bytes <= plan.budget
    assert plan.least == smallest


def test_a_small_budget_cuts_smaller(model, pairs):
    sizes, smallest = [], least(partial(interp.ablate, model, pairs, "heads", method="zero"))
    for memory in (smallest, 10 * smallest, 1000 * smallest):
        plan = explain(interp.ablate, model, pairs, "heads", method="zero", memory=memory)
        assert plan.budget == memory
        sizes.append(max(len(b.rows) * len(b.cells) for b in plan.batches))
    assert sizes[0] == 1
    assert sizes == sorted(set(sizes))


def test_the_plan_starts_where_something_changes(model, pairs):
    """First layer and first position; along a path into the logits, one position."""
    plan = explain(interp.patch, model, pairs.select([0, 2]), ["1.mlp", "2.0"], positions="mid")
    [batch] = plan.batches
    assert batch.start == int(pairs.at("mid")[[0, 2]].min()) == 2
    assert batch.positions == 7 - 2
    assert batch.layers == (1, 2)
    assert batch.cells == (0, 1)
    path = explain(interp.path_patch, model, pairs.select([1]), senders="heads")
    assert {b.positions for b in path.batches} == {1}
    ended = explain(
        interp.path_patch,
        model,
        pairs.select([1]),
        senders="0.0",
        receivers="2.1.q",
        receiver_positions="late",
    )
    # one position on the way to the receiver, two of nine after it
    assert [(b.start, b.positions) for b in ended.batches] == [(7, 2)]


def test_fewer_flops_than_a_forward_each(model, pairs):
    whole = explain(interp.ablate, model, pairs, "heads", method="zero")
    end = explain(interp.ablate, model, pairs, "heads", method="zero", positions="end")
    path = explain(interp.path_patch, model, pairs, senders="heads")
    assert path.flops < end.flops < whole.flops < whole.naive_flops == end.naive_flops
    hooks = explain(interp.ablate, model, pairs, "heads", method="zero", engine="hooks")
    assert hooks.flops == hooks.naive_flops == whole.naive_flops
    to_heads = explain(interp.path_patch, model, pairs, senders="0.0", receivers="2.0.q")
    to_logits = explain(interp.path_patch, model, pairs, senders="0.0")
    assert to_heads.naive_flops == 2 * to_logits.naive_flops  # the paper's two passes


def test_the_plan_prints_as_a_table(tiny_model, pairs):
    plan = explain(
        interp.ablate, tiny_model("llama"), pairs, "heads", method="zero", positions=["mid", "end"]
    )
    head, columns, *rows, last, machine = str(plan).splitlines()
    assert head.startswith(
        "engine replay, LlamaForCausalLM: 3 layers, 6 heads (2 key-value groups)"
    )
    assert " ".join(columns.split()) == "cells prompts layers positions batches peak MB GFLOP"
    # two lengths, each with "mid" and "end"
    cells = [line.split()[:6] for line in rows]
    assert cells == [
        ["18", "2", "0-2", "8", "from", "1"],
        ["18", "3", "0-2", "5", "from", "2"],
        ["18", "3", "0-2", "1", "from", "6"],
        ["18", "2", "0-2", "1", "from", "8"],
    ]
    assert all(len(line) == len(columns) for line in rows)
    times = float(re.search(r"([\d.]+) times fewer", last)[1])
    assert math.isclose(times, plan.naive_flops / plan.flops, abs_tol=0.05)
    assert last.endswith("MB")
    assert machine.startswith(f"on cpu: weights {plan.weights / 1e6:.1f} MB, up to ")
    assert f"{plan.launches:,} operations launched, {plan.waits:,} waits" in machine


NODES = ("embed", "0.resid_pre", "0.1.q", "1.1.k", "0.2", "2.0", "1.attn", "0.resid_mid", "1.mlp")
PATHS = (
    ("0.0", "logits", "mlps", "all"),
    ("0.0", "logits", "direct", "all"),
    ("0.mlp", "logits", "mlps", "all"),
    ("0.attn", "2.0.q", "mlps", "end"),
    ("0.1", "1.1.k 2.mlp", "direct", "mid"),
    ("embed", "1.mlp 2.0.v", "mlps", "all"),
    ("0.0", "0.mlp", "mlps", "all"),
)


@pytest.mark.sampled(40)
@pytest.mark.parametrize("what", [*NODES, *PATHS], ids=str)
@pytest.mark.parametrize("positions", ["all", "mid", "end"])
def test_flops_are_those_of_the_run(model, pairs, what, positions):
    """Of one cell and two rows, against PyTorch's own count."""
    if isinstance(what, str):
        site, hops = Site.parse(what), ()
    else:
        site, ends, through, at = Site.parse(what[0]), *what[1:]
        hops = (Hop(tuple(map(Site.parse, ends.split())), through, at),)
    made = (Intervention(site, Resample("corrupt"), positions),)
    cell = Cell(str(site), positions, made, hops, site)
    pairs = pairs.select([1, 3])
    sweep = Sweep(model, pairs, [cell], "test", "clean", (METRICS["logit_diff"],), "replay")
    served = choose(model, "replay")
    plan = make_plan(
        *(model.facts, pairs, [cell]),
        budget=1 << 30,
        itemsize=8,
        metrics=(METRICS["logit_diff"],),
        engine="replay",
    )
    [batch] = plan.batches
    with torch.inference_mode():
        block = Traced(sweep, served, [batch], {})
        with FlopCounterMode(display=False) as counter:
            block.run(batch)
    assert plan.flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_calls_without_interventions_have_plans_too(model, pairs):
    """Of a capture the layers that it runs and the bytes that it keeps; two runs to evaluate."""
    early = explain(interp.capture, model, pairs, "0.resid_post")
    whole = explain(interp.capture, model, pairs, "layers")
    once = explain(interp.attention, model, pairs, "heads", keys=["mid"])
    twice = explain(interp.evaluate, model, pairs)
    assert early.flops * 3 == whole.flops == once.flops < twice.flops / 2
    kept = interp.capture(model, pairs, "layers").bytes
    assert sum(batch.bytes for batch in whole.batches) == kept
    assert {row for batch in twice.batches for row in batch.rows} == set(range(len(pairs)))
    assert "layers" in str(early)
    with pytest.raises(InterpError, match="has no plan to show"):
        explain(interp.complement, model, "heads")


def test_naive_flops_are_those_of_the_bridge(model, pairs):
    plan = explain(interp.patch, model, pairs, "mlps")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for row, length in enumerate(pairs.lengths.tolist()):
            model.bridge(pairs.clean[row : row + 1, :length])
    assert plan.naive_flops == pytest.approx(3 * counter.get_total_flops(), rel=0.02)


def test_traces_of_a_7b_fit(model):
    """Both sides of 32 pairs of 512 tokens in bfloat16, heads exchanged everywhere."""
    facts = replace(model.facts, n_layers=32, n_heads=32, n_kv_heads=32, d_model=4096, d_head=128)
    cells = [Cell(str(s), "all", (Intervention(s, Resample("corrupt")),)) for s in ("3.1", "9.7")]
    sides = needed(facts, cells, "clean", "replay").values()
    assert 32 * sum(trace_bytes(facts, 512, 2, held) for held in sides) <= 16.5 * 2**30
