"""`explain` computes nothing, and what it promises is what runs."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import interp
from interp import Model, Pairs
from interp.core.errors import InterpError
from interp.core.parts.circuit import Circuit
from interp.core.parts.graph import Graph
from interp.engine.engines.hooked import writes

CALL = writes._call


class _Products(TorchDispatchMode):
    """Notes each matrix product, also of a model that nobody hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if any(word in name for word in ("mm", "attention", "einsum", "conv")):
            self.ran.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fresh(tmp_path) -> Model:
    """A model of which nothing was verified yet."""
    tiny.build("llama").double().save_pretrained(tmp_path / "llama")
    return interp.load(tmp_path / "llama", dtype=torch.float64)


def asked(model: Model, pairs: Pairs) -> Iterator[tuple[str, Callable[..., Any]]]:
    half = Circuit.of(Graph.of(model.facts).edges[::2], model=model.weight_hash)
    for engine in ("auto", "hooks"):
        yield (
            f"ablate {engine}",
            partial(interp.ablate, model, pairs, "heads", method="mean", engine=engine),
        )
        yield f"patch {engine}", partial(interp.patch, model, pairs, "1.1.pattern", engine=engine)
        yield (
            f"path {engine}",
            partial(interp.path_patch, model, pairs, senders="heads", engine=engine),
        )
        yield (
            f"circuits {engine}",
            partial(interp.circuits.run_circuits, model, pairs, half, engine=engine),
        )
        yield f"evaluate {engine}", partial(interp.evaluate, model, pairs, engine=engine)
        yield f"capture {engine}", partial(interp.capture, model, pairs, "heads", engine=engine)
    yield "faithfulness", partial(interp.circuits.faithfulness, model, pairs, half)
    yield "acdc", partial(interp.circuits.acdc, model, pairs, threshold=0.1)
    yield "attention", partial(interp.attention, model, pairs, ["1.1"], query="end", keys=["mid"])
    yield "lens", partial(interp.heads.logit_lens, model, pairs)
    yield "dla", partial(interp.heads.direct_logit_attribution, model, pairs)
    for method in ("eap", "eap-ig-inputs", "eap-ig-activations"):
        yield method, partial(interp.attribute, model, pairs, method=method)
    for method in ("atp", "atp*"):
        yield method, partial(interp.attribute, model, pairs, "nodes", method=method)


def test_nothing_computes(fresh, pairs):
    """Not even to verify an engine, of a model that none was verified on."""
    for name, call in asked(fresh, pairs):
        with _Products() as products:
            plan = interp.explain(call.func, *call.args, **call.keywords)
        assert products.ran == [], name
        assert plan.flops > 0
        assert plan.passes > 0
        assert "GFLOP" in str(plan)
    with _Products() as products:
        interp.ablate(fresh, pairs, "heads", method="zero")
    assert products.ran


@torch.no_grad()
def test_nothing_computes_after_a_change(fresh, pairs):
    """Though what was verified of the model no longer holds."""
    calls = dict(asked(fresh, pairs))
    interp.ablate(fresh, pairs, "heads", method="zero")
    for name in ("ablate auto", "path hooks", "capture auto"):
        next(p for p in fresh.bridge.parameters() if p.ndim == 2).mul_(1.1)
        call = calls[name]
        with _Products() as products:
            interp.explain(call.func, *call.args, **call.keywords)
        assert products.ran == [], name


NEAR = {
    "ablate hooks": (1.0, 1.5),  # the plain runs and the null control come to it
    "capture auto": (0.95, 1.05),
    "capture hooks": (0.95, 1.15),  # the bridge makes the logits too
    "attention": (0.95, 1.05),
    "evaluate auto": (0.95, 1.2),
    "evaluate hooks": (0.95, 1.2),
    "circuits hooks": (1.5, 1.7),  # one circuit, and its null control in the rows of one length
    "eap": (0.9, 1.05),
    "eap-ig-inputs": (0.9, 1.05),
    "eap-ig-activations": (0.6, 1.05),  # at most: later layers have less left to run
    "atp": (0.7, 1.05),
    "atp*": (0.9, 1.05),
}


@pytest.mark.plain
@pytest.mark.filterwarnings("ignore:mean ablation")
def test_flops_are_those_that_run(fresh, pairs):
    """Against PyTorch's own count, beside what a plan says that it leaves out."""
    for name, call in asked(fresh, pairs):
        if name not in NEAR:
            continue
        plan = interp.explain(call.func, *call.args, **call.keywords)
        with FlopCounterMode(display=False) as counter:
            call()  # verifies
            before = counter.get_total_flops()
            call()
        low, high = NEAR[name]
        assert low <= (counter.get_total_flops() - before) / plan.flops <= high, name


@pytest.mark.plain
def test_passes_of_hooks_are_those_that_run(fresh, pairs, monkeypatch):
    """One for a head, two for each reader of its own, one for a pattern; beside the plain runs and
    the null control of what runs first.
    """
    ran: list[int] = []
    monkeypatch.setattr(writes, "_call", lambda *args: ran.append(1) or CALL(*args))
    half = Circuit.of(Graph.of(fresh.facts).edges[::2], model=fresh.weight_hash)
    for call, sides, sweeps in (
        (partial(interp.ablate, fresh, pairs, ["1.1"], method="zero"), 1, 1),
        (partial(interp.patch, fresh, pairs, ["1.1.pattern"]), 2, 1),
        (partial(interp.circuits.run_circuits, fresh, pairs, half), 2, 1),
    ):
        plan = interp.explain(call.func, *call.args, **call.keywords, engine="hooks")
        call(engine="hooks")
        ran.clear()
        call(engine="hooks")
        first = [batch.passes for batch in plan.batches][:sweeps]
        blocks = len({batch.rows for batch in plan.batches})
        assert len(ran) == plan.passes + sum(first) + sides * blocks


def test_patterns_and_neurons_count(fresh, pairs):
    """What a trace holds of them is in the bytes: heads * length, and d_mlp, a position."""
    facts, longest = fresh.facts, int(pairs.lengths.max())
    least = {
        sites: interp.explain(interp.patch, fresh, pairs, sites).least
        for sites in ("1.1", "1.1.pattern", "1.mlp[3]")
    }
    rows = 2 * 2 * 8 * facts.n_layers * longest  # what is least holds for both halves of a budget
    assert least["1.1.pattern"] >= least["1.1"] + rows * facts.n_heads * longest
    assert least["1.mlp[3]"] >= least["1.1"] + rows * facts.d_mlp


def test_what_has_no_plan_says_so(fresh):
    for call in (
        partial(interp.complement, fresh, "heads"),
        partial(interp.heads.copying_scores, fresh),
    ):
        with _Products() as products, pytest.raises(InterpError, match="has no plan to show"):
            interp.explain(call.func, *call.args)
        assert products.ran == []
