"""`explain` computes nothing, and what it promises is what runs."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import interp
from interp import Model, Pairs
from interp.core.errors import InterpError
from interp.core.parts.circuit import Circuit
from interp.core.parts.graph import Graph
from interp.engine.engines.hooked import writes
from interp.engine.engines.replay.engine import Replay
from interp.engine.interventions import Cell, Intervention, Resample
from interp.engine.network.trace import Trace
from interp.engine.plan.cost import trace_bytes
from interp.engine.plan.needed import needed

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


class _Flops(TorchDispatchMode):
    """PyTorch's own formulas, without its record of which module they are of, which takes long."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        made = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=made)
        return made


@pytest.fixture
def fresh(tmp_path) -> Model:
    """A model of which nothing was verified yet."""
    tiny.build("llama").double().save_pretrained(tmp_path / "llama")
    return interp.load(tmp_path / "llama", dtype=torch.float64)


def asked(model: Model, pairs: Pairs) -> Iterator[tuple[str, Callable[..., Any]]]:
    edges = Graph.of(model.facts).edges
    half = Circuit.of(edges[::2], model=model.weight_hash)
    # one forward for each reader that lacks an edge
    few = Circuit.of([e for e in edges if e.reader.layer != 1], model=model.weight_hash)
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
            partial(
                *(interp.circuits.run_circuits, model, pairs, half if engine == "auto" else few),
                engine=engine,
            ),
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


def _forget(model) -> None:
    """What Hugging Face's model said of these prompts: a plan counts its run."""
    model.now().found.pop("said at ends", None)


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
    for engine in ("replay", "hooks"):
        interp.evaluate(fresh, pairs, engine=engine)  # verifies
    for name, call in asked(fresh, pairs):
        if name not in NEAR:
            continue
        plan = interp.explain(call.func, *call.args, **call.keywords)
        _forget(fresh)
        with _Flops() as counter:
            call()
        low, high = NEAR[name]
        assert low <= counter.total / plan.flops <= high, name


@pytest.mark.plain
def test_flops_of_all_are_those_that_run(fresh, pairs):
    """With the traces, the null control and Hugging Face's own run, which stand before."""
    interp.evaluate(fresh, pairs)  # verifies
    for call in (
        partial(interp.ablate, fresh, pairs, "heads", method="zero", positions="end"),
        partial(interp.patch, fresh, pairs, "heads"),
        partial(interp.path_patch, fresh, pairs, senders="heads", receivers="2.3.q"),
    ):
        plan = interp.explain(call.func, *call.args, **call.keywords)
        _forget(fresh)
        with _Flops() as counter:
            call()
        said = sum(batch.flops for batch in (*plan.before, *plan.batches))
        assert abs(said / counter.total - 1) < 0.01


@pytest.mark.plain
def test_passes_of_hooks_are_those_that_run(fresh, pairs, monkeypatch):
    """One for a head, two for each reader of its own, one for a pattern; beside the plain runs and
    the null control of what runs first.
    """
    ran: list[int] = []
    monkeypatch.setattr(writes, "_call", lambda *args: ran.append(1) or CALL(*args))
    edges = Graph.of(fresh.facts).edges
    few = Circuit.of([e for e in edges if e.reader.layer != 1], model=fresh.weight_hash)
    for call, sides, sweeps in (
        (partial(interp.ablate, fresh, pairs, ["1.1"], method="zero"), 1, 1),
        (partial(interp.patch, fresh, pairs, ["1.1.pattern"]), 2, 1),
        (partial(interp.circuits.run_circuits, fresh, pairs, few), 2, 1),
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

    def held(*sites: str) -> int:
        cells = [Cell(s, "all", (Intervention(s, Resample("corrupt")),)) for s in sites]
        sides = needed(facts, cells, "clean", "replay").values()
        return sum(trace_bytes(facts, longest, 8, side) for side in sides)

    rest = ["1.1.q", "1.mlp"]  # which need everything else that these do
    two_sides = 2 * 8 * longest
    assert held("1.1.pattern", *rest) == held(*rest) + two_sides * facts.n_heads * longest
    assert held("1.mlp[3]", *rest) == held(*rest) + two_sides * facts.d_mlp


def test_what_is_filled_in_beforehand_is_seen(fresh, pairs):
    whole = interp.explain(interp.patch, fresh, pairs, "heads", metric="kl")
    call = partial(partial(interp.patch, fresh, metric="kl"), pairs)
    assert interp.explain(call, "heads") == whole
    assert whole.weights > 0


def test_a_trace_holds_what_is_read(fresh, pairs, monkeypatch):
    """Of heads that are exchanged, z of the other run, and what cells join with of their own.

    Each of the layers where that stands, and from the first position that changes.
    """
    traces, right = [], Replay.trace
    one, last = pairs.select([0]), int(pairs.lengths[0]) - 1
    n = fresh.facts.n_layers

    def trace(self: Replay, tokens: torch.Tensor, written: None, **wanted: object) -> Trace:
        traces.append(right(self, tokens, written, **wanted))
        return traces[-1]

    def kept(call: Callable[..., object], *args: object, **options: object) -> list[dict]:
        traces.clear()
        call(fresh, one, *args, **options)
        return [
            {
                kind: (
                    [i for i, x in enumerate(layers) if x.numel()],
                    max(x.shape[1:2] for x in layers),
                )
                for kind, layers in found.kept.items()
            }
            for found in traces
        ]

    monkeypatch.setattr(Replay, "trace", trace)
    every, whole, end = [*range(n)], last + 1, 1
    mid = whole - int(one.at("mid")[0])
    z = {"z": (every, (whole,))}
    assert kept(interp.patch, "heads") == [{"resid_pre": (every, (whole,)), **z}, z]
    past = dict.fromkeys(("k", "v"), (every, (whole,)))
    z = {"z": (every, (mid,))}
    found = kept(interp.patch, "heads", positions="mid")
    assert found == [{"resid_pre": (every, (mid,)), **past, **z}, z]
    z, past = {"z": ([1], (end,))}, {kind: ([1, 2], (whole,)) for kind in ("k", "v")}
    found = kept(interp.patch, ["1.1"], positions="end")
    assert found == [{"resid_pre": ([1], (end,)), **past, **z}, z]
    found = kept(interp.path_patch, senders=["1.1"], receivers="logits")
    assert found == [{"resid_pre": ([1], (end,)), "attn_out": ([1, 2], (end,)), **z}, z]
    places = {"sender_positions": "mid", "receiver_positions": "end"}
    found = kept(interp.path_patch, senders=["0.1"], receivers=["2.3.q"], **places)
    z, q = {"z": ([0], (end,))}, {"q": ([2], (end,))}
    stream = {"resid_pre": ([0, 2], (end,)), "attn_out": ([0, 1, 2], (end,))}
    past = {kind: ([2], (whole,)) for kind in ("k", "v")}
    assert found == [{**stream, **q, **past, **z}, z]


def test_what_has_no_plan_says_so(fresh):
    for call in (
        partial(interp.complement, fresh, "heads"),
        partial(interp.heads.copying_scores, fresh),
    ):
        with _Products() as products, pytest.raises(InterpError, match="has no plan to show"):
            interp.explain(call.func, *call.args)
        assert products.ran == []
